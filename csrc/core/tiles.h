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
// of the eight registers four are sums, two operands on the left, two on the right
constexpr int sums_at = 0, left_at = 4, right_at = 6, registers = 8;

// Registers while one of these exists: sums and left operands have `rows` rows.
#ifdef __x86_64__
class Hardware {
public:
    explicit Hardware(int rows) {
        struct alignas(64) {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t bytes[16] = {};
            uint8_t rows[16] = {};
        } shape;
        for (int t = 0; t < registers; ++t)
            shape.bytes[t] = tile_bytes, shape.rows[t] = uint8_t(t < right_at ? rows : tile);
        asm volatile("ldtilecfg %0" ::"m"(shape) : "memory");
    }
    ~Hardware() { asm volatile("tilerelease" ::: "memory"); }
    Hardware(const Hardware&) = delete;

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
};
#endif

// Products of two bfloat16 are exact in float32; even and odd ones are summed apart.
class Emulated {
public:
    explicit Emulated(int rows) : rows_(rows) {}
    Emulated(const Emulated&) = delete;

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

    static int rows_of(int t, int rows) { return t < right_at ? rows : tile; }
    int rows_of(int t) const { return rows_of(t, rows_); }
    static float flushed(float v) {
        return std::fabs(v) < 0x1p-126f ? std::copysign(0.0f, v) : v;
    }
    static float number(uint32_t bits) {
        float v;
        memcpy(&v, &bits, sizeof v);
        return flushed(v);
    }

    int rows_;
    uint32_t registers_[registers][tile][tile] = {};
};

// Where the tiles of two by two blocks of sums are: in C itself, or beside it where C has fewer rows
// or columns, or where the sums start from a bias.
struct Beside {
    alignas(64) float at[2][2][tile][tile];
};

// B row blocks times one panel of 32 columns, `depth` pairs deep.  `a` has rows `pitch` numbers
// apart; c(m) is row m of the sums, init(m) what it starts from where `starts`; rows and columns are
// those within C.
template <int B, class X, class I, class C>
inline void tile_block(X& x, int64_t depth, const bfloat16* a, int64_t pitch, const Pair* panel,
                       int64_t rows, int64_t columns, bool starts, I init, C c) {
    constexpr int64_t width = 2 * tile;
    const int64_t apart = rows > 1 ? c(1) - c(0) : width;
    bool whole = rows == B * tile && columns >= width;
    for (int64_t m = 1; whole && m < rows; ++m) whole = c(m) - c(m - 1) == apart;
    Beside beside;
    const bool here = whole && (!starts || init(0) == c(0));
    const int64_t across = columns < width ? columns : width;
    if (starts && !here)
        for (int64_t m = 0; m < rows; ++m)
            for (int64_t j = 0; j < across; ++j)
                beside.at[m / tile][j / tile][m % tile][j % tile] = init(m)[j];
    auto each_tile = [&](auto f) {
        f.template operator()<0, 0>();
        f.template operator()<0, 1>();
        if constexpr (B == 2) {
            f.template operator()<1, 0>();
            f.template operator()<1, 1>();
        }
    };
    auto at = [&](bool in_c, int i, int j) {
        return in_c ? c(i * tile) + j * tile : &beside.at[i][j][0][0];
    };
    auto stride = [&](bool in_c) { return in_c ? apart * int64_t(sizeof(float)) : tile_bytes; };
    each_tile([&]<int i, int j>() {
        if (starts) x.template load<sums_at + 2 * i + j>(at(here, i, j), stride(here));
        else x.template zero<sums_at + 2 * i + j>();
    });
    constexpr int64_t right_stride = width * sizeof(Pair);
    const int64_t left_stride = pitch * int64_t(sizeof(bfloat16));
    for (int64_t k = 0; k < depth; k += tile, a += 2 * tile, panel += tile * width) {
        x.template load<right_at>(panel, right_stride);
        x.template load<left_at>(a, left_stride);
        x.template load<right_at + 1>(panel + tile, right_stride);
        x.template dot<sums_at, left_at, right_at>();
        if constexpr (B == 2) x.template load<left_at + 1>(a + tile * pitch, left_stride);
        x.template dot<sums_at + 1, left_at, right_at + 1>();
        if constexpr (B == 2) {
            x.template dot<sums_at + 2, left_at + 1, right_at>();
            x.template dot<sums_at + 3, left_at + 1, right_at + 1>();
        }
    }
    each_tile([&]<int i, int j>() {
        x.template store<sums_at + 2 * i + j>(at(whole, i, j), stride(whole));
    });
    if (!whole)
        for (int64_t m = 0; m < rows; ++m)
            for (int64_t j = 0; j < across; ++j)
                c(m)[j] = beside.at[m / tile][j / tile][m % tile][j % tile];
}

// Exchange rows and columns of a square of 32-bit numbers, a vector to a row: blocks of half the size
// off the diagonal, then of a quarter, to single numbers.
template <int half, size_t... lane>
inline void exchange(Word* v, std::index_sequence<lane...>) {
    constexpr int L = int(sizeof...(lane));
    for (int i = 0; i < L; ++i) {
        if (i & half) continue;
        const Word a = v[i], b = v[i + half];
        v[i] = __builtin_shufflevector(a, b, (lane & half ? lane - half + L : lane)...);
        v[i + half] = __builtin_shufflevector(a, b, (lane & half ? lane + L : lane + half)...);
    }
}

template <int half = lanes<float> / 2>
inline void transpose(Word* v) {
    exchange<half>(v, std::make_index_sequence<lanes<float>>{});
    if constexpr (half > 1) transpose<half / 2>(v);
}

// All row blocks of M rows with one panel.
template <class X, class I, class C>
inline void tile_rows(X& x, int64_t M, int64_t depth, const bfloat16* a, int64_t pitch,
                      const Pair* panel, int64_t columns, bool starts, I init, C c) {
    for (int64_t m = 0; m < M; m += 2 * tile) {
        const int64_t rows = M - m < 2 * tile ? M - m : 2 * tile;
        auto init_here = [&](int64_t i) { return init(m + i); };
        auto c_here = [&](int64_t i) { return c(m + i); };
        if (rows > tile)
            tile_block<2>(x, depth, a + m * pitch, pitch, panel, rows, columns, starts, init_here,
                          c_here);
        else
            tile_block<1>(x, depth, a + m * pitch, pitch, panel, rows, columns, starts, init_here,
                          c_here);
    }
}

}  // namespace lnrnn::LNRNN_ISA
