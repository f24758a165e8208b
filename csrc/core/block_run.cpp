#include "block_run.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "division.h"
#include "memory.h"

namespace lnrnn {

namespace {

// How the work is divided: the rows into groups, each for a worker by itself; or the units into parts
// of whole blocks, one for each worker.
struct BlockPlan {
    int groups = 1, parts = 1;

    template <class T>
    BlockPlan(const Kernel<T, T>& kernel, const BlockKernel<T>& block, const BlockSizes& n, int threads) {
        const double weights = double(n.H) * (2 * n.P + (n.L + 3) * n.one());
        if (threads == 1 || weights * n.T * n.B < worth_a_thread) return;
        const int64_t most = std::min<int64_t>(threads, n.K);
        // a part's columns of every product are whole panels
        const bool may = most > 1 && n.one() % block.width == 0;
        const char* asked = named_division();
        const bool few = n.B <= most * kernel.few_rows &&
                         kernel.packed_size(n.H, 2 * n.P) > cached_matrix;
        if (may && (asked ? std::strcmp(asked, "units") == 0 : few || n.B < threads))
            parts = int(most);
        else
            groups = int(std::clamp<int64_t>(n.B, 1, threads));
    }

    int workers() const { return groups * parts; }
};

// The packed matrices of a pass, or their transposes, and the memory they are in.
template <class T>
class BlockPacking {
public:
    BlockPacking(const Kernel<T, T>& kernel, const BlockKernel<T>& block, BlockJob<T>& job, Pool& pool,
                 bool back)
        : kernel_(kernel), back_(back) {
        const BlockSizes& n = job.n;
        const BlockWeights<const T>& w = job.weights;
        const int64_t one = n.one(), behind = (n.L - 1) * one;
        add({w.hidden_kernel, n.H, n.P, n.P}, job.packed.hidden);
        add({w.projected_kernel, n.P, n.H, n.H}, job.packed.projected);
        auto add_blocks = [&](const T* at, int64_t layers, int64_t columns, int64_t pitch,
                              const char*& packed) {
            for (int64_t l = 0; l < layers; ++l)
                for (int64_t k = 0; k < n.K; ++k)
                    add({at + k * one * pitch + l * one, one, columns, pitch}, packed);
        };
        add_blocks(w.state_kernel, 1, one, one, job.packed.state);
        add_blocks(w.layer_kernel, n.L - 1, one, behind, job.packed.layers);
        add_blocks(w.gate_kernel, 1, 3 * one, 3 * one, job.packed.gates);
        memory_ = allocate<char>(size_);
        for (auto& [packed, offset] : starts_) *packed = memory_.get() + offset;
        pool.run(elements_ < 1 << 16 ? 1 : pool.threads(), [&](int rank, int size) {
            const int64_t count = int64_t(pieces_.size());
            for (int64_t i = 0; i < count; ++i) {
                const Piece& it = pieces_[i];
                const int64_t panels = kernel_.panels(it.columns);
                // a large matrix is packed by all, of many small ones each by one
                const bool large = i < 2, mine = large || i % size == rank;
                if (!mine) continue;
                block.pack(it.at, it.rows, it.columns, it.down, it.across,
                           large ? panels * rank / size : 0,
                           large ? panels * (rank + 1) / size : panels, memory_.get() + it.offset);
            }
        });
    }

private:
    // rows `pitch` apart
    struct Given {
        const T* at;
        int64_t rows, columns, pitch;
    };
    struct Piece {
        const T* at;
        int64_t rows, columns, down, across, offset;
    };

    void add(const Given& m, const char*& packed) {
        const Piece it = back_ ? Piece{m.at, m.columns, m.rows, 1, m.pitch, size_}
                               : Piece{m.at, m.rows, m.columns, m.pitch, 1, size_};
        if (starts_.empty() || starts_.back().first != &packed) starts_.emplace_back(&packed, size_);
        pieces_.push_back(it);
        size_ += kernel_.packed_size(it.rows, it.columns);
        elements_ += m.rows * m.columns;
    }

    const Kernel<T, T>& kernel_;
    const bool back_;
    Buffer<char> memory_;
    std::vector<std::pair<const char**, int64_t>> starts_;
    std::vector<Piece> pieces_;
    int64_t size_ = 0, elements_ = 0;
};

template <class T>
BlockWeights<T> weights_at(T* (*of)(void*), void* const* at) {
    using namespace block;
    auto take = [&](int i) { return of(at[i]); };
    return {take(hidden_kernel), take(hidden_bias), take(hidden_gain), take(state_kernel),
            take(projected_kernel), take(layer_kernel), take(layer_bias), take(gain),
            take(gate_kernel), take(gate_bias)};
}

template <class T>
BlockJob<T> job_of(const int64_t* n, const double* numbers, void* const* at) {
    auto in = [&](int i) { return static_cast<const T*>(at[i]); };
    auto out = [&](int i) { return static_cast<T*>(at[i]); };
    auto flags = [&](int i) { return static_cast<const uint8_t*>(at[i]); };
    BlockJob<T> job{};
    job.n = {n[0], n[1], n[2], n[3], n[4], n[5]};
    job.phi = Smooth(n[6]);
    job.epsilon = numbers[0], job.update_bias = numbers[1];
    job.weights = weights_at<const T>([](void* p) { return static_cast<const T*>(p); }, at);
    job.x = in(block::x), job.h0 = in(block::h0);
    job.mask = flags(block::mask), job.reset = flags(block::reset);
    job.h = out(block::h), job.h_last = out(block::h_last), job.kept = out(block::kept);
    job.dh = in(block::dh), job.dh_last = in(block::dh_last);
    job.dx = out(block::dx), job.dh0 = out(block::dh0);
    job.gradients = weights_at<T>([](void* p) { return static_cast<T*>(p); }, at + block::dweights);
    return job;
}

template <class T>
void run(const Kernel<T, T>& kernel, const BlockKernel<T>& block, BlockJob<T> job, Pool& pool,
         bool back) {
    const BlockSizes& n = job.n;
    if (!back) job.dx = nullptr;
    if (n.B == 0) {
        if (back) job.gradients.each(n, [](T* to, int64_t size) { std::fill_n(to, size, T(0)); });
        return;
    }
    large_pages(job.h, n.T * n.B * n.H * sizeof(T));
    large_pages(back ? job.dx : job.kept, n.T * n.B * (back ? n.H : n.kept()) * sizeof(T));
    const BlockPlan plan(kernel, block, n, pool.threads());
    const BlockPacking<T> packing(kernel, block, job, pool, back);
    const int64_t rows = (n.B + plan.groups - 1) / plan.groups;
    const int64_t own_size = block.memory(job, rows, plan.parts);
    const int64_t shared_size = block.shared(job, rows, plan.parts);
    const Buffer<char> own = allocate<char>(own_size * plan.workers());
    const Buffer<char> shared = allocate<char>(shared_size * plan.groups);
    // the first group sums its gradients in the results, the others in memory of their own
    std::vector<BlockWeights<T>> sums(plan.groups, job.gradients);
    int64_t elements = 0;
    job.gradients.each(n, [&](T*, int64_t size) { elements += size; });
    const Buffer<T> more = allocate<T>(back ? elements * (plan.groups - 1) : 0);
    if (back) {
        T* next = more.get();
        for (int i = 1; i < plan.groups; ++i)
            sums[i].each(n, [&](T*& to, int64_t size) { to = next, next += size; });
    }
    Meeting meeting;
    pool.run(plan.workers(), [&](int rank, int size) {
        // with fewer threads than asked for, several groups or parts for a worker
        const bool alone = plan.parts == 1;
        for (int i = alone ? rank : 0; i < plan.groups; i += alone ? size : 1)
            (back ? block.backward : block.forward)(
                job, {n.B * i / plan.groups, n.B * (i + 1) / plan.groups, alone ? 0 : rank,
                      alone ? 1 : size, plan.parts, &meeting,
                      own.get() + (alone ? i : rank) * own_size, shared.get() + i * shared_size,
                      sums[i]});
    });
    if (!back || plan.groups == 1) return;
    // in their order, so that the result does not depend on the threads' pace
    pool.run(plan.groups, [&](int rank, int size) {
        for (int i = 1; i < plan.groups; ++i) {
            const T* from = more.get() + (i - 1) * elements;
            job.gradients.each(n, [&](T* to, int64_t count) {
                for (int64_t j = count * rank / size; j < count * (rank + 1) / size; ++j)
                    to[j] += from[j];
                from += count;
            });
        }
    });
}

}  // namespace

void run_block(const Isa& isa, bool full, bool back, const int64_t* sizes, const double* numbers,
               void* const* at, Pool& pool) {
    if (full)
        return run(*isa.full, *isa.block_full, job_of<double>(sizes, numbers, at), pool, back);
    const BlockKernel<float>* of[] = {isa.block_single, isa.block_brain, isa.block_half};
    run(*isa.single, *of[sizes[block::size_words - 1]], job_of<float>(sizes, numbers, at), pool, back);
}

}  // namespace lnrnn
