// The errors of exp, sigmoid and tanh over every finite float32, in units in the last place.
//
// Prints the largest of each and fails above the bounds that functions.h states.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "isa.h"
#include "pool.h"

using namespace lnrnn;

namespace {

struct Function {
    const char* name;
    Activation kind;
    bool exponential;
    double bound;
    double normal;  // results below it need only be below it
    double (*exact)(double);
};

const Function functions[] = {
    {"exp", Activation::linear, true, 1.5, 0, [](double x) { return std::exp(x); }},
    {"sigmoid", Activation::sigmoid, false, 3.0, 0x1p-126,
     [](double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }},
    {"tanh", Activation::tanh, false, 3.0, 0, [](double x) { return std::tanh(x); }},
};

// The distance from y to the exact value, in units of the last place of a float32 there.  What is
// below `normal` counts as right.
double error(float y, double exact, double normal) {
    if (std::fabs(exact) < normal && std::fabs(y) <= normal) return 0;
    const float rounded = float(exact);
    if (std::isinf(rounded) || std::isinf(y)) return y == rounded ? 0 : 1e9;
    uint32_t bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    const uint64_t exponent = std::max<uint32_t>(bits >> 23 & 255, 1);
    const uint64_t unit_bits = (exponent - 127 - 23 + 1023) << 52;
    double unit;
    std::memcpy(&unit, &unit_bits, sizeof unit);
    return std::fabs(double(y) - exact) / unit;
}

}  // namespace

int main(int count, char** arguments) {
    const uint64_t stride = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
    int failures = 0;
    const Isa* isa = chosen();
    if (!isa) return 2;
    constexpr int64_t block = 1 << 14;
    for (const Function& f : functions) {
        const int workers = 2;
        std::vector<double> worst(workers, 0);
        std::vector<float> where(workers, 0);
        OwnPool(workers).run(workers, [&](int rank, int size) {
            std::vector<float> x(block), y(block);
            for (uint64_t start = rank * block * stride; start < 1ull << 32;
                 start += size * block * stride) {
                for (int64_t i = 0; i < block; ++i) {
                    const uint32_t bits = uint32_t(start + i * stride);
                    std::memcpy(&x[i], &bits, sizeof bits);
                    if (!std::isfinite(x[i])) x[i] = 0;
                }
                isa->single->function(f.kind, f.exponential, block, x.data(), y.data());
                for (int64_t i = 0; i < block; ++i) {
                    const double e = error(y[i], f.exact(x[i]), f.normal);
                    if (!(e <= worst[rank])) worst[rank] = e, where[rank] = x[i];
                }
            }
        });
        const int most = worst[1] > worst[0];
        std::printf("%-8s %s: at most %.3f ULP (at %.9g), bound %.1f\n", f.name, isa->name,
                    worst[most], where[most], f.bound);
        failures += !(worst[most] <= f.bound);
    }
    return failures != 0;
}
