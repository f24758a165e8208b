// Numbers of every precision, from doubles.
#pragma once

#include <cmath>
#include <cstring>

#include "spec.h"

namespace lnrnn {

// numbers of 16 bits, near enough
inline void put(double from, float& to) { to = float(from); }
inline void put(double from, double& to) { to = from; }
inline void put(double from, bfloat16& to) {
    const float v = float(from);
    uint32_t bits;
    std::memcpy(&bits, &v, sizeof bits);
    to.bits = uint16_t(bits >> 16);
}
inline void put(double from, float16& to) {
    int exponent = 0;
    const double part = std::frexp(std::fabs(from), &exponent);  // in [1/2, 1)
    const bool normal = exponent > -14;
    to.bits = uint16_t((std::signbit(from) ? 0x8000 : 0) |
                       (std::isnan(from) ? 0x7e00
                        : normal         ? (exponent + 14) << 10 | (int(part * 2048) & 1023)
                                         : 0));
}

inline double number(double v) { return v; }
inline double number(bfloat16 v) {
    const uint32_t bits = uint32_t(v.bits) << 16;
    float found;
    std::memcpy(&found, &bits, sizeof found);
    return found;
}
inline double number(float16 v) {
    const int exponent = v.bits >> 10 & 31, part = v.bits & 1023;
    const double size = exponent ? std::ldexp(1024 + part, exponent - 25) : std::ldexp(part, -24);
    return v.bits >> 15 ? -size : size;
}

inline bool is_finite(float v) { return std::isfinite(v); }
inline bool is_finite(double v) { return std::isfinite(v); }
inline bool is_finite(bfloat16 v) { return (v.bits >> 7 & 255) != 255; }
inline bool is_finite(float16 v) { return (v.bits >> 10 & 31) != 31; }

}  // namespace lnrnn
