// Vectors of the instruction set that this file is compiled for.
//
// LNRNN_ISA names the set and LNRNN_BYTES is the width of its vectors.  Everything of the kernel
// lives in a namespace of that name, so that two sets never share a compiled function.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

namespace lnrnn::LNRNN_ISA {

template <class T>
struct Lanes;

// `Anywhere` is in memory at any multiple of an element; memcpy might change any object, so that
// after a store by it pointers would be read again.
template <>
struct Lanes<float> {
    typedef float V __attribute__((vector_size(LNRNN_BYTES)));
    typedef float Anywhere __attribute__((vector_size(LNRNN_BYTES), aligned(sizeof(float))));
    typedef int32_t I __attribute__((vector_size(LNRNN_BYTES)));
};

template <>
struct Lanes<double> {
    typedef double V __attribute__((vector_size(LNRNN_BYTES)));
    typedef double Anywhere __attribute__((vector_size(LNRNN_BYTES), aligned(sizeof(double))));
    typedef int64_t I __attribute__((vector_size(LNRNN_BYTES)));
};

template <class T>
using Vec = typename Lanes<T>::V;
template <class T>
using Int = typename Lanes<T>::I;
template <class T>
constexpr int lanes = LNRNN_BYTES / sizeof(T);

// How much of a vector lies within a row: all of it, or the first n lanes of the last one.
struct All {};
struct Part {
    int n;
};

template <class T>
inline Vec<T> splat(T value) {
    return value - Vec<T>{};  // x - 0 is x, and so folded; x + 0 is not for x = -0
}

template <class T>
inline Vec<T> load(const T* p, All) {
    return *reinterpret_cast<const typename Lanes<T>::Anywhere*>(p);
}

template <class T>
inline Vec<T> load(const T* p, Part part) {
    Vec<T> v{};
    memcpy(&v, p, part.n * sizeof(T));
    return v;
}

template <class T>
inline void store(T* p, Vec<T> v, All) {
    *reinterpret_cast<typename Lanes<T>::Anywhere*>(p) = v;
}

template <class T>
inline void store(T* p, Vec<T> v, Part part) {
    memcpy(p, &v, part.n * sizeof(T));
}

// The lanes within the row; zeros in the others.
template <class T>
inline Vec<T> within(Vec<T> v, All) {
    return v;
}

template <class T>
inline Vec<T> within(Vec<T> v, Part part) {
    Vec<T> kept{};
    memcpy(&kept, &v, part.n * sizeof(T));
    return kept;
}

template <class T, int by, size_t... lane>
inline Vec<T> rotated(Vec<T> v, std::index_sequence<lane...>) {
    return __builtin_shufflevector(v, v, ((lane + by) % lanes<T>)...);
}

// The sum over all lanes, in log2(L) additions.
template <class T, int by = lanes<T> / 2>
inline T sum(Vec<T> v) {
    if constexpr (by == 0)
        return v[0];
    else
        return sum<T, by / 2>(v + rotated<T, by>(v, std::make_index_sequence<lanes<T>>{}));
}

// Exchange rows and columns of a square, a vector to a row: blocks of half the size off the diagonal,
// then of a quarter, to single numbers.
template <int half, class V, size_t... lane>
[[gnu::always_inline]] inline void exchange(V* v, std::index_sequence<lane...>) {
    constexpr int L = int(sizeof...(lane));
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
        if (i & half) continue;
        const V a = v[i], b = v[i + half];
        v[i] = __builtin_shufflevector(a, b, (lane & half ? lane - half + L : lane)...);
        v[i + half] = __builtin_shufflevector(a, b, (lane & half ? lane + L : lane + half)...);
    }
}

template <int L, int half = L / 2, class V>
[[gnu::always_inline]] inline void transpose(V* v) {
    exchange<half>(v, std::make_index_sequence<L>{});
    if constexpr (half > 1) transpose<L, half / 2>(v);
}

// Call f(j, part) for the vectors that start at j = first, first + L, first + 2 L ... below last.
template <class T, class F>
[[gnu::always_inline]] inline void each(int64_t first, int64_t last, F f) {
    int64_t j = first;
    for (; j + lanes<T> <= last; j += lanes<T>) f(j, All{});
    if (j < last) f(j, Part{int(last - j)});
}

template <class T, class F>
[[gnu::always_inline]] inline void each(int64_t n, F f) {
    each<T>(0, n, f);
}

// The sum of f(j, part) over a row of n, lane by lane; four sums under way hide the latency of
// additions.
template <class T, class F>
inline Vec<T> total(int64_t n, F f) {
    constexpr int L = lanes<T>;
    Vec<T> a{}, b{}, c{}, d{};
    int64_t j = 0;
    for (; j + 4 * L <= n; j += 4 * L) {
        a += f(j, All{});
        b += f(j + L, All{});
        c += f(j + 2 * L, All{});
        d += f(j + 3 * L, All{});
    }
    for (; j + L <= n; j += L) a += f(j, All{});
    if (j < n) b += f(j, Part{int(n - j)});
    return (a + b) + (c + d);
}

}  // namespace lnrnn::LNRNN_ISA
