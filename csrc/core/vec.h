// Vectors of the instruction set that this file is compiled for.
//
// LNRNN_ISA names the set and LNRNN_BYTES is the width of its vectors.  Everything of the kernel
// lives in a namespace of that name, so that two sets never share a compiled function.
#pragma once

#include <cstdint>
#include <cstring>

namespace lnrnn::LNRNN_ISA {

template <class T>
struct Lanes;

template <>
struct Lanes<float> {
    typedef float V __attribute__((vector_size(LNRNN_BYTES)));
    typedef int32_t I __attribute__((vector_size(LNRNN_BYTES)));
};

template <>
struct Lanes<double> {
    typedef double V __attribute__((vector_size(LNRNN_BYTES)));
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
    return Vec<T>{} + value;
}

template <class T>
inline Vec<T> load(const T* p, All) {
    Vec<T> v;
    memcpy(&v, p, sizeof v);
    return v;
}

template <class T>
inline Vec<T> load(const T* p, Part part) {
    Vec<T> v{};
    memcpy(&v, p, part.n * sizeof(T));
    return v;
}

template <class T>
inline void store(T* p, Vec<T> v, All) {
    memcpy(p, &v, sizeof v);
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

template <class T>
inline T sum(Vec<T> v) {
    T s = 0;
    for (int i = 0; i < lanes<T>; ++i) s += v[i];
    return s;
}

// Call f(j, part) for the vectors that start at j = 0, L, 2 L ... of a row of n.
template <class T, class F>
inline void each(int64_t n, F f) {
    int64_t j = 0;
    for (; j + lanes<T> <= n; j += lanes<T>) f(j, All{});
    if (j < n) f(j, Part{int(n - j)});
}

}  // namespace lnrnn::LNRNN_ISA
