// Emulated tiles beside those of the hardware, bit for bit, on numbers of all exponents, and beside
// sums in double on numbers near 1.
#include "tiles.h"

#include <cstdio>
#include <random>
#include <vector>

#include "isa.h"

using namespace lnrnn;
using namespace lnrnn::LNRNN_ISA;

namespace {

constexpr int64_t M = 45, depth = 64, panel = 32, width = 2 * panel;  // depth in pairs

// The sums of one product, which start from `start`: panel by panel, or where rows are few of both at
// once.  Rows of C may be taken for such that lie anyhow.
template <class X>
std::vector<float> sums(const std::vector<bfloat16>& a, const std::vector<Pair>& b,
                        const std::vector<float>& start, int64_t rows, int64_t columns, bool even) {
    std::vector<float> c = start;
    X x(rows < tile ? int(rows) : tile);
    const int64_t apart = even ? width : 0;
    if (rows <= tile) {
        auto row = [&](int64_t m) { return c.data() + m * width; };
        tile_block<1, 2>(x, rows, columns, apart, true, row, row, [&] {
            tile_dots<1, 2>(x, depth, rows_at(a.data(), 2 * depth), b.data());
        });
        return c;
    }
    for (int64_t first = 0; first < columns; first += panel)
        tile_rows(x, rows, depth, rows_at(a.data(), 2 * depth), b.data() + depth * first,
                  columns - first, apart, true, [&](int64_t m) { return c.data() + m * width + first; });
    return c;
}

bool usable(const char* name) {
    int count;
    const Isa* table = compiled(&count);
    for (int i = 0; i < count; ++i)
        if (std::strcmp(table[i].name, name) == 0) return table[i].usable();
    return false;
}

double number(uint32_t bits) {
    float v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

// Sums that are off by more than rounding, of numbers near 1.
int wrong(const std::vector<bfloat16>& a, const std::vector<Pair>& b, const std::vector<float>& start,
          const std::vector<float>& found, int64_t rows, int64_t columns) {
    int count = 0;
    for (int64_t m = 0; m < rows; ++m)
        for (int64_t n = 0; n < width; ++n) {
            double sum = start[m * width + n];
            for (int64_t k = 0; n < columns && k < 2 * depth; ++k) {
                const uint32_t pair = b[(n / panel * depth + k / 2) * panel + n % panel].bits;
                sum += number(a[m * 2 * depth + k].bits << 16) *
                       number(k % 2 ? pair & 0xffff0000 : pair << 16);
            }
            count += std::fabs(found[m * width + n] - sum) > 1e-4;
        }
    return count;
}

// Sums that are not the same bits; what is not a number has many.
int differing(const std::vector<float>& a, const std::vector<float>& b) {
    int count = 0;
    for (size_t i = 0; i < a.size(); ++i)
        count += std::memcmp(&a[i], &b[i], sizeof(float)) != 0 && !(std::isnan(a[i]) && std::isnan(b[i]));
    return count;
}

}  // namespace

int main() {
    std::mt19937 random(1);
    [[maybe_unused]] const bool hardware = usable("amx");
    int failures = 0;
    for (int round = 0; round < 40; ++round) {
        const bool tame = round % 2;  // numbers near 1, else any bits that are
        auto bits = [&] {
            const uint32_t any = random();
            return uint16_t(tame ? (any & 0x807f) | (126 + any % 2) << 7 : any);
        };
        std::vector<bfloat16> a((M + tile) * 2 * depth);
        std::vector<Pair> b(depth * width);
        std::vector<float> start(M * width);
        for (bfloat16& v : a) v.bits = bits();
        for (Pair& v : b) v.bits = bits() | uint32_t(bits()) << 16;
        for (float& v : start) v = float(number(uint32_t(bits()) << 16));
        for (int64_t rows : {int64_t(1), int64_t(7), int64_t(16), int64_t(17), int64_t(32), M})
            for (int64_t columns : {int64_t(5), panel, int64_t(41), width})
                for (bool even : {false, true}) {
                    const auto found = sums<Emulated>(a, b, start, rows, columns, even);
                    if (tame) failures += wrong(a, b, start, found, rows, columns);
#ifdef __x86_64__
                    if (!hardware) continue;
                    failures += differing(found, sums<Hardware>(a, b, start, rows, columns, even));
#endif
                }
    }
    std::printf("emulated tiles, %s: %d failures\n",
                hardware ? "beside the hardware's" : "no hardware here", failures);
    return failures != 0;
}
