// Products of stacked rows with a packed matrix, C (M, N) = init + A (M, K) P (K, N), and sums of
// outer products of two stacks, C (M, N) += A' B.
//
// A matrix is packed once a call into panels of two vectors' width, cut into chunks of depth: a
// chunk of a panel stays in the first-level cache while all rows pass over it.
#pragma once

#include "tiles.h"

namespace lnrnn::LNRNN_ISA {

// What products are made of, element by element.
template <class E>
struct Dot {
    using Sum = E;
    using Vector = Vec<E>;
    static constexpr int width = 2 * lanes<E>;  // of a panel

    static Vector read(const E* p) { return load(p, All{}); }
    static void add(Vec<E>& sum, E x, Vector v) { sum += x * v; }
};

template <>
struct Dot<Pair> {
    using Sum = float;
    using Vector = Int<float>;
#ifdef LNRNN_TILES
    static constexpr int width = 2 * tile;
#else
    static constexpr int width = 2 * lanes<float>;
#endif

    static Vector read(const Pair* p) {
        Vector v;
        memcpy(&v, p, sizeof v);
        return v;
    }
    static void add([[maybe_unused]] Vec<float>& sum, [[maybe_unused]] Pair x,
                    [[maybe_unused]] Vector v) {
#if defined(__AVX512BF16__)
        sum = (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(x.bits),
                                           (__m512bh)v);
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
        sum = (Vec<float>)vbfdotq_f32((float32x4_t)sum, (bfloat16x8_t)vdupq_n_u32(x.bits),
                                      (bfloat16x8_t)v);
#endif
    }
};

template <class E>
using SumOf = typename Dot<E>::Sum;
template <class E>
constexpr int panel_width = Dot<E>::width;
constexpr int64_t chunk_depth = 256;
constexpr int block_rows = LNRNN_ROWS;  // of a block that is one panel wide

constexpr int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }

template <class E>
inline int64_t panels(int64_t N) {
    return up(N, panel_width<E>);
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
    // whether the first M rows are all as far apart as two of a step
    bool evenly(int64_t M) const { return M <= each || step == each * row; }
};

// Rows side by side in memory.
template <class T>
inline Stack<T> dense(T* base, int64_t M, int64_t row) {
    return {base, M, 0, row};
}

// What stands for R where the operands are as they are, and the matrix is stored as numbers N: see
// stored.h.
template <class N>
struct Stored {};
template <class R>
constexpr bool is_stored = false;
template <class N>
constexpr bool is_stored<Stored<N>> = true;

// How operands of products lie that are rounded to R (which may be what they are): as numbers O in
// rows of padding(n), of which n are used and the others zeros, and as elements E of the products.
template <class R>
struct Operands {
    using O = R;
    using E = R;
    static int64_t padding(int64_t n) { return n; }
};

// as float32, which products of float32 take
template <class R>
    requires is_half<R>
struct Operands<R> {
    using O = float;
    using E = float;
    static int64_t padding(int64_t n) { return n; }
};

#if defined(LNRNN_PAIRS) || defined(LNRNN_TILES)
template <>
struct Operands<bfloat16> {
    using O = bfloat16;
    using E = Pair;
#ifdef LNRNN_TILES
    using Tiles = LNRNN_TILES;
    static constexpr int64_t unit = 2 * tile, spare_rows = tile - 1;
#else
    static constexpr int64_t unit = 2;
#endif
    static int64_t padding(int64_t n) { return up(n, unit) * unit; }
};
#endif

// Rows that are read behind the last one, of which nothing is used.
template <class R>
constexpr int64_t spare_rows = 0;
template <class R>
    requires requires { Operands<R>::spare_rows; }
constexpr int64_t spare_rows<R> = Operands<R>::spare_rows;

template <class R>
constexpr bool by_tiles = requires { typename Operands<R>::Tiles; };

// Numbers from a row of n operands to the next.  Those of a tile's rows go to different sets of the cache:
// they lie an odd number of its lines apart.
template <class R>
inline int64_t pitch_of(int64_t n) {
    const int64_t used = Operands<R>::padding(n);
    if constexpr (by_tiles<R>) return used + (used / Operands<R>::unit + 1) % 2 * Operands<R>::unit;
    else return used;
}

// Elements of a row of n operands.
template <class R>
inline int64_t depth_of(int64_t n) {
    return Operands<R>::padding(n) * sizeof(typename Operands<R>::O) /
           sizeof(typename Operands<R>::E);
}

// Store v rounded to R as an operand.
template <class R, class O, class P>
inline void store_operand(O* p, Vec<float> v, P part) {
    if constexpr (std::is_same_v<O, float>)
        store(p, rounded<R>(v), part);
    else
        store(p, v, part);
}

// Bytes of a packed (K, N) matrix.
template <class R>
inline int64_t packed_size(int64_t K, int64_t N) {
    if constexpr (is_stored<R>) {
        return stored_size(R{}, K, N);
    } else {
        using E = typename Operands<R>::E;
        return depth_of<R>(K) * panels<E>(N) * panel_width<E> * sizeof(E);
    }
}

// Pairs of the numbers at u and v; v null: zeros.
inline void pair_up(int64_t n, const bfloat16* u, const bfloat16* v, Pair* to) {
    each<float>(n, [&](int64_t j, auto part) {
        const Word low = lengthened(bits_at(u + j, part));
        const Word both = v ? low | lengthened(bits_at(v + j, part)) << 16 : low;
        store(reinterpret_cast<float*>(to + j), single(both), part);
    });
}

// A strip of a panel from a matrix that is given as its transpose, column w `across` numbers from the
// one before it, by squares of vectors: `square(p)` is the vector of elements that starts at p, `per` numbers
// each.
template <int per, class E, class T, class F>
inline void pack_turned(const T* from, int64_t rows, int64_t columns, int64_t across, E* to, F square) {
    using V = decltype(square(from));
    constexpr int L = int(sizeof(V) / sizeof(E)), W = panel_width<E>;
    for (int64_t w = 0; w < columns; w += L)
        for (int64_t k = 0; k < rows; k += L) {
            V v[L];
#pragma GCC unroll 16
            for (int l = 0; l < L; ++l) v[l] = square(from + (w + l) * across + k * per);
            transpose<L>(v);
#pragma GCC unroll 16
            for (int l = 0; l < L; ++l) memcpy(to + (k + l) * W + w, &v[l], sizeof(V));
        }
}

// Pairs of as many neighbours as two vectors have.
template <class T>
inline Word pairs_at(const T* p) {
    const Vec<T> low = load(p, All{}), high = load(p + lanes<T>, All{});
#ifdef __AVX512BF16__
    return (Word)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
#else
    const Short both[2] = {Conversion<bfloat16>::narrow(low), Conversion<bfloat16>::narrow(high)};
    Word pairs;
    memcpy(&pairs, both, sizeof pairs);
    return pairs;
#endif
}

// A strip of `rows` by `columns` elements of a panel that is rounded while it is packed, from
// `given` rows of numbers that are there.
template <class R, class T>
inline void pack_strip(const T* from, int64_t given, int64_t rows, int64_t columns, int64_t down,
                       int64_t across, typename Operands<R>::E* to) {
    using E = typename Operands<R>::E;
    constexpr int W = panel_width<E>, per = std::is_same_v<E, Pair> ? 2 : 1, most = 16;
    if constexpr (std::is_same_v<E, Pair>)
        if (down == 1 && columns == W && given == rows * per && rows % lanes<T> == 0) {
            pack_turned<per>(from, rows, columns, across, to, [](const T* p) { return pairs_at(p); });
            return;
        }
    T numbers[most * per * W];
    if (given < rows * per || columns < W) memset(numbers, 0, sizeof numbers);
    if (across == 1)
        for (int64_t k = 0; k < given; ++k)
            memcpy(numbers + k * W, from + k * down, columns * sizeof(T));
    else
        for (int64_t w = 0; w < columns; ++w)
            for (int64_t k = 0; k < given; ++k) numbers[k * W + w] = from[k * down + w * across];
    if constexpr (std::is_same_v<E, Pair>) {
        bfloat16 both[2][W];
        for (int64_t k = 0; k < rows; ++k) {
            for (int i = 0; i < 2; ++i)
                each<T>(W, [&](int64_t j, auto part) {
                    store(both[i] + j, load(numbers + (2 * k + i) * W + j, part), part);
                });
            pair_up(W, both[0], both[1], to + k * W);
        }
    } else {
        each<T>(rows * W, [&](int64_t j, auto part) {
            store_operand<R>(to + j, load(numbers + j, part), part);
        });
    }
}

// Pack the panels [first, last) of the matrix whose element (k, n) is m[k * down + n * across].
template <class R, class T>
inline void pack(const T* m, int64_t K, int64_t N, int64_t down, int64_t across, int64_t first,
                 int64_t last, void* packed) {
    using E = typename Operands<R>::E;
    constexpr int W = panel_width<E>, strip = 16, per = std::is_same_v<E, Pair> ? 2 : 1;
    const int64_t D = depth_of<R>(K);
    for (int64_t k0 = 0; k0 < D; k0 += chunk_depth) {
        const int64_t depth = D - k0 < chunk_depth ? D - k0 : chunk_depth;
        for (int64_t p = first; p < last; ++p) {
            E* to = static_cast<E*>(packed) + k0 * panels<E>(N) * W + p * depth * W;
            const T* from = m + k0 * per * down + p * W * across;
            const int64_t columns = N - p * W < W ? N - p * W : W;
            if (std::is_same_v<R, T> && columns < W) memset(to, 0, depth * W * sizeof(E));
            // in strips, so that neither the reads nor the writes of a column leave the cache
            for (int64_t s = 0; s < depth; s += strip) {
                const int64_t end = depth - s < strip ? depth : s + strip;
                if constexpr (!std::is_same_v<R, T>) {
                    const int64_t left = K - (k0 + s) * per, rows = (end - s) * per;
                    const int64_t given = left < 0 ? 0 : left < rows ? left : rows;
                    pack_strip<R>(from + s * per * down, given, end - s, columns, down, across,
                                  to + s * W);
                } else if (across == 1 && columns == W) {
                    for (int64_t k = s; k < end; ++k)
                        memcpy(to + k * W, from + k * down, W * sizeof(T));
                } else if (down == 1 && columns == W && (end - s) % lanes<T> == 0) {
                    pack_turned<1>(from + s, end - s, columns, across, to + s * W,
                                   [](const T* p) { return load(p, All{}); });
                } else {
                    for (int64_t w = 0; w < columns; ++w)
                        for (int64_t k = s; k < end; ++k)
                            to[k * W + w] = from[k * down + w * across];
                }
            }
        }
    }
}

// A block's operands: M rows whose elements are `across` apart, the depth and width of the product,
// the panels, the rows that the sums start from, where not from zeros, and where they go.
template <class E, int M>
struct Block {
    int64_t depth, across, columns;
    bool starts;
    const E* panel;
    const E* a[M];
    const SumOf<E>* init[M];
    SumOf<E>* c[M];
};

// M rows times P neighbouring panels, all sums in registers.
template <class E, int M, int P>
inline void multiply_block(const Block<E, M>& it) {
    using T = SumOf<E>;
    constexpr int W = panel_width<E>, L = lanes<T>, V = W / L * P;
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
    const E* a[M];
#pragma GCC unroll 32
    for (int m = 0; m < M; ++m) a[m] = it.a[m];
    const E* panel = it.panel;
    for (int64_t k = 0, i = 0; k < depth; ++k, i += across, panel += W) {
        typename Dot<E>::Vector b[V];
#pragma GCC unroll 32
        for (int v = 0; v < V; ++v)
            b[v] = Dot<E>::read(panel + v * L / W * depth * W + v * L % W);
#pragma GCC unroll 32
        for (int m = 0; m < M; ++m) {
            const E x = a[m][i];
#pragma GCC unroll 32
            for (int v = 0; v < V; ++v) Dot<E>::add(acc[m][v], x, b[v]);
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
template <class E, int M, int P, class F>
inline void block_of(int64_t m, F fill) {
    if (m == M) {
        Block<E, M> block;
        fill(block);
        multiply_block<E, M, P>(block);
    } else if constexpr (M > 1) {
        block_of<E, M - 1, P>(m, fill);
    }
}

// Row m of a stack of operands, as elements.
template <class O>
inline auto elements(const Stack<const O>& a, int64_t m) {
    using E = std::conditional_t<std::is_same_v<O, bfloat16>, Pair, O>;
    return reinterpret_cast<const E*>(a.at(m));
}

// The panels [first, last) of C.
template <class R, class T>
    requires(!is_stored<R>)
inline void product(int64_t M, int64_t N, int64_t K, Stack<const typename Operands<R>::O> a,
                    const void* packed, const T* bias, Stack<T> c, int64_t first, int64_t last) {
    using E = typename Operands<R>::E;
    constexpr int W = panel_width<E>;
    const int64_t D = depth_of<R>(K);
    if constexpr (by_tiles<R>) {
        if (M == 0 || first == last) return;
        typename Operands<R>::Tiles x(M < tile ? int(M) : tile);
        const int64_t apart = c.evenly(M) ? c.row : 0;
        auto row = [&](int64_t m) { return apart ? c.base + m * apart : c.at(m); };
        auto chunk = [&](int64_t k0) { return static_cast<const E*>(packed) + k0 * panels<E>(N) * W; };
        auto depth = [&](int64_t k0) { return D - k0 < chunk_depth ? D - k0 : chunk_depth; };
        // a last block of rows by itself has nothing to share a chunk with: it takes two panels at once
        const int64_t odd = M % (2 * tile), paired = odd > tile ? M : M - odd;
        if (paired > 0)
            for (int64_t k0 = 0; k0 < D; k0 += chunk_depth)
                for (int64_t p = first; p < last; ++p)
                    tile_rows(
                        x, paired, depth(k0), rows_at(a.base + 2 * k0, a.row),
                        chunk(k0) + p * depth(k0) * W, N - p * W, apart, k0 > 0 || bias,
                        [&](int64_t m) { return row(m) + p * W; },
                        [&](int64_t m) { return k0 > 0 ? row(m) + p * W : bias + p * W; });
        if (paired == M) return;
        auto alone = [&]<int P>(int64_t p) {
            tile_block<1, P>(
                x, M - paired, N - p * W, apart, bias, [&](int64_t m) { return row(paired + m) + p * W; },
                [&](int64_t) { return bias + p * W; }, [&] {
                    for (int64_t k0 = 0; k0 < D; k0 += chunk_depth)
                        tile_dots<1, P>(x, depth(k0), rows_at(a.base + paired * a.row + 2 * k0, a.row),
                                        chunk(k0) + p * depth(k0) * W);
                });
        };
        int64_t p = first;
        for (; p + 2 <= last; p += 2) alone.template operator()<2>(p);
        if (p < last) alone.template operator()<1>(p);
        return;
    }
    // rows that pass over a panel in one go: their part of A stays in the second-level cache
    constexpr int64_t most_rows = 96;
    const E* from[most_rows];
    T* to[most_rows];
    for (int64_t row = 0; row < M; row += most_rows) {
        const int64_t height = M - row < most_rows ? M - row : most_rows;
        for (int64_t i = 0; i < height; ++i) from[i] = elements(a, row + i), to[i] = c.at(row + i);
        for (int64_t k0 = 0; k0 < D; k0 += chunk_depth) {
            const int64_t depth = D - k0 < chunk_depth ? D - k0 : chunk_depth;
            const E* chunk = static_cast<const E*>(packed) + k0 * panels<E>(N) * W;
            auto pass = [&]<int P>(int64_t p) {
                constexpr int most = block_rows / P;
                for (; p + P <= last; p += P) {
                    // blocks of nearly equal height, which leave registers for the operands
                    int64_t done = 0;
                    for (int64_t blocks = up(height, most); blocks > 0; --blocks) {
                        const int64_t m = up(height - done, blocks);
                        block_of<E, most, P>(m, [&]<int rows>(Block<E, rows>& it) {
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

// A block's rows, rounded up to vectors.
template <class E>
constexpr int64_t whole_block = up(block_rows, lanes<SumOf<E>>) * lanes<SumOf<E>>;

// Elements of the memory that `outer` needs for stacks of K rows.
template <class E>
inline int64_t outer_memory(int64_t K) {
    K = up(K, tile) * tile;
    return (K < chunk_depth ? K : chunk_depth) * (most_columns + panel_width<E>) + whole_block<E>;
}

// `columns` numbers from column `first` on of element k of a stack, for all its columns.
template <class O, class E>
inline void copy_element(const Stack<const O>& a, int64_t K, int64_t k, int64_t first,
                         int64_t columns, E* to) {
    if constexpr (std::is_same_v<E, Pair>)
        pair_up(columns, a.at(2 * k) + first, 2 * k + 1 < K ? a.at(2 * k + 1) + first : nullptr, to);
    else
        memcpy(to, a.at(k) + first, columns * sizeof(E));
}

// `columns` columns from `first` on of as many pairs of rows as a vector has lanes, from pair k on, of
// K rows in all: as rows, `pitch` apart, and zeros in those of a vector that are no columns.
inline void turn_pairs(const Stack<const bfloat16>& a, int64_t K, int64_t k, int64_t first,
                       int64_t columns, Pair* to, int64_t pitch) {
    constexpr int L = lanes<float>;
    Word square[L];
    auto read = [&](auto part) {
#pragma GCC unroll 16
        for (int l = 0; l < L; ++l) {
            const int64_t row = 2 * (k + l);
            square[l] = row < K ? lengthened(bits_at(a.at(row) + first, part)) : Word{};
            if (row + 1 < K) square[l] |= lengthened(bits_at(a.at(row + 1) + first, part)) << 16;
        }
    };
    if (columns == L) read(All{});
    else read(Part{int(columns)});
    transpose<L>(square);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) memcpy(to + i * pitch, &square[i], sizeof square[i]);
}

// Numbers of the memory that `outer_of_tiles` sums up an (M, N) matrix in, a panel after the other.
inline int64_t tiles_of_panel(int64_t M) { return up(M, 2 * tile) * block_of_tiles; }
template <class R>
inline int64_t tiles_of(int64_t M, int64_t N) {
    return by_tiles<R> ? tiles_of_panel(M) * panels<Pair>(N) : 0;
}

// `outer` by tiles, whose left operand is the transpose of A, in C or in `tiles`, of which add_tiles makes
// rows: those pay where more is added later.
template <class R>
inline void outer_of_tiles(int64_t K, int64_t M, int64_t N, Stack<const bfloat16> a,
                           Stack<const bfloat16> b, bool add, float* c, int64_t ldc, float* tiles,
                           Pair* memory, int64_t first, int64_t last) {
    constexpr int W = panel_width<Pair>, L = lanes<float>;
    constexpr int64_t square = tile * tile;
    if (first == last) return;
    typename Operands<R>::Tiles x(tile);
    const int64_t D = up(K, 2 * tile) * tile;
    for (int64_t k0 = 0; k0 < D; k0 += chunk_depth, add = true)
        for (int64_t i0 = 0; i0 < M; i0 += most_columns) {
            const int64_t depth = D - k0 < chunk_depth ? D - k0 : chunk_depth;
            const int64_t given = K - 2 * k0 < 2 * depth ? K - 2 * k0 : 2 * depth;
            const int64_t height = M - i0 < most_columns ? M - i0 : most_columns;
            Pair *panel = memory, *left = memory + depth * W;
            const Left turned = {reinterpret_cast<const bfloat16*>(left), 2 * tile, 2 * square, 2 * tile * depth};
            if (given < 2 * depth) memset(left, 0, up(height, tile) * tile * depth * sizeof(Pair));
            for (int64_t k = 0; 2 * k < given; k += L)
                for (int64_t i = 0; i < height; i += L)
                    turn_pairs(a, 2 * k0 + given, k0 + k, i0 + i, height - i < L ? height - i : L,
                               left + i / tile * tile * depth + k / tile * square + i % tile * tile + k % tile,
                               tile);
            for (int64_t p = first; p < last; ++p) {
                const int64_t columns = N - p * W < W ? N - p * W : W;
                if (columns < W || given < 2 * depth) memset(panel, 0, depth * W * sizeof(Pair));
                for (int64_t k = 0; 2 * k < given; ++k)
                    copy_element(b, K, k0 + k, p * W, columns, panel + k * W);
                if (tiles)
                    tile_sums(x, height, depth, turned, panel, add,
                              tiles + p * tiles_of_panel(M) + i0 / (2 * tile) * block_of_tiles);
                else
                    tile_rows(x, height, depth, turned, panel, columns, ldc, add,
                              [&](int64_t m) { return c + (i0 + m) * ldc + p * W; });
            }
        }
}

// The panels [first, last) of C (M, N), the total of `count` such sums.
inline void add_tiles(const float* const* sums, int count, int64_t M, int64_t N, float* c, int64_t ldc,
                      int64_t first, int64_t last) {
    for (int64_t m0 = 0; m0 < M; m0 += tile)
        for (int64_t n0 = first * 2 * tile; n0 < N && n0 < last * 2 * tile; n0 += tile) {
            const int64_t at = n0 / (2 * tile) * tiles_of_panel(M) + m0 / (2 * tile) * block_of_tiles +
                               (m0 / tile % 2 * 2 + n0 / tile % 2) * tile * tile;
            for (int64_t m = 0; m < tile && m0 + m < M; ++m)
                each<float>(N - n0 < tile ? N - n0 : tile, [&](int64_t j, auto part) {
                    Vec<float> total = load(sums[0] + at + m * tile + j, part);
                    for (int i = 1; i < count; ++i) total += load(sums[i] + at + m * tile + j, part);
                    store(c + (m0 + m) * ldc + n0 + j, total, part);
                });
        }
}

// The panels [first, last) of C = A' B, or with `add` C += A' B: the sum over k of the products of
// row k of A, M columns, with row k of B, N columns.
template <class R, class T>
    requires(!by_tiles<R>)
inline void outer(int64_t K, int64_t M, int64_t N, Stack<const typename Operands<R>::O> a,
                  Stack<const typename Operands<R>::O> b, bool add, T* c, int64_t ldc,
                  typename Operands<R>::E* memory, int64_t first, int64_t last) {
    using E = typename Operands<R>::E;
    constexpr int W = panel_width<E>, per = std::is_same_v<E, Pair> ? 2 : 1;
    constexpr int64_t whole_vectors = whole_block<E>;
    if (first == last) return;
    const int64_t D = up(K, per);
    for (int64_t k0 = 0; k0 < D; k0 += chunk_depth, add = true)
        for (int64_t i0 = 0; i0 < M; i0 += most_columns) {
            const int64_t depth = D - k0 < chunk_depth ? D - k0 : chunk_depth;
            const int64_t height = M - i0 < most_columns ? M - i0 : most_columns;
            E *panel = memory, *turned = memory + depth * W;
            // the columns of A, as many as a block has rows side by side
            for (int64_t i = 0; i < height; i += block_rows) {
                E* to = turned + i * depth;
                const int64_t columns = height - i < block_rows ? height - i : block_rows;
                if (M - i0 - i >= whole_vectors)
                    // in whole vectors: what is too much, the next element or block takes
                    for (int64_t k = 0; k < depth; ++k)
                        copy_element(a, K, k0 + k, i0 + i, whole_vectors, to + k * block_rows);
                else if (columns == block_rows)
                    for (int64_t k = 0; k < depth; ++k)
                        copy_element(a, K, k0 + k, i0 + i, block_rows, to + k * block_rows);
                else
                    for (int64_t k = 0; k < depth; ++k)
                        copy_element(a, K, k0 + k, i0 + i, columns, to + k * block_rows);
            }
            for (int64_t p = first; p < last; ++p) {
                const int64_t columns = N - p * W;
                if (columns >= W) {
                    for (int64_t k = 0; k < depth; ++k)
                        copy_element(b, K, k0 + k, p * W, W, panel + k * W);
                } else {
                    memset(panel, 0, depth * W * sizeof(E));
                    for (int64_t k = 0; k < depth; ++k)
                        copy_element(b, K, k0 + k, p * W, columns, panel + k * W);
                }
                for (int64_t i = 0; i < height; i += block_rows)
                    block_of<E, block_rows, 1>(
                        height - i < block_rows ? height - i : block_rows,
                        [&]<int rows>(Block<E, rows>& it) {
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
