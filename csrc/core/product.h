// Products of a few rows with a packed matrix: C (M, N) = init + A (M, K) P (K, N).
//
// The matrix is packed once a call into panels of two vectors' width, cut into chunks of depth:
// a chunk of a panel stays in the first-level cache while all rows pass over it.
#pragma once

#include "vec.h"

namespace lnrnn::LNRNN_ISA {

template <class T>
constexpr int panel_width = 2 * lanes<T>;
constexpr int64_t chunk_depth = 384;

inline int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }

template <class T>
inline int64_t panels(int64_t N) {
    return up(N, panel_width<T>);
}

// Elements of a packed (K, N) matrix.
template <class T>
inline int64_t packed_size(int64_t K, int64_t N) {
    return K * panels<T>(N) * panel_width<T>;
}

// Pack the panels [first, last) of the matrix whose element (k, n) is m[k * down + n * across].
template <class T>
inline void pack(const T* m, int64_t K, int64_t N, int64_t down, int64_t across, int64_t first,
                 int64_t last, T* packed) {
    constexpr int W = panel_width<T>;
    for (int64_t k0 = 0; k0 < K; k0 += chunk_depth) {
        const int64_t depth = K - k0 < chunk_depth ? K - k0 : chunk_depth;
        for (int64_t p = first; p < last; ++p) {
            T* to = packed + k0 * panels<T>(N) * W + p * depth * W;
            for (int64_t k = 0; k < depth; ++k)
                for (int w = 0; w < W; ++w) {
                    const int64_t n = p * W + w;
                    to[k * W + w] = n < N ? m[(k0 + k) * down + n * across] : T(0);
                }
        }
    }
}

// M rows times P neighbouring panels, all sums in registers.
template <class T, int M, int P>
inline void block(int64_t depth, const T* a, int64_t lda, const T* panel, const T* init,
                  int64_t ldi, T* c, int64_t ldc, int64_t columns) {
    constexpr int W = panel_width<T>, L = lanes<T>, V = 2 * P;
    Vec<T> acc[M][V];
    const bool whole = columns >= P * W;
#pragma GCC unroll 32
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 32
        for (int v = 0; v < V; ++v) {
            const int64_t left = columns - v * L;
            if (!init || left <= 0)
                acc[m][v] = Vec<T>{};
            else if (whole || left >= L)
                acc[m][v] = load(init + m * ldi + v * L, All{});
            else
                acc[m][v] = load(init + m * ldi + v * L, Part{int(left)});
        }
    for (int64_t k = 0; k < depth; ++k) {
        Vec<T> b[V];
#pragma GCC unroll 32
        for (int v = 0; v < V; ++v)
            b[v] = load(panel + (v / 2) * depth * W + k * W + (v % 2) * L, All{});
#pragma GCC unroll 32
        for (int m = 0; m < M; ++m) {
            const T x = a[m * lda + k];
#pragma GCC unroll 32
            for (int v = 0; v < V; ++v) acc[m][v] += x * b[v];
        }
    }
#pragma GCC unroll 32
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 32
        for (int v = 0; v < V; ++v) {
            const int64_t left = columns - v * L;
            if (whole || left >= L)
                store(c + m * ldc + v * L, acc[m][v], All{});
            else if (left > 0)
                store(c + m * ldc + v * L, acc[m][v], Part{int(left)});
        }
}

// The block of m rows, m <= M.
template <class T, int M, int P, class... Rest>
inline void block_of(int64_t m, Rest... rest) {
    if (m == M)
        block<T, M, P>(rest...);
    else if constexpr (M > 1)
        block_of<T, M - 1, P>(m, rest...);
}

// M rows times P panels, in blocks of nearly equal height that leave registers for the operands.
template <class T, int P>
inline void column(int64_t M, int64_t depth, const T* a, int64_t lda, const T* panel,
                   const T* init, int64_t ldi, T* c, int64_t ldc, int64_t columns) {
    constexpr int most = LNRNN_ROWS / P;
    for (int64_t blocks = up(M, most); blocks > 0; --blocks) {
        const int64_t m = up(M, blocks);
        block_of<T, most, P>(m, depth, a, lda, panel, init, ldi, c, ldc, columns);
        a += m * lda, c += m * ldc, M -= m;
        if (init) init += m * ldi;
    }
}

// The panels [first, last) of C; `init` (rows `ldi` apart, 0: one row for all; null: zeros) may be C.
template <class T>
inline void product(int64_t M, int64_t N, int64_t K, const T* a, int64_t lda, const T* packed,
                    const T* init, int64_t ldi, T* c, int64_t ldc, int64_t first, int64_t last) {
    constexpr int W = panel_width<T>;
    for (int64_t k0 = 0; k0 < K; k0 += chunk_depth) {
        const int64_t depth = K - k0 < chunk_depth ? K - k0 : chunk_depth;
        const T* chunk = packed + k0 * panels<T>(N) * W;
        if (k0 > 0) init = c, ldi = ldc;
        auto pass = [&]<int P>(int64_t p) {
            for (; p + P <= last; p += P)
                column<T, P>(M, depth, a + k0, lda, chunk + p * depth * W,
                             init ? init + p * W : nullptr, ldi, c + p * W, ldc, N - p * W);
            return p;
        };
        // few rows: several panels at once, so that enough sums are under way
        int64_t p = first;
        if (M == 1) p = pass.template operator()<4>(p);
        if (M == 2) p = pass.template operator()<3>(p);
        pass.template operator()<1>(p);
    }
}

}  // namespace lnrnn::LNRNN_ISA
