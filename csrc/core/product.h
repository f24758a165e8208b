// Products of stacked rows with a packed matrix, C (M, N) = init + A (M, K) P (K, N), and sums of
// outer products of two stacks, C (M, N) += A' B.
//
// A matrix is packed once a call into panels of two vectors' width, cut into chunks of depth: a
// chunk of a panel stays in the first-level cache while all rows pass over it.
#pragma once

#include "vec.h"

namespace lnrnn::LNRNN_ISA {

template <class T>
constexpr int panel_width = 2 * lanes<T>;
constexpr int64_t chunk_depth = 256;
constexpr int block_rows = LNRNN_ROWS;  // of a block that is one panel wide

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

// Rows of one step after another: row m is row m % each of step m / each.
template <class T>
struct Stack {
    T* base;
    int64_t each, step, row;  // rows in a step; from step to step; from row to row

    T* at(int64_t m) const {
        return m < each ? base + m * row : base + m / each * step + m % each * row;
    }
    Stack from(int64_t column) const { return {base + column, each, step, row}; }
};

// Rows side by side in memory.
template <class T>
inline Stack<T> dense(T* base, int64_t M, int64_t row) {
    return {base, M, 0, row};
}

// Pack the panels [first, last) of the matrix whose element (k, n) is m[k * down + n * across].
template <class T>
inline void pack(const T* m, int64_t K, int64_t N, int64_t down, int64_t across, int64_t first,
                 int64_t last, T* packed) {
    constexpr int W = panel_width<T>, strip = 16;
    for (int64_t k0 = 0; k0 < K; k0 += chunk_depth) {
        const int64_t depth = K - k0 < chunk_depth ? K - k0 : chunk_depth;
        for (int64_t p = first; p < last; ++p) {
            T* to = packed + k0 * panels<T>(N) * W + p * depth * W;
            const T* from = m + k0 * down + p * W * across;
            const int64_t columns = N - p * W < W ? N - p * W : W;
            if (columns < W) memset(to, 0, depth * W * sizeof(T));
            // in strips, so that neither the reads nor the writes of a column leave the cache
            for (int64_t s = 0; s < depth; s += strip) {
                const int64_t end = depth - s < strip ? depth : s + strip;
                if (across == 1 && columns == W)
                    for (int64_t k = s; k < end; ++k)
                        memcpy(to + k * W, from + k * down, W * sizeof(T));
                else
                    for (int64_t w = 0; w < columns; ++w)
                        for (int64_t k = s; k < end; ++k)
                            to[k * W + w] = from[k * down + w * across];
            }
        }
    }
}

// A block's operands: M rows whose elements are `across` apart, the depth and width of the product,
// the panels, the rows that the sums start from, where not from zeros, and where they go.
template <class T, int M>
struct Block {
    int64_t depth, across, columns;
    bool starts;
    const T* panel;
    const T* a[M];
    const T* init[M];
    T* c[M];
};

// M rows times P neighbouring panels, all sums in registers.
template <class T, int M, int P>
inline void multiply_block(const Block<T, M>& it) {
    constexpr int W = panel_width<T>, L = lanes<T>, V = 2 * P;
    const int64_t depth = it.depth, across = it.across, columns = it.columns;
    const bool whole = columns >= P * W;
    auto each_sum = [&](auto f) {
#pragma GCC unroll 32
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 32
            for (int v = 0; v < V; ++v) f(m, v);
    };
    // the part of the vector v of a row that is within the matrix
    auto within_matrix = [&](int v, auto f) {
        const int64_t left = columns - v * L;
        if (left >= L)
            f(All{});
        else if (left > 0)
            f(Part{int(left)});
    };
    Vec<T> acc[M][V];
    each_sum([&](int m, int v) { acc[m][v] = Vec<T>{}; });
    if (it.starts && whole)
        each_sum([&](int m, int v) { acc[m][v] = load(it.init[m] + v * L, All{}); });
    else if (it.starts)
        each_sum([&](int m, int v) {
            within_matrix(v, [&](auto part) { acc[m][v] = load(it.init[m] + v * L, part); });
        });
    const T* a[M];
#pragma GCC unroll 32
    for (int m = 0; m < M; ++m) a[m] = it.a[m];
    const T* panel = it.panel;
    for (int64_t k = 0, i = 0; k < depth; ++k, i += across, panel += W) {
        Vec<T> b[V];
#pragma GCC unroll 32
        for (int v = 0; v < V; ++v)
            b[v] = load(panel + (v / 2) * depth * W + (v % 2) * L, All{});
#pragma GCC unroll 32
        for (int m = 0; m < M; ++m) {
            const T x = a[m][i];
#pragma GCC unroll 32
            for (int v = 0; v < V; ++v) acc[m][v] += x * b[v];
        }
    }
    if (whole)
        each_sum([&](int m, int v) { store(it.c[m] + v * L, acc[m][v], All{}); });
    else
        each_sum([&](int m, int v) {
            within_matrix(v, [&](auto part) { store(it.c[m] + v * L, acc[m][v], part); });
        });
}

// The block of m rows, m <= M: `fill(block)` sets it.
template <class T, int M, int P, class F>
inline void block_of(int64_t m, F fill) {
    if (m == M) {
        Block<T, M> block;
        fill(block);
        multiply_block<T, M, P>(block);
    } else if constexpr (M > 1) {
        block_of<T, M - 1, P>(m, fill);
    }
}

// The panels [first, last) of C.
template <class T>
inline void product(int64_t M, int64_t N, int64_t K, Stack<const T> a, const T* packed,
                    const T* bias, Stack<T> c, int64_t first, int64_t last) {
    constexpr int W = panel_width<T>;
    // rows that pass over a panel in one go: their part of A stays in the second-level cache
    constexpr int64_t most_rows = 96;
    const T* from[most_rows];
    T* to[most_rows];
    for (int64_t row = 0; row < M; row += most_rows) {
        const int64_t height = M - row < most_rows ? M - row : most_rows;
        for (int64_t i = 0; i < height; ++i) from[i] = a.at(row + i), to[i] = c.at(row + i);
        for (int64_t k0 = 0; k0 < K; k0 += chunk_depth) {
            const int64_t depth = K - k0 < chunk_depth ? K - k0 : chunk_depth;
            const T* chunk = packed + k0 * panels<T>(N) * W;
            auto pass = [&]<int P>(int64_t p) {
                constexpr int most = block_rows / P;
                for (; p + P <= last; p += P) {
                    // blocks of nearly equal height, which leave registers for the operands
                    int64_t done = 0;
                    for (int64_t blocks = up(height, most); blocks > 0; --blocks) {
                        const int64_t m = up(height - done, blocks);
                        block_of<T, most, P>(m, [&]<int rows>(Block<T, rows>& it) {
                            it.depth = depth, it.across = 1, it.columns = N - p * W;
                            it.panel = chunk + p * depth * W, it.starts = k0 > 0 || bias;
                            for (int i = 0; i < rows; ++i) {
                                it.a[i] = from[done + i] + k0;
                                it.c[i] = to[done + i] + p * W;
                                it.init[i] = k0 > 0 || !bias ? it.c[i] : bias + p * W;
                            }
                        });
                        done += m;
                    }
                }
                return p;
            };
            // few rows: several panels at once, so that enough sums are under way
            int64_t p = first;
            if (height == 1) p = pass.template operator()<4>(p);
            if (height == 2) p = pass.template operator()<3>(p);
            pass.template operator()<1>(p);
        }
    }
}

// Columns of A that `outer` turns at once: they stay in the second-level cache.
constexpr int64_t most_columns = 384 / block_rows * block_rows;

// Elements of the memory that `outer` needs for stacks of K rows.
template <class T>
inline int64_t outer_memory(int64_t K) {
    return (K < chunk_depth ? K : chunk_depth) * (most_columns + panel_width<T>);
}

// The panels [first, last) of C = A' B, or with `add` C += A' B: the sum over k of the products of
// row k of A, M columns, with row k of B, N columns.
template <class T>
inline void outer(int64_t K, int64_t M, int64_t N, Stack<const T> a, Stack<const T> b, bool add,
                  T* c, int64_t ldc, T* memory, int64_t first, int64_t last) {
    constexpr int W = panel_width<T>;
    if (first == last) return;
    for (int64_t k0 = 0; k0 < K; k0 += chunk_depth, add = true)
        for (int64_t i0 = 0; i0 < M; i0 += most_columns) {
            const int64_t depth = K - k0 < chunk_depth ? K - k0 : chunk_depth;
            const int64_t height = M - i0 < most_columns ? M - i0 : most_columns;
            T *panel = memory, *turned = memory + depth * W;
            // the columns of A, as many as a block has rows side by side
            for (int64_t i = 0; i < height; i += block_rows) {
                T* to = turned + i * depth;
                const int64_t columns = height - i < block_rows ? height - i : block_rows;
                if (columns == block_rows)
                    for (int64_t k = 0; k < depth; ++k)
                        memcpy(to + k * block_rows, a.at(k0 + k) + i0 + i, block_rows * sizeof(T));
                else
                    for (int64_t k = 0; k < depth; ++k)
                        memcpy(to + k * block_rows, a.at(k0 + k) + i0 + i, columns * sizeof(T));
            }
            for (int64_t p = first; p < last; ++p) {
                const int64_t columns = N - p * W;
                if (columns >= W) {
                    for (int64_t k = 0; k < depth; ++k)
                        memcpy(panel + k * W, b.at(k0 + k) + p * W, W * sizeof(T));
                } else {
                    memset(panel, 0, depth * W * sizeof(T));
                    for (int64_t k = 0; k < depth; ++k)
                        memcpy(panel + k * W, b.at(k0 + k) + p * W, columns * sizeof(T));
                }
                for (int64_t i = 0; i < height; i += block_rows)
                    block_of<T, block_rows, 1>(
                        height - i < block_rows ? height - i : block_rows,
                        [&]<int rows>(Block<T, rows>& it) {
                            it.depth = depth, it.across = block_rows, it.columns = columns;
                            it.panel = panel, it.starts = add;
                            for (int r = 0; r < rows; ++r) {
                                it.a[r] = turned + i * depth + r;
                                it.c[r] = c + (i0 + i + r) * ldc + p * W;
                                it.init[r] = it.c[r];
                            }
                        });
            }
        }
}

}  // namespace lnrnn::LNRNN_ISA
