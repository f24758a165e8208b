// Tile registers, of the hardware (AMX-BF16) or emulated, and the products made of them.
//
// A tile has 16 rows of 64 bytes: of an operand on the left rows of 32 bfloat16, of one on the right
// 16 rows of 16 pairs, of sums 16 rows of 16 float32.  Both forms give the same bits.  Subnormal
// operands and sums count as zeros; infinities and what is not a number pass.
#pragma once

#include <cmath>
#include <cstdlib>

#include "half.h"

namespace lnrnn::LNRNN_ISA {

constexpr int tile = 16, tile_bytes = 64;
// Of the eight registers four are sums.  One or two of the others are operands on the left, the rest on
// the right; where sums have fewer rows than a tile, one.
constexpr int sums_at = 0, left_at = 4, registers = 8;

// Rows of register t where sums have `rows`.
constexpr int rows_of_register(int t, int rows) { return t <= left_at ? rows : tile; }

// Registers while one of these exists: sums and the first left operand have `rows` rows.
#ifdef __x86_64__
class Hardware {
public:
    explicit Hardware(int rows) : rows_(rows) {
        struct alignas(64) {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t bytes[16] = {};
            uint8_t rows[16] = {};
        } shape;
        for (int t = 0; t < registers; ++t)
            shape.bytes[t] = tile_bytes, shape.rows[t] = uint8_t(rows_of_register(t, rows));
        asm volatile("ldtilecfg %0" ::"m"(shape) : "memory");
    }
    ~Hardware() { asm volatile("tilerelease" ::: "memory"); }
    Hardware(const Hardware&) = delete;

    int rows() const { return rows_; }
    template <int t>
    void zero() { asm volatile("tilezero %%tmm%c0" ::"i"(t)); }
    template <int t>
    void load(const void* p, int64_t stride) {
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(t) : "memory");
    }
    template <int t>
    void store(void* p, int64_t stride) {
        asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(t) : "memory");
    }
    // sums += left right
    template <int sums, int left, int right>
    void dot() {
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(left), "i"(right));
    }

private:
    const int rows_;
};
#endif

// Products of two bfloat16 are exact in float32; even and odd ones are summed apart.
class Emulated {
public:
    explicit Emulated(int rows) : rows_(rows) {}
    Emulated(const Emulated&) = delete;

    int rows() const { return rows_; }
    template <int t>
    void zero() { memset(registers_[t], 0, sizeof registers_[t]); }
    template <int t>
    void load(const void* p, int64_t stride) {
        for (int r = 0; r < rows_of(t); ++r)
            memcpy(registers_[t][r], static_cast<const char*>(p) + r * stride, tile_bytes);
    }
    template <int t>
    void store(void* p, int64_t stride) {
        for (int r = 0; r < rows_of(t); ++r)
            memcpy(static_cast<char*>(p) + r * stride, registers_[t][r], tile_bytes);
    }
    template <int sums, int left, int right>
    void dot() {
        for (int m = 0; m < rows_; ++m)
            for (int n = 0; n < tile; ++n) {
                float even = 0, odd = 0;
                for (int k = 0; k < tile; ++k) {
                    const uint32_t a = registers_[left][m][k], b = registers_[right][k][n];
                    even = flushed(std::fma(number(a << 16), number(b << 16), even));
                    odd = flushed(std::fma(number(a & high), number(b & high), odd));
                }
                uint32_t& sum = registers_[sums][m][n];
                const float total = flushed(number(sum) + flushed(even + odd));
                memcpy(&sum, &total, sizeof sum);
            }
    }

private:
    static constexpr uint32_t high = 0xffff0000;

    int rows_of(int t) const { return rows_of_register(t, rows_); }
    static float flushed(float v) {
        return std::fabs(v) < 0x1p-126f ? std::copysign(0.0f, v) : v;
    }
    static float number(uint32_t bits) {
        float v;
        memcpy(&v, &bits, sizeof v);
        return flushed(v);
    }

    const int rows_;
    uint32_t registers_[registers][tile][tile] = {};
};

// Where four tiles of sums are: in C itself, or beside it where C has fewer rows or columns, where its
// rows lie anyhow, or where the sums start from a bias.
struct Beside {
    alignas(64) float at[4][tile][tile];
};

// How operands on the left lie: numbers from a row to the next, from a tile to the one beside it, and to
// the one below it.
struct Left {
    const bfloat16* at;
    int64_t row, beside, below;
};

// Add B row blocks times P panels of 32 columns, `depth` pairs deep, to sums in registers: four are under
// way, so that none waits for its last dot.  A panel begins where the one before it ends.
template <int B, int P, class X>
[[gnu::always_inline]] inline void tile_dots(X& x, int64_t depth, Left a, const Pair* panel) {
    static_assert(B == 1 || P == 1);
    constexpr int side_by_side = 2 * P;
    constexpr int64_t right_stride = 2 * tile * sizeof(Pair);
    constexpr int right_at = left_at + B, rights = registers - right_at;
    const int64_t left_stride = a.row * int64_t(sizeof(bfloat16)), next = depth * 2 * tile;
    for (int64_t k = 0; k < depth; k += tile, a.at += a.beside, panel += tile * 2 * tile) {
        x.template load<left_at>(a.at, left_stride);
        if constexpr (B == 2) x.template load<left_at + 1>(a.at + a.below, left_stride);
        [&]<size_t... j>(std::index_sequence<j...>) {
            auto column = [&]<int n>() {
                constexpr int right = right_at + n % rights;
                x.template load<right>(panel + n / 2 * next + n % 2 * tile, right_stride);
                x.template dot<sums_at + n, left_at, right>();
                if constexpr (B == 2) x.template dot<sums_at + side_by_side + n, left_at + 1, right>();
            };
            (column.template operator()<int(j)>(), ...);
        }(std::make_index_sequence<side_by_side>{});
    }
}

// Call f<i>() for the first n sums.
template <int n, class F>
[[gnu::always_inline]] inline void each_sum(F f) {
    [&]<size_t... i>(std::index_sequence<i...>) {
        (f.template operator()<int(i)>(), ...);
    }(std::make_index_sequence<n>{});
}

// C = init + A P of B row blocks and P panels: `add()` adds the dots of all depth to the sums, which start
// from zeros or, where `starts`, from init.  c(m) is row m of the sums, `apart` numbers from the next (0:
// anyhow), init(m) what it starts from; rows and columns are those within C.
template <int B, int P, class X, class C, class I, class D>
inline void tile_block(X& x, int64_t rows, int64_t columns, int64_t apart, bool starts, C c, I init,
                       D add) {
    constexpr int side_by_side = 2 * P, sums = B * side_by_side;
    constexpr int64_t width = side_by_side * tile;
    const bool whole = apart && columns >= width && (rows == B * tile || rows == x.rows());
    const bool here = whole && (!starts || init(0) == c(0));
    const int64_t across = columns < width ? columns : width;
    Beside beside;
    auto each_beside = [&](auto f) {  // vectors of C's rows, with what stands for them
        for (int64_t m = 0; m < rows; ++m)
            for (int64_t j = 0; j < across; j += tile)
                f(m, j, beside.at[m / tile * side_by_side + j / tile][m % tile],
                  across - j < tile ? across - j : tile);
    };
    if (starts && !here)
        each_beside([&](int64_t m, int64_t j, float* to, int64_t n) {
            memcpy(to, init(m) + j, n * sizeof(float));
        });
    auto at = [&](bool in_c, int i) {
        return in_c ? c(i / side_by_side * tile) + i % side_by_side * tile : &beside.at[i][0][0];
    };
    auto stride = [&](bool in_c) { return in_c ? apart * int64_t(sizeof(float)) : tile_bytes; };
    each_sum<sums>([&]<int i>() {
        if (starts) x.template load<sums_at + i>(at(here, i), stride(here));
        else x.template zero<sums_at + i>();
    });
    add();
    each_sum<sums>([&]<int i>() { x.template store<sums_at + i>(at(whole, i), stride(whole)); });
    if (!whole)
        each_beside([&](int64_t m, int64_t j, const float* from, int64_t n) {
            memcpy(c(m) + j, from, n * sizeof(float));
        });
}

// Rows of a matrix, `pitch` numbers apart, as operands on the left.
inline Left rows_at(const bfloat16* a, int64_t pitch) { return {a, pitch, 2 * tile, tile * pitch}; }

// All row blocks of M rows with one panel; where `starts`, from init or from C itself.
template <class X, class C, class I>
inline void tile_rows(X& x, int64_t M, int64_t depth, Left a, const Pair* panel, int64_t columns,
                      int64_t apart, bool starts, C c, I init) {
    for (int64_t m = 0; m < M; m += 2 * tile, a.at += 2 * a.below) {
        const int64_t rows = M - m < 2 * tile ? M - m : 2 * tile;
        auto block = [&]<int B>() {
            tile_block<B, 1>(
                x, rows, columns, apart, starts, [&](int64_t i) { return c(m + i); },
                [&](int64_t i) { return init(m + i); },
                [&] { tile_dots<B, 1>(x, depth, a, panel); });
        };
        if (rows > tile) block.template operator()<2>();
        else block.template operator()<1>();
    }
}

template <class X, class C>
inline void tile_rows(X& x, int64_t M, int64_t depth, Left a, const Pair* panel, int64_t columns,
                      int64_t apart, bool starts, C c) {
    tile_rows(x, M, depth, a, panel, columns, apart, starts, c, c);
}

// Numbers of a pair of row blocks by a panel, of which each tile lies by itself: as rows of a wide
// matrix, those of a tile would be in as many pages, and in one set of the first-level cache.
constexpr int64_t block_of_tiles = 2 * tile * 2 * tile;

// C += A P of M rows, or where not `add` C = A P, of such blocks one behind the other.  Of A whole
// pairs of row blocks are read.
template <class X>
inline void tile_sums(X& x, int64_t M, int64_t depth, Left a, const Pair* panel, bool add, float* c) {
    for (int64_t m = 0; m < M; m += 2 * tile, a.at += 2 * a.below, c += block_of_tiles) {
        each_sum<4>([&]<int i>() {
            if (add) x.template load<sums_at + i>(c + i * tile * tile, tile_bytes);
            else x.template zero<sums_at + i>();
        });
        tile_dots<2, 1>(x, depth, a, panel);
        each_sum<4>([&]<int i>() {
            x.template store<sums_at + i>(c + i * tile * tile, tile_bytes);
        });
    }
}

}  // namespace lnrnn::LNRNN_ISA
