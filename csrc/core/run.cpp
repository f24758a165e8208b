#include "run.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "division.h"
#include "memory.h"

namespace lnrnn {

void give_way() { std::this_thread::yield(); }

namespace {

// Bytes of the sums of dW and dU that blocks of rows have beside the results.
constexpr double most_sums = 1 << 28;

// How the work is divided: the rows into `blocks`, each for a team of workers, who share the columns of
// products; or the units into `parts`, one for each worker of the one team.
struct Plan {
    int blocks = 1, team = 1, parts = 1;

    template <class T, class S>
    Plan(const Kernel<T, S>& kernel, const Job<T, S>& job, int threads) {
        const double weights = double(job.n.I + job.n.R) * job.wide();
        const bool worth = weights * job.n.T * job.n.B >= worth_a_thread || named_division();
        if (threads == 1 || !worth) return;
        if (divides_units(kernel, job, threads)) {
            team = parts = threads;
            return;
        }
        // fewer rows than threads would each stream the whole matrix; a team streams it once
        if (job.n.B > threads) blocks = threads;
        while (blocks > 1 &&
               ((blocks - 1) * weights * sizeof(T) > most_sums || threads % blocks > 0))
            --blocks;
        team = threads / blocks;
    }

    int workers() const { return blocks * team; }

private:
    // Few rows are multiplied faster than a large matrix comes from beyond a core's own cache: where
    // each worker needs its part alone, that stays there.
    template <class T, class S>
    static bool divides_units(const Kernel<T, S>& kernel, const Job<T, S>& job, int threads) {
        if (job.spec.needs_whole_rows()) return false;
        if (const char* asked = named_division()) return std::strcmp(asked, "units") == 0;
        return job.n.B <= int64_t(threads) * kernel.few_rows &&
               kernel.packed_size(job.n.R, job.wide()) > cached_matrix;
    }
};

// A matrix of the weights, as it is given: element (k, n) is `down` k + `across` n from its first.
template <class T>
struct Matrix {
    const T* at;
    int64_t K, N, down, across;

    Matrix(const T* at, bool turned, int64_t rows, int64_t wide, int64_t first, int64_t columns)
        : K(rows), N(columns), down(turned ? 1 : wide), across(turned ? rows : 1) {
        this->at = at + first * across;
    }

    Matrix columns(int64_t first, int64_t count) const {
        Matrix other = *this;
        other.at += first * across, other.N = count;
        return other;
    }

    Matrix transposed() const {
        Matrix other = *this;
        std::swap(other.K, other.N);
        std::swap(other.down, other.across);
        return other;
    }
};

// For a call whose weights have their gates in an order of their own: copies in the order of the core,
// and memory for gradients in that order, which `give_back` copies to where they go.
template <class T, class S>
class Reordered {
public:
    Reordered(Job<T, S>& job, Pool& pool, bool back) : spec_(job.spec), H_(job.n.H), pool_(pool) {
        if (!spec_.order) return;
        Weights<T>& w = job.weights;
        Gradients<T, S>& g = job.grad;
        add(w.kernel, g.kernel, job.n.I, job.kernel_turned, back);
        if (!spec_.diagonal) add(w.recurrent, g.recurrent, job.n.R, job.recurrent_turned, back);
        add(w.bias_x, g.bias_x, 1, false, back), add(w.bias_h, g.bias_h, 1, false, back);
        add(w.gain_x, g.gain_x, 1, false, back), add(w.shift_x, g.shift_x, 1, false, back);
        add(w.gain_h, g.gain_h, 1, false, back), add(w.shift_h, g.shift_h, 1, false, back);
        add(w.gain_sum, g.gain_sum, 1, false, back), add(w.shift_sum, g.shift_sum, 1, false, back);
        copy(given_);
    }

    void give_back() { copy(found_); }

private:
    // a matrix of `rows` and a column for each gate and unit, or its transpose; of one side the gates
    // stand in the order of the core
    struct Copy {
        const T* from;
        T* to;
        int64_t rows;
        bool turned, back;
    };

    void add(const T*& weight, T*& gradient, int64_t rows, bool turned, bool back) {
        const int64_t size = rows * spec_.gates * H_;
        auto own = [&] { return memory_.emplace_back(allocate<T>(size)).get(); };
        if (weight) {
            T* copied = own();
            given_.push_back({weight, copied, rows, turned, false});
            weight = copied;
        }
        if (back && gradient) {
            T* computed = own();
            found_.push_back({computed, gradient, rows, turned, true});
            gradient = computed;
        }
        elements_ += size;
    }

    void copy(const std::vector<Copy>& copies) {
        if (copies.empty()) return;
        pool_.run(elements_ < 1 << 16 ? 1 : pool_.threads(), [&](int rank, int size) {
            for (const Copy& it : copies) {
                // stretches of memory of one gate, one in each row, or of all rows in each unit
                const int64_t count = it.turned ? H_ : it.rows, length = it.turned ? it.rows : H_;
                const int64_t apart = it.turned ? length : spec_.gates * H_;
                for (int g = 0; g < spec_.gates; ++g) {
                    const int64_t here = g * H_ * (it.turned ? length : 1);
                    const int64_t there = spec_.place(g) * H_ * (it.turned ? length : 1);
                    const T* from = it.from + (it.back ? here : there);
                    T* to = it.to + (it.back ? there : here);
                    for (int64_t k = count * rank / size; k < count * (rank + 1) / size; ++k)
                        std::copy_n(from + k * apart, length, to + k * apart);
                }
            }
        });
    }

    const Spec spec_;
    const int64_t H_;
    Pool& pool_;
    std::vector<Buffer<T>> memory_;
    std::vector<Copy> given_, found_;
    int64_t elements_ = 0;
};

// The packed matrices of a call, and the memory they are in.
template <class T, class S>
class Packing {
public:
    Packing(const Kernel<T, S>& kernel, Job<T, S>& job, const Plan& plan, Pool& pool, bool back) {
        const int64_t I = job.n.I, H = job.n.H, R = job.n.R, wide = job.wide();
        const int64_t early = job.early_gates() * H;
        const bool two = job.spec.two_products(), turned = job.recurrent_turned;
        const bool full = !job.spec.diagonal, pre = job.spec.pre, projects = job.spec.projection;
        const Matrix<T> W(job.weights.kernel, job.kernel_turned, I, wide, 0, wide);
        const Matrix<T> first(job.weights.recurrent, turned, R, wide, 0, early);
        const Matrix<T> second(job.weights.recurrent, turned, R, wide, early, H);
        const Matrix<T> projection(job.weights.projection, false, H, R, 0, R);
        auto add = [&](bool needed, const Matrix<T>& m, int64_t pieces, const void*& packed) {
            if (needed) add_matrix(kernel, m, pieces, packed);
        };
        // whose columns are units of gates
        const bool by_gates = plan.parts > 1;
        const int64_t all = by_gates ? job.spec.gates : 1, early_pieces = by_gates ? early / H : 1;
        add(!back || !job.out.xw, W, all, job.packed.kernel);
        add(full && (!back || two || !job.out.hu), first, early_pieces, job.packed.first);
        add(two, second, 1, job.packed.second);
        // the derivative of the norm of [x, h] needs that of x for that of h
        add(back && (pre || job.grad.dx), W.transposed(), 1, job.packed.kernel_back);
        add(back && full, first.transposed(), 1, job.packed.first_back);
        add(back && two, second.transposed(), 1, job.packed.second_back);
        add(projects, projection, 1, job.packed.projection);
        add(back && projects, projection.transposed(), 1, job.packed.projection_back);
        pool.run(elements_ < 1 << 16 ? 1 : pool.threads(), [&](int rank, int size) {
            for (const auto& [m, packed] : pieces_) {
                const int64_t panels = kernel.panels(m.N);
                kernel.pack(m.at, m.K, m.N, m.down, m.across, panels * rank / size,
                            panels * (rank + 1) / size, packed);
            }
        });
    }

private:
    // pieces of as many columns, one behind the other
    void add_matrix(const Kernel<T, S>& kernel, const Matrix<T>& m, int64_t pieces,
                    const void*& packed) {
        const int64_t columns = m.N / pieces, size = kernel.packed_size(m.K, columns);
        memory_.push_back(allocate<char>(size * pieces));
        packed = memory_.back().get();
        for (int64_t i = 0; i < pieces; ++i)
            pieces_.emplace_back(m.columns(i * columns, columns), memory_.back().get() + i * size);
        elements_ += m.K * m.N;
    }

    std::vector<Buffer<char>> memory_;
    std::vector<std::pair<Matrix<T>, char*>> pieces_;
    int64_t elements_ = 0;
};

// The memory of all workers of a call.
template <class T, class S>
struct Workplace {
    Plan plan;
    int64_t own_size, shared_size, matrices_size;
    Buffer<char> own, shared;
    Buffer<T> matrices;

    Workplace(const Kernel<T, S>& kernel, const Job<T, S>& job, const Plan& plan, bool back)
        : plan(plan) {
        const int64_t rows = (job.n.B + plan.blocks - 1) / plan.blocks;
        own_size = kernel.memory(job, rows, plan.parts);
        shared_size = kernel.shared(job, rows, plan.parts);
        const int64_t projection = job.spec.projection ? job.n.H * job.n.R : 0;
        const bool in_results = back && !kernel.collect;
        matrices_size = in_results ? (job.n.I + job.n.R) * job.wide() + projection : 0;
        own = allocate<char>(own_size * plan.workers());
        shared = allocate<char>(shared_size * plan.blocks);
        matrices = allocate<T>(matrices_size * (plan.blocks - 1));
    }

    // what a block sums dW, dU and dP in, one behind the other: the first in the results themselves, or
    // all in their shared memory
    T* dkernel(const Job<T, S>& job, int block) const {
        return block && matrices_size ? matrices.get() + (block - 1) * matrices_size : job.grad.kernel;
    }
    T* drecurrent(const Job<T, S>& job, int block) const {
        return block && matrices_size ? dkernel(job, block) + job.n.I * job.wide()
                                      : job.grad.recurrent;
    }
    T* dprojection(const Job<T, S>& job, int block) const {
        return block && matrices_size ? drecurrent(job, block) + job.n.R * job.wide()
                                      : job.grad.projection;
    }

    // the sums over rows of a block, which its first worker has, or all have together
    const T* sums(int block) const {
        const char* at = plan.parts > 1 ? shared.get() : own.get() + block * plan.team * own_size;
        return reinterpret_cast<const T*>(at);
    }

    void run(const Job<T, S>& job, Pool& pool,
             void (*work)(const Job<T, S>&, const Worker<T>&)) const {
        std::vector<Meeting> meetings(plan.blocks);
        pool.run(plan.workers(), [&](int rank, int size) {
            // with fewer threads than asked for, smaller teams, or several blocks for a worker
            const int team = std::max(1, size / plan.blocks), member = rank % team;
            for (int i = rank / team; i < plan.blocks; i += size / team)
                work(job, {job.n.B * i / plan.blocks, job.n.B * (i + 1) / plan.blocks, member, team,
                           plan.parts, &meetings[i], own.get() + (i * plan.team + member) * own_size,
                           shared.get() + i * shared_size, dkernel(job, i), drecurrent(job, i),
                           dprojection(job, i)});
        });
    }
};

// The sums of all blocks, in their order, so that the result does not depend on the threads' pace.
template <class T, class S>
void add_up(const Kernel<T, S>& kernel, const Job<T, S>& job, const Workplace<T, S>& place, Pool& pool) {
    const SumsLayout at(job.wide(), job.n);
    const int blocks = place.plan.blocks;
    auto total = [&](T* to, int64_t from, int64_t n) {
        if (!to) return;
        for (int64_t j = 0; j < n; ++j) {
            T sum = 0;
            for (int i = 0; i < blocks; ++i) sum += place.sums(i)[from + j];
            to[j] = sum;
        }
    };
    const Gradients<T, S>& g = job.grad;
    const int64_t wide = job.wide(), H = job.n.H, I = job.n.I, R = job.n.R;
    const bool full = !job.spec.diagonal;
    total(g.bias_x, at.bias_x, wide), total(g.bias_h, at.bias_h, wide);
    total(g.gain_x, at.gain_x, wide), total(g.shift_x, at.shift_x, wide);
    total(g.gain_h, at.gain_h, wide), total(g.shift_h, at.shift_h, wide);
    total(g.gain_sum, at.gain_sum, wide), total(g.shift_sum, at.shift_sum, wide);
    total(g.gain_c, at.gain_c, H), total(g.shift_c, at.shift_c, H);
    total(g.peephole, at.peephole, (job.spec.coupled() ? 2 : 3) * H);
    total(g.gain_pre, at.gain_pre, I + R), total(g.shift_pre, at.shift_pre, I + R);
    total(g.gain_hidden, at.gain_hidden, R), total(g.shift_hidden, at.shift_hidden, R);
    total(g.projection_bias, at.projection_bias, R);
    if (!full) total(g.recurrent, at.recurrent, H);
    if (kernel.collect) {
        std::vector<char*> shared;
        for (int i = 0; i < blocks; ++i) shared.push_back(place.shared.get() + i * place.shared_size);
        pool.run(place.plan.workers(), [&](int rank, int size) {
            kernel.collect(job, shared, place.plan.parts, rank, size);
        });
        return;
    }
    if (blocks == 1) return;
    pool.run(blocks, [&](int rank, int size) {
        auto add = [&](T* to, int64_t from, int64_t n) {
            for (int i = 1; i < blocks; ++i) {
                const T* more = place.dkernel(job, i) + from;
                for (int64_t j = n * rank / size; j < n * (rank + 1) / size; ++j) to[j] += more[j];
            }
        };
        add(g.kernel, 0, I * wide);
        if (full) add(g.recurrent, I * wide, R * wide);
        if (g.projection) add(g.projection, (I + R) * wide, H * R);
    });
}

}  // namespace

template <class T, class S>
void forward(const Kernel<T, S>& kernel, Job<T, S> job, Pool& pool) {
    if (job.n.B == 0) return;
    job.grad = {};  // memory for a backward pass is asked for by these
    const size_t all = size_t(job.n.T) * job.n.B * job.n.H;
    large_pages(job.out.h, size_t(job.n.T) * job.n.B * job.n.R * sizeof(S));
    large_pages(job.out.c, all * sizeof(T));
    for (S* projected : {job.out.xw, job.out.hu})
        large_pages(projected, job.spec.gates * all * sizeof(S));
    const Reordered<T, S> reordered(job, pool, false);
    const Plan plan(kernel, job, pool.threads());
    const Packing<T, S> packing(kernel, job, plan, pool, false);
    Workplace<T, S>(kernel, job, plan, false).run(job, pool, kernel.forward);
}

template <class T, class S>
void backward(const Kernel<T, S>& kernel, Job<T, S> job, Pool& pool) {
    const Gradients<T, S>& g = job.grad;
    if (job.n.B == 0) {
        const int64_t wide = job.wide(), H = job.n.H, R = job.n.R, joint = job.n.I + R;
        auto clear = [](T* gradient, int64_t n) {
            if (gradient) std::fill_n(gradient, n, T(0));
        };
        clear(g.kernel, job.n.I * wide);
        clear(g.recurrent, job.spec.diagonal ? H : R * wide);
        clear(g.projection, H * R);
        for (T* vector : {g.bias_x, g.bias_h, g.gain_x, g.shift_x, g.gain_h, g.shift_h, g.gain_sum,
                          g.shift_sum})
            clear(vector, wide);
        for (T* vector : {g.gain_c, g.shift_c}) clear(vector, H);
        clear(g.peephole, (job.spec.coupled() ? 2 : 3) * H);
        for (T* vector : {g.gain_pre, g.shift_pre}) clear(vector, joint);
        for (T* vector : {g.gain_hidden, g.shift_hidden, g.projection_bias}) clear(vector, R);
        return;
    }
    // r h is needed again, and with it both products
    if (job.spec.two_products()) job.out.hu = nullptr;
    large_pages(g.dx, job.n.T * job.n.B * job.n.I * sizeof(S));
    large_pages(g.kernel, job.n.I * job.wide() * sizeof(T));
    large_pages(g.recurrent, job.n.R * job.wide() * sizeof(T));
    Reordered<T, S> reordered(job, pool, true);
    const Plan plan(kernel, job, pool.threads());
    const Packing<T, S> packing(kernel, job, plan, pool, true);
    const Workplace<T, S> place(kernel, job, plan, true);
    place.run(job, pool, kernel.backward);
    add_up(kernel, job, place, pool);
    reordered.give_back();
}

#define INSTANTIATE(T, S)                                              \
    template void forward(const Kernel<T, S>&, Job<T, S>, Pool&);      \
    template void backward(const Kernel<T, S>&, Job<T, S>, Pool&);
INSTANTIATE(float, float)
INSTANTIATE(double, double)
INSTANTIATE(float, bfloat16)
INSTANTIATE(float, float16)
#undef INSTANTIATE

}  // namespace lnrnn
