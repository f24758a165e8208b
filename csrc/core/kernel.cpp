// The kernel of one instruction set; compiled once for each.
#include "sequence.h"

namespace lnrnn::LNRNN_ISA {

template <class P>
using JobOf = Job<typename P::T, typename P::S>;
template <class P>
using WorkerOf = Worker<typename P::T>;

template <class P>
void forward(const JobOf<P>& job, const WorkerOf<P>& me) {
    with_cell<typename P::T>(job.spec, [&]<class C>() { Sequence<P, C>(job, me).forward(); });
}

template <class P>
void backward(const JobOf<P>& job, const WorkerOf<P>& me) {
    with_cell<typename P::T>(job.spec, [&]<class C>() { Sequence<P, C>(job, me).backward(); });
}

// what is asked for the sizes of its memory only
template <class P>
Sequence<P, Simple<typename P::T, true>> asked(const JobOf<P>& job, const WorkerOf<P>& asking) {
    return {job, asking};
}

template <class P>
int64_t memory(const JobOf<P>& job, int64_t rows, int parts) {
    return asked<P>(job, {0, rows, 0, 1, parts}).memory();
}

template <class P>
int64_t shared(const JobOf<P>& job, int64_t rows, int parts) {
    return asked<P>(job, {0, rows, 0, 1, parts}).shared();
}

// the gradients of matrices that blocks of rows have summed in tiles
template <class P>
void collect(const JobOf<P>& job, const std::vector<char*>& shared, int parts, int rank, int size) {
    using R = typename P::R;
    if constexpr (by_tiles<R>) {
        const int blocks = int(shared.size());
        std::vector<decltype(asked<P>(job, {}).gradients())> all;
        for (int i = 0; i < blocks; ++i)
            all.push_back(asked<P>(job, {job.n.B * i / blocks, job.n.B * (i + 1) / blocks, 0, 1, parts,
                                         nullptr, nullptr, shared[i], job.grad.kernel,
                                         job.grad.recurrent, job.grad.projection})
                              .gradients());
        std::vector<const float*> tiles(blocks);
        for (size_t m = 0; m < all[0].size(); ++m) {
            const auto& it = all[0][m];
            if (!it.tiles) continue;
            for (int i = 0; i < blocks; ++i) tiles[i] = all[i][m].tiles;
            const int64_t n = panels<Pair>(it.N);
            add_tiles(tiles.data(), blocks, it.M, it.N, it.at, it.row, n * rank / size,
                      n * (rank + 1) / size);
        }
    }
}

template <class T>
void function(Activation kind, bool exponential, int64_t n, const T* in, T* out) {
    each<T>(n, [&](int64_t j, auto part) {
        const Vec<T> v = load(in + j, part);
        store(out + j, exponential ? exp<T>(v) : activate<T>(kind, v), part);
    });
}

template <class P>
constexpr Kernel<typename P::T, typename P::S> table = {
    by_tiles<typename P::R> ? tile : 4,
    panels<typename Operands<typename P::R>::E>,
    packed_size<typename P::R>,
    pack<typename P::R, typename P::T>,
    memory<P>,
    shared<P>,
    forward<P>,
    backward<P>,
    by_tiles<typename P::R> ? collect<P> : nullptr,
    function<typename P::T>,
};

#if !defined(LNRNN_PAIRS) && !defined(LNRNN_TILES)
extern const Kernel<float, float> kernel_single = table<Types<float, float, float>>;
extern const Kernel<double, double> kernel_full = table<Types<double, double, double>>;
extern const Kernel<float, float16> kernel_half = table<Types<float, float16, float16>>;
#endif
extern const Kernel<float, bfloat16> kernel_brain = table<Types<float, bfloat16, bfloat16>>;
extern const Kernel<float, float> kernel_rounding = table<Types<float, float, bfloat16>>;

}  // namespace lnrnn::LNRNN_ISA
