// Products with a matrix whose numbers are stored in fewer bits than float32: bfloat16, or integers
// of 8 bits with a scale for each column.  Sums, and all that is not a matrix, are in float32.
//
// Rows are few, as those of a stream are: a panel is packed over all its depth, in the order in
// which a product reads it.
#pragma once

#include <algorithm>
#include <cmath>

#include "product.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace lnrnn::LNRNN_ISA {

// rows are float32, as they are computed
template <class R>
    requires is_stored<R>
struct Operands<R> {
    using O = float;
    using E = float;
    static int64_t padding(int64_t n) { return n; }
};

constexpr int word_lanes = lanes<float>;
constexpr int stored_width = panel_width<float>;  // of a panel: two vectors of sums
static_assert(stored_width == 2 * word_lanes);

typedef int32_t Sums __attribute__((vector_size(LNRNN_BYTES)));

inline Word read_word(const uint32_t* p) {
    Word w;
    memcpy(&w, p, sizeof w);
    return w;
}

// The rows of a block and where its sums go; the first column is that of `panel`.
struct StoredRows {
    const float* const* a;
    float* const* c;
    const float* bias;  // from the first column on, or null
    int64_t columns;    // that are left
};

// Call f with a number of rows, at most `most`, as a template argument.
template <int most, class F>
inline void with_rows(int64_t m, F f) {
    if (m == most)
        f.template operator()<most>();
    else if constexpr (most > 1)
        with_rows<most - 1>(m, f);
}

// Blocks of rows and neighbouring panels: f<rows, panels>(first row, first panel).  Few rows take
// several panels at once, so that enough sums are under way.
template <class F>
inline void each_block(int64_t M, int64_t first, int64_t last, F f) {
    int64_t p = first;
    auto pass = [&]<int P>() {
        constexpr int most = block_rows / P > 8 ? 8 : block_rows / P;
        for (; p + P <= last; p += P)
            for (int64_t m = 0; m < M;) {
                const int64_t rows = std::min<int64_t>(M - m, most);
                with_rows<most>(rows, [&]<int N>() { f.template operator()<N, P>(m, p); });
                m += rows;
            }
    };
    if (M == 1) pass.template operator()<4>();
    if (M <= 2) pass.template operator()<2>();
    pass.template operator()<1>();
}

// Call f(j, part) for the vectors of `panels` panels of which `columns` columns are there.
template <int panels, class F>
inline void each_vector(int64_t columns, F f) {
    for (int v = 0; v < 2 * panels; ++v) {
        const int64_t left = columns - v * word_lanes;
        if (left >= word_lanes)
            f(v, All{});
        else if (left > 0)
            f(v, Part{int(left)});
    }
}

// bfloat16: word k of a vector holds the numbers of column k and, above it, of k + lanes.

inline int64_t stored_size(Stored<bfloat16>, int64_t K, int64_t N) {
    return K * panels<float>(N) * stored_width * sizeof(bfloat16);
}

inline uint32_t upper_half(float v) {
    uint32_t w;
    memcpy(&w, &v, sizeof w);
    if (v != v) return w >> 16 | 64;
    return (w + 0x7fff + (w >> 16 & 1)) >> 16;
}

template <class R, class T>
    requires std::is_same_v<R, Stored<bfloat16>>
inline void pack(const T* m, int64_t K, int64_t N, int64_t down, int64_t across, int64_t first,
                 int64_t last, void* packed) {
    for (int64_t p = first; p < last; ++p) {
        uint32_t* to = static_cast<uint32_t*>(packed) + p * K * word_lanes;
        auto at = [&](int64_t k, int64_t n) {
            return n < N ? upper_half(m[k * down + n * across]) : 0;
        };
        for (int64_t k = 0; k < K; ++k)
            for (int64_t w = 0; w < word_lanes; ++w) {
                const int64_t n = p * stored_width + w;
                to[k * word_lanes + w] = at(k, n) | at(k, n + word_lanes) << 16;
            }
    }
}

template <int M, int P>
inline void multiply_words(const StoredRows& it, int64_t K, const uint32_t* panel) {
    Vec<float> acc[M][2 * P];
#pragma GCC unroll 32
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 32
        for (int v = 0; v < 2 * P; ++v) acc[m][v] = Vec<float>{};
    if (it.bias)
        each_vector<P>(it.columns, [&](int v, auto part) {
            for (int m = 0; m < M; ++m) acc[m][v] = load(it.bias + v * word_lanes, part);
        });
    for (int64_t k = 0; k < K; ++k)
#pragma GCC unroll 32
        for (int p = 0; p < P; ++p) {
            const Word both = read_word(panel + (p * K + k) * word_lanes);
            const Vec<float> low = single(both << 16), high = single(both & 0xffff0000);
#pragma GCC unroll 32
            for (int m = 0; m < M; ++m) {
                acc[m][2 * p] += it.a[m][k] * low;
                acc[m][2 * p + 1] += it.a[m][k] * high;
            }
        }
    each_vector<P>(it.columns, [&](int v, auto part) {
        for (int m = 0; m < M; ++m) store(it.c[m] + v * word_lanes, acc[m][v], part);
    });
}

// Integers of 8 bits, -127 to 127 times the scale of their column; rows are rounded alike to
// unsigned ones, with 128 for 0, at each product.  The integers of four neighbours of a column
// are one word.

constexpr int64_t per_word = 4;
constexpr int row_zero = 128, most_stored = 127;
// Depth over which sums are integers; beyond it they are added up in float32.
constexpr int64_t integer_depth = 4096;

// What follows the words of a packed matrix: the scales of its columns, and for each run of
// `integer_depth` what the zero of the rows has added to the sums of the columns.
struct Columns {
    int64_t padded;
    float* scale;
    int32_t* zero;

    Columns(void* packed, int64_t K, int64_t N) {
        padded = panels<float>(N) * stored_width;
        scale = reinterpret_cast<float*>(static_cast<char*>(packed) + up(K, per_word) * per_word * padded);
        zero = reinterpret_cast<int32_t*>(scale + padded);
    }
    static int64_t bytes(int64_t K, int64_t N) {
        return panels<float>(N) * stored_width * (1 + up(K, integer_depth)) * sizeof(float);
    }
};

inline int64_t stored_size(Stored<int8_t>, int64_t K, int64_t N) {
    return up(K, per_word) * per_word * panels<float>(N) * stored_width + Columns::bytes(K, N);
}

template <class R, class T>
    requires std::is_same_v<R, Stored<int8_t>>
inline void pack(const T* m, int64_t K, int64_t N, int64_t down, int64_t across, int64_t first,
                 int64_t last, void* packed) {
    const Columns about(packed, K, N);
    const int64_t words = up(K, per_word), runs = up(K, integer_depth);
    for (int64_t n = first * stored_width; n < last * stored_width; ++n) {
        const T* column = m + n * across;
        float largest = 0;
        if (n < N)
            for (int64_t k = 0; k < K; ++k)
                largest = std::max(largest, std::fabs(float(column[k * down])));
        const float scale = largest / most_stored;
        about.scale[n] = scale;
        for (int64_t run = 0; run < runs; ++run) about.zero[run * about.padded + n] = 0;
        int8_t* to = static_cast<int8_t*>(packed) +
                     (n / stored_width * words * stored_width + n % stored_width) * per_word;
        for (int64_t k = 0; k < words * per_word; ++k) {
            const bool there = n < N && k < K && scale > 0;
            const int value = there ? int(std::nearbyint(column[k * down] / scale)) : 0;
            to[k / per_word * stored_width * per_word + k % per_word] = int8_t(value);
            about.zero[k / integer_depth * about.padded + n] += row_zero * value;
        }
    }
}

// sums + the products of the four integers of each word with those of x
inline Sums add_products(Sums sums, uint32_t x, Word w) {
#if defined(__AVX512VNNI__)
    return (Sums)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(int(x)), (__m512i)w);
#elif defined(__SSE2__)
    typedef int16_t Halves __attribute__((vector_size(LNRNN_BYTES)));
    const uint32_t even = x & 0x00ff00ff, odd = x >> 8 & 0x00ff00ff;
    const Halves h = (Halves)w;
    const Halves low = (Halves)((Halves)(w << 8) >> 8), high = h >> 8;
#if LNRNN_BYTES == 64
    sums += (Sums)_mm512_madd_epi16((__m512i)low, _mm512_set1_epi32(int(even)));
    return sums + (Sums)_mm512_madd_epi16((__m512i)high, _mm512_set1_epi32(int(odd)));
#elif LNRNN_BYTES == 32
    sums += (Sums)_mm256_madd_epi16((__m256i)low, _mm256_set1_epi32(int(even)));
    return sums + (Sums)_mm256_madd_epi16((__m256i)high, _mm256_set1_epi32(int(odd)));
#else
    sums += (Sums)_mm_madd_epi16((__m128i)low, _mm_set1_epi32(int(even)));
    return sums + (Sums)_mm_madd_epi16((__m128i)high, _mm_set1_epi32(int(odd)));
#endif
#else
    for (int i = 0; i < per_word; ++i)
        sums += ((Sums)(w << (24 - 8 * i)) >> 24) * int32_t(x >> 8 * i & 255);
    return sums;
#endif
}

// The rows of a block as integers: `words` words each, of which x = (integer - 128) scale.
template <int M>
struct RoundedRows {
    uint32_t words[M][integer_depth / per_word];
    float scale[M];
};

// The scale of a row of K numbers; not a number where one of them is not finite.
inline float scale_of_row(const float* a, int64_t K) {
    Vec<float> largest{}, odd{};
    each<float>(K, [&](int64_t k, auto part) {
        const Vec<float> v = load(a + k, part), size = v < 0 ? -v : v;
        largest = size > largest ? size : largest;
        odd += v * 0.0f;
    });
    float most = 0;
    for (int i = 0; i < word_lanes; ++i) most = std::max(most, largest[i]);
    return most / most_stored + sum<float>(odd);
}

// K numbers as unsigned integers around `row_zero`, filled up to whole words.
inline void round_row(const float* a, int64_t K, float scale, uint32_t* words) {
    constexpr float magic = 12582912.0f;  // 1.5 2^23: adding it rounds to an integer
    const float factor = scale > 0 ? 1 / scale : 0;
    typedef uint8_t Bytes __attribute__((vector_size(LNRNN_BYTES / 4)));
    uint8_t* to = reinterpret_cast<uint8_t*>(words);
    each<float>(K, [&](int64_t k, auto part) {
        Vec<float> v = load(a + k, part) * factor;
        v = clamped<float>(v, float(most_stored)) + (magic + float(row_zero));
        const Bytes found = __builtin_convertvector(word(v) & 255, Bytes);
        if constexpr (std::is_same_v<decltype(part), All>)
            memcpy(to + k, &found, sizeof found);
        else
            memcpy(to + k, &found, part.n);
    });
    for (int64_t k = K; k % per_word; ++k) to[k] = row_zero;
}

template <int M, int P>
inline void multiply_integers(const StoredRows& it, int64_t K, const uint32_t* panel,
                              int64_t panel_words, const float* scales, const int32_t* zeros,
                              const uint32_t* const* x, const float* row_scales, bool starts) {
    Sums acc[M][2 * P];
#pragma GCC unroll 32
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 32
        for (int v = 0; v < 2 * P; ++v) acc[m][v] = Sums{};
    for (int64_t k = 0; k < up(K, per_word); ++k)
#pragma GCC unroll 32
        for (int v = 0; v < 2 * P; ++v) {
            const Word w = read_word(panel + v / 2 * panel_words + k * stored_width +
                                     v % 2 * word_lanes);
#pragma GCC unroll 32
            for (int m = 0; m < M; ++m) acc[m][v] = add_products(acc[m][v], x[m][k], w);
        }
    each_vector<P>(it.columns, [&](int v, auto part) {
        Sums zero;
        memcpy(&zero, zeros + v * word_lanes, sizeof zero);
        const Vec<float> scale = load(scales + v * word_lanes, All{});
        for (int m = 0; m < M; ++m) {
            float* c = it.c[m] + v * word_lanes;
            const Vec<float> found = __builtin_convertvector(acc[m][v] - zero, Vec<float>);
            const Vec<float> before = starts        ? load(c, part)
                                      : it.bias ? load(it.bias + v * word_lanes, part)
                                                : Vec<float>{};
            store(c, before + found * (scale * row_scales[m]), part);
        }
    });
}

// The panels [first, last) of C = bias + A P.
template <class R, class T>
    requires is_stored<R>
inline void product(int64_t M, int64_t N, int64_t K, Stack<const typename Operands<R>::O> a,
                    const void* packed, const T* bias, Stack<T> c, int64_t first, int64_t last) {
    constexpr int most = 8;
    const float* from[most];
    float* to[most];
    for (int64_t row = 0; row < M; row += most) {
        const int64_t rows = std::min<int64_t>(M - row, most);
        for (int64_t i = 0; i < rows; ++i) from[i] = a.at(row + i);
        auto block = [&](int64_t m, int64_t p) {
            for (int64_t i = m; i < rows; ++i) to[i] = c.at(row + i) + p * stored_width;
            return StoredRows{from + m, to + m, bias ? bias + p * stored_width : nullptr,
                              N - p * stored_width};
        };
        if constexpr (std::is_same_v<R, Stored<bfloat16>>) {
            each_block(rows, first, last, [&]<int m_, int p_>(int64_t m, int64_t p) {
                multiply_words<m_, p_>(block(m, p), K,
                                       static_cast<const uint32_t*>(packed) + p * K * word_lanes);
            });
        } else {
            const Columns about(const_cast<void*>(packed), K, N);
            const int64_t panel_words = up(K, per_word) * stored_width;
            RoundedRows<most> x;
            const uint32_t* words[most];
            for (int64_t i = 0; i < rows; ++i) {
                x.scale[i] = scale_of_row(from[i], K);
                words[i] = x.words[i];
            }
            for (int64_t k = 0; k < K; k += integer_depth) {
                const int64_t depth = std::min(K - k, integer_depth);
                for (int64_t i = 0; i < rows; ++i)
                    round_row(from[i] + k, depth, x.scale[i], x.words[i]);
                const uint32_t* at =
                    static_cast<const uint32_t*>(packed) + k / per_word * stored_width;
                const int32_t* zeros = about.zero + k / integer_depth * about.padded;
                each_block(rows, first, last, [&]<int m_, int p_>(int64_t m, int64_t p) {
                    multiply_integers<m_, p_>(block(m, p), depth, at + p * panel_words, panel_words,
                                              about.scale + p * stored_width,
                                              zeros + p * stored_width, words + m, x.scale + m,
                                              k > 0);
                });
            }
        }
    }
}

}  // namespace lnrnn::LNRNN_ISA
