// exp, sigmoid and tanh of vectors, and the activations made of them.
//
// Largest error over all finite float32 inputs, in units in the last place of the correctly
// rounded result (asserted by csrc/test/ulp.cpp):
//
//     exp 1.5    sigmoid 3    tanh 3
//
// NaN gives NaN.  Where the sigmoid is below the smallest normal number the error is at most that
// number; exp computes subnormal results too.
#pragma once

#include "spec.h"
#include "vec.h"

namespace lnrnn::LNRNN_ISA {

template <class T>
struct ExpConstants;

// e^r - 1 - r = r^2 P(r) on |r| <= ln(2) / 2: P interpolates at Chebyshev's points, to 6e-9
// (float) and 2e-19 (double) of e^r.  ln(2) is split so that n * ln2_high is exact.
template <>
struct ExpConstants<float> {
    static constexpr float p[] = {0.5f, 0.1666657702559799f, 0.041666554662050534f,
                                  0.008363173074513711f, 0.001392617611993558f};
    static constexpr float magic = 12582912.0f;  // 1.5 2^23: adding it rounds to an integer
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    static constexpr float least = -104.0f, most = 89.0f, normal = 87.34f;
    static constexpr int mantissa = 23, bias = 127;
};

template <>
struct ExpConstants<double> {
    static constexpr double p[] = {0.5,
                                   0.1666666666666667,
                                   0.04166666666666667,
                                   0.008333333333326141,
                                   0.0013888888888883752,
                                   0.00019841269874800493,
                                   2.4801587325533363e-05,
                                   2.7557255425746435e-06,
                                   2.7557273661348637e-07,
                                   2.510520637395701e-08,
                                   2.0914679376583935e-09};
    static constexpr double magic = 6755399441055744.0;  // 1.5 2^52
    static constexpr double ln2_high = 6.93147180369123816490e-01;
    static constexpr double ln2_low = 1.90821492927058770002e-10;
    static constexpr double least = -746.0, most = 710.0, normal = 708.4;
    static constexpr int mantissa = 52, bias = 1023;
};

template <class T>
inline Int<T> bits(Vec<T> v) {
    Int<T> i;
    memcpy(&i, &v, sizeof i);
    return i;
}

// 2^n for n within the exponents of normal numbers.
template <class T>
inline Vec<T> power_of_two(Int<T> n) {
    Int<T> i = (n + ExpConstants<T>::bias) << ExpConstants<T>::mantissa;
    Vec<T> v;
    memcpy(&v, &i, sizeof v);
    return v;
}

// x = n ln(2) + r: returns e^r - 1 and sets n.
template <class T>
inline Vec<T> reduced_expm1(Vec<T> x, Int<T>& n) {
    using K = ExpConstants<T>;
    Vec<T> shifted = x * T(1.4426950408889634) + K::magic;
    Vec<T> whole = shifted - K::magic;
    n = bits<T>(shifted) - bits<T>(splat<T>(K::magic));
    Vec<T> r = x - whole * K::ln2_high - whole * K::ln2_low;
    constexpr int terms = sizeof(K::p) / sizeof(T);
    Vec<T> p = splat<T>(K::p[terms - 1]);
    for (int i = terms - 2; i >= 0; --i) p = p * r + K::p[i];
    return r + r * r * p;
}

template <class T>
inline Vec<T> exp(Vec<T> x) {
    using K = ExpConstants<T>;
    x = x < K::least ? splat<T>(K::least) : x;  // NaN stays
    x = x > K::most ? splat<T>(K::most) : x;
    Int<T> n;
    Vec<T> y = reduced_expm1<T>(x, n) + T(1);
    Int<T> half = n >> 1;  // 2^n may be beyond the normal numbers, its root is not
    return y * power_of_two<T>(half) * power_of_two<T>(n - half);
}

// x within [-bound, bound]; NaN stays.
template <class T>
inline Vec<T> clamped(Vec<T> x, T bound) {
    x = x < -bound ? splat<T>(-bound) : x;
    return x > bound ? splat<T>(bound) : x;
}

// 1 / (1 + e^-x); within the bound 2^n is normal.
template <class T>
inline Vec<T> sigmoid(Vec<T> x) {
    Int<T> n;
    const Vec<T> q = reduced_expm1<T>(-clamped<T>(x, ExpConstants<T>::normal), n);
    return T(1) / (T(1) + (q + T(1)) * power_of_two<T>(n));
}

// With m = e^2x - 1: tanh x = m / (2 + m).
template <class T>
inline Vec<T> tanh(Vec<T> x) {
    Int<T> n;
    const Vec<T> q = reduced_expm1<T>(T(2) * clamped<T>(x, T(22)), n);
    const Vec<T> scale = power_of_two<T>(n);
    const Vec<T> m = q * scale + (scale - T(1));
    return m / (T(2) + m);
}

template <class T>
inline Vec<T> ramp(Vec<T> x, T slope) {
    Vec<T> y = x * slope + T(0.5);
    y = y < T(0) ? splat<T>(0) : y;
    return y > T(1) ? splat<T>(1) : y;
}

template <class T>
inline Vec<T> activate(Activation kind, Vec<T> x) {
    switch (kind) {
        case Activation::tanh: return tanh<T>(x);
        case Activation::sigmoid: return sigmoid<T>(x);
        case Activation::relu: return x < T(0) ? splat<T>(0) : x;
        case Activation::hard_sigmoid: return ramp<T>(x, T(1) / T(6));
        case Activation::keras2_hard_sigmoid: return ramp<T>(x, T(0.2));
        case Activation::linear: break;
    }
    return x;
}

// The derivative of an activation, from its value y.
template <class T>
inline Vec<T> slope(Activation kind, Vec<T> y) {
    const Vec<T> zero{}, one = splat<T>(1);
    switch (kind) {
        case Activation::tanh: return one - y * y;
        case Activation::sigmoid: return y * (one - y);
        case Activation::relu: return y > T(0) ? one : zero;
        case Activation::hard_sigmoid:
        case Activation::keras2_hard_sigmoid: {
            Vec<T> inside = splat<T>(kind == Activation::hard_sigmoid ? T(1) / T(6) : T(0.2));
            return ((y > T(0)) & (y < T(1))) ? inside : zero;
        }
        case Activation::linear: break;
    }
    return one;
}

// A smooth function is x s(w), s the sigmoid, with w = x (silu) or 2 sqrt(2 / pi) (x + a x^3) (gelu).
constexpr double gelu_scale = 1.5957691216057308, gelu_cube = 0.044715;

template <class T>
inline Vec<T> smooth_gate(Smooth kind, Vec<T> x) {
    if (kind == Smooth::silu) return sigmoid<T>(x);
    return sigmoid<T>(T(gelu_scale) * (x + T(gelu_cube) * x * x * x));
}

template <class T>
inline Vec<T> smooth(Smooth kind, Vec<T> x) {
    return x * smooth_gate<T>(kind, x);
}

// Its derivative.
template <class T>
inline Vec<T> smooth_slope(Smooth kind, Vec<T> x) {
    const Vec<T> s = smooth_gate<T>(kind, x), along = x * s * (T(1) - s);
    if (kind == Smooth::silu) return s + along;
    return s + along * T(gelu_scale) * (T(1) + T(3 * gelu_cube) * x * x);
}

}  // namespace lnrnn::LNRNN_ISA
