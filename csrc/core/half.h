// Vectors of float32 from numbers of 16 bits in memory, and to them: rounded to nearest, ties to
// even, what is too large for float16 to infinity.
#pragma once

#include <type_traits>

#include "spec.h"
#include "vec.h"

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
#include <arm_neon.h>
#endif

namespace lnrnn::LNRNN_ISA {

// Two neighbours of a row, or of a column, that one instruction multiplies.
struct __attribute__((may_alias)) Pair {
    uint32_t bits;
};

template <class S>
constexpr bool is_half = std::is_same_v<S, bfloat16> || std::is_same_v<S, float16>;

typedef uint32_t Word __attribute__((vector_size(LNRNN_BYTES)));
typedef uint16_t Short __attribute__((vector_size(LNRNN_BYTES / 2)));
// in memory, as Lanes::Anywhere
typedef uint16_t ShortAnywhere __attribute__((vector_size(LNRNN_BYTES / 2), aligned(sizeof(uint16_t))));

inline Word word(Vec<float> v) {
    Word w;
    memcpy(&w, &v, sizeof w);
    return w;
}

inline Vec<float> single(Word w) {
    Vec<float> v;
    memcpy(&v, &w, sizeof v);
    return v;
}

// Numbers of 16 bits as words, and the lower halves of words: GCC makes several instructions of its
// own conversions.
inline Word lengthened(Short s) {
#if LNRNN_BYTES == 64
    __m256i half;
    memcpy(&half, &s, sizeof half);
    return (Word)_mm512_cvtepu16_epi32(half);
#elif defined(__AVX2__)
    __m128i half;
    memcpy(&half, &s, sizeof half);
    return (Word)_mm256_cvtepu16_epi32(half);
#else
    return __builtin_convertvector(s, Word);
#endif
}

inline Short shortened(Word w) {
#if LNRNN_BYTES == 64
    Short s;
    const __m256i half = _mm512_cvtepi32_epi16((__m512i)w);
    memcpy(&s, &half, sizeof s);
    return s;
#else
    return __builtin_convertvector(w, Short);
#endif
}

template <class S>
struct Conversion;

template <>
struct Conversion<bfloat16> {
    static Vec<float> widen(Short s) { return single(lengthened(s) << 16); }

    static Short narrow(Vec<float> v) {
#ifdef __AVX512BF16__
        Short s;
        const __m256bh found = _mm512_cvtneps_pbh((__m512)v);
        memcpy(&s, &found, sizeof s);
        return s;
#else
        const Word w = word(v);
        const Word nearest = (w + 0x7fff + (w >> 16 & 1)) >> 16;
        return shortened(v == v ? nearest : w >> 16 | 64);
#endif
    }
};

template <>
struct Conversion<float16> {
    static Vec<float> widen(Short s) {
#if defined(__AVX512F__)
        __m256i h;
        memcpy(&h, &s, sizeof h);
        return (Vec<float>)_mm512_cvtph_ps(h);
#elif defined(__F16C__)
        __m128i h;
        memcpy(&h, &s, sizeof h);
        return (Vec<float>)_mm256_cvtph_ps(h);
#else
        const Word w = lengthened(s);
        const Word magnitude = (w & 0x7fff) << 13, sign = (w & 0x8000) << 16;
        const Word finite = word(single(magnitude) * 0x1p112f);  // subnormal numbers too
        return single(sign | (magnitude < (31u << 23) ? finite : magnitude | 0x7f800000));
#endif
    }

    static Short narrow(Vec<float> v) {
#if defined(__AVX512F__)
        Short s;
        const __m256i h = _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
        memcpy(&s, &h, sizeof s);
        return s;
#elif defined(__F16C__)
        Short s;
        const __m128i h = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
        memcpy(&s, &h, sizeof s);
        return s;
#else
        const Word w = word(v), magnitude = w & 0x7fffffff;
        // from 2^-14 on the exponent is another one; below, the sum with 1/2 rounds
        const Word normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
        const Word small = word(single(magnitude) + 0.5f) - (126u << 23);
        Word h = magnitude < (113u << 23) ? small : normal;
        h = magnitude < (143u << 23) ? h : Word{} + 0x7c00;
        h = v == v ? h : Word{} + 0x7e00;
        return shortened(h | w >> 16 & 0x8000);
#endif
    }
};

template <class S>
    requires is_half<S>
inline Short bits_at(const S* p, All) {
    Short s;
    memcpy(&s, p, sizeof s);
    return s;
}

template <class S>
    requires is_half<S>
inline Short bits_at(const S* p, Part part) {
    Short s{};
    memcpy(&s, p, part.n * sizeof(S));
    return s;
}

template <class S, class P>
    requires is_half<S>
inline Vec<float> load(const S* p, P part) {
    return Conversion<S>::widen(bits_at(p, part));
}

template <class S>
    requires is_half<S>
inline void store(S* p, Vec<float> v, All) {
    *reinterpret_cast<ShortAnywhere*>(p) = Conversion<S>::narrow(v);
}

template <class S>
    requires is_half<S>
inline void store(S* p, Vec<float> v, Part part) {
    const Short s = Conversion<S>::narrow(v);
    memcpy(p, &s, part.n * sizeof(S));
}

// v as it comes back from memory of numbers R.
template <class R, class V>
inline V rounded(V v) {
    if constexpr (is_half<R>)
        return Conversion<R>::widen(Conversion<R>::narrow(v));
    else
        return v;
}

}  // namespace lnrnn::LNRNN_ISA
