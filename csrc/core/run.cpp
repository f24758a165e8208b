#include "run.h"

#include <algorithm>
#include <memory>
#include <new>
#include <thread>

namespace lnrnn {

void give_way() { std::this_thread::yield(); }

namespace {

// Products smaller than this (multiplications of a call) are not worth a second thread.
constexpr double worth_a_thread = 2e5;
constexpr std::align_val_t line{64};

struct Free {
    void operator()(void* p) const { ::operator delete(p, line); }
};

template <class T>
using Buffer = std::unique_ptr<T, Free>;

template <class T>
Buffer<T> allocate(int64_t n) {
    return Buffer<T>(static_cast<T*>(::operator new(size_t(std::max<int64_t>(n, 1)) * sizeof(T),
                                                    line)));
}

// How the rows are divided: into `blocks` for one thread each, or one block for a team of all.
struct Plan {
    int blocks, team;

    template <class T>
    Plan(const Job<T>& job, int threads) : blocks(1), team(1) {
        const double work = double(job.n.T) * job.n.B * job.n.H * job.wide();
        if (threads == 1 || work < worth_a_thread) return;
        // fewer rows than threads would each stream the whole matrix; a team streams it once
        if (job.n.B <= threads)
            team = threads;
        else
            blocks = threads;
    }
};

// Pack one matrix; `back` packs its transpose.
template <class T>
Buffer<T> pack(const Kernel<T>& kernel, const Job<T>& job, Pool& pool, int64_t first_gate,
               int64_t gates, bool back) {
    const int64_t H = job.n.H, columns = gates * H, wide = job.wide();
    // the element (k, n) of U is `down` k + `across` n away from its first
    const int64_t down = job.turned ? 1 : wide, across = job.turned ? H : 1;
    const T* m = job.weights.recurrent + first_gate * H * across;
    const int64_t K = back ? columns : H, N = back ? H : columns;
    Buffer<T> packed = allocate<T>(kernel.packed_size(K, N));
    const int64_t panels = kernel.panels(N);
    const int threads = K * N < 1 << 16 ? 1 : pool.threads();
    pool.run(threads, [&](int rank, int size) {
        kernel.pack(m, K, N, back ? across : down, back ? down : across, panels * rank / size,
                    panels * (rank + 1) / size, packed.get());
    });
    return packed;
}

// Run `work` for every worker of a plan; returns their memories, which start with their sums.
template <class T>
Buffer<T> run(const Kernel<T>& kernel, const Job<T>& job, Pool& pool, const Plan& plan,
              void (*work)(const Job<T>&, const Worker<T>&), int64_t& memory) {
    const int64_t rows = (job.n.B + plan.blocks - 1) / plan.blocks;
    memory = kernel.memory(job, rows);
    const int64_t shared = kernel.shared(job, rows);
    const int workers = std::max(plan.blocks, plan.team);
    Buffer<T> own = allocate<T>(memory * workers), common = allocate<T>(shared * plan.blocks);
    Meeting meeting;
    pool.run(workers, [&](int rank, int size) {
        if (plan.team > 1) {
            work(job, {0, job.n.B, rank, size, &meeting, own.get() + rank * memory, common.get()});
            return;
        }
        for (int i = rank; i < plan.blocks; i += size)
            work(job, {job.n.B * i / plan.blocks, job.n.B * (i + 1) / plan.blocks, 0, 1, &meeting,
                       own.get() + i * memory, common.get() + i * shared});
    });
    return own;
}

// The sums of all blocks, in their order, so that the result does not depend on the threads' pace.
template <class T>
void add_up(const Job<T>& job, const T* sums, int blocks, int64_t memory) {
    const SumsLayout at(job.wide(), job.n.H);
    auto total = [&](T* to, int64_t from, int64_t n) {
        if (!to) return;
        for (int64_t j = 0; j < n; ++j) {
            T sum = 0;
            for (int i = 0; i < blocks; ++i) sum += sums[i * memory + from + j];
            to[j] = sum;
        }
    };
    const Gradients<T>& g = job.grad;
    const int64_t wide = job.wide(), H = job.n.H;
    total(g.bias_h, at.bias_h, wide);
    total(g.gain_x, at.gain_x, wide), total(g.shift_x, at.shift_x, wide);
    total(g.gain_h, at.gain_h, wide), total(g.shift_h, at.shift_h, wide);
    total(g.gain_sum, at.gain_sum, wide), total(g.shift_sum, at.shift_sum, wide);
    total(g.gain_c, at.gain_c, H), total(g.shift_c, at.shift_c, H);
}

}  // namespace

template <class T>
void forward(const Isa& isa, Job<T> job, Pool& pool) {
    if (job.n.B == 0) return;
    const Kernel<T>& kernel = isa.kernel<T>();
    const Plan plan(job, pool.threads());
    const bool two = job.spec.two_products();
    const Buffer<T> first = pack(kernel, job, pool, 0, job.early_gates(), false);
    const Buffer<T> second = two ? pack(kernel, job, pool, 2, 1, false) : nullptr;
    job.packed = {first.get(), second.get(), nullptr, nullptr};
    int64_t memory;
    run(kernel, job, pool, plan, kernel.forward, memory);
}

template <class T>
void backward(const Isa& isa, Job<T> job, Pool& pool) {
    if (job.n.B == 0) {
        add_up<T>(job, nullptr, 0, 0);
        return;
    }
    const Kernel<T>& kernel = isa.kernel<T>();
    const Plan plan(job, pool.threads());
    const bool two = job.spec.two_products(), again = two || !job.out.s;
    const int64_t early = job.early_gates();
    const Buffer<T> first = again ? pack(kernel, job, pool, 0, early, false) : nullptr;
    const Buffer<T> second = two ? pack(kernel, job, pool, 2, 1, false) : nullptr;
    const Buffer<T> first_back = pack(kernel, job, pool, 0, early, true);
    const Buffer<T> second_back = two ? pack(kernel, job, pool, 2, 1, true) : nullptr;
    job.packed = {first.get(), second.get(), first_back.get(), second_back.get()};
    int64_t memory;
    const Buffer<T> own = run(kernel, job, pool, plan, kernel.backward, memory);
    add_up(job, own.get(), plan.blocks, memory);
}

template void forward<float>(const Isa&, Job<float>, Pool&);
template void forward<double>(const Isa&, Job<double>, Pool&);
template void backward<float>(const Isa&, Job<float>, Pool&);
template void backward<double>(const Isa&, Job<double>, Pool&);

}  // namespace lnrnn
