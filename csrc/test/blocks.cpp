// Odd sizes of the block GRU with masks and resets, for the sanitizers; two callers at once, then one alone.
//
// Fails where a result is not a number, where two runs differ in a bit, or where one thread finds
// other numbers than several.  LNRNN_SPLIT divides the units.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "block_run.h"

using namespace lnrnn;

namespace {

template <class T>
struct Arrays {
    std::vector<std::vector<T>> owned;
    std::vector<std::vector<uint8_t>> flags;
    void* at[block::arrays] = {};

    void add(int name, int64_t n, std::mt19937& random, bool given) {
        std::uniform_real_distribution<double> value(-1, 1);
        owned.emplace_back(n);
        // results start as not a number
        for (T& v : owned.back()) v = T(given ? value(random) : NAN);
        at[name] = owned.back().data();
    }
    void add_flags(int name, int64_t n, std::mt19937& random) {
        flags.emplace_back(n);
        for (uint8_t& f : flags.back()) f = random() % 3 != 0;
        at[name] = flags.back().data();
    }
};

template <class T>
int one(unsigned seed) {
    std::mt19937 random(seed);
    // now and then more rows than one chunk has, or more units of a block and a wider projection than
    // one depth of a product
    const int kind = random() % 16;
    const bool several = kind < 4, deep = kind == 4;
    const int64_t T_ = several ? 60 + random() % 40 : 1 + random() % (deep ? 2 : 6);
    const int64_t B = several ? 5 + random() % 9 : 1 + random() % (deep ? 2 : 9);
    const int64_t K = 1 + random() % (deep ? 2 : 4);
    const int64_t unit = random() % 3 ? (deep ? 257 : 1) + random() % 9 : deep ? 288 : 32;
    const int64_t H = K * unit, P = 1 + random() % (deep ? 300 : 40);
    const BlockSizes n{T_, B, H, P, K, int64_t(1 + random() % 3)};
    const int64_t rounding = sizeof(T) == 4 ? random() % 3 : 0;
    const int64_t sizes[] = {T_, B, H, P, K, n.L, int64_t(random() % 2), rounding};
    const double numbers[] = {1e-3, -1};
    Arrays<T> a;
    a.owned.reserve(block::arrays), a.flags.reserve(2);
    BlockWeights<T> weights{};
    int64_t size[block::gate_bias + 1], count = 0;
    weights.each(n, [&](T*, int64_t elements) { size[count++] = elements; });
    for (int i = 0; i < count; ++i) {
        a.add(block::hidden_kernel + i, size[i], random, true);
        a.add(block::dweights + i, size[i], random, false);
    }
    const int64_t rows = T_ * B;
    a.add(block::x, rows * H, random, true), a.add(block::h0, B * H, random, true);
    if (random() % 2) a.add_flags(block::mask, rows, random);
    if (random() % 2) a.add_flags(block::reset, rows, random);
    a.add(block::h, rows * H, random, false), a.add(block::h_last, B * H, random, false);
    a.add(block::kept, rows * n.kept(), random, false);
    a.add(block::dh, rows * H, random, true), a.add(block::dh_last, B * H, random, true);
    a.add(block::dx, rows * H, random, false), a.add(block::dh0, B * H, random, false);
    auto both = [&](int threads) {
        OwnPool pool(threads);
        for (bool back : {false, true})
            run_block(*chosen(), std::is_same_v<T, double>, back, sizes, numbers, a.at, pool);
        return a.owned;
    };
    const int threads = 2 + random() % 3;
    const auto first = both(threads), again = both(threads), alone = both(1);
    int failures = 0;
    for (size_t i = 0; i < first.size(); ++i) {
        if (first[i].empty()) continue;
        failures += std::memcmp(first[i].data(), again[i].data(), first[i].size() * sizeof(T)) != 0;
        double largest = 1, apart = 0;
        for (size_t j = 0; j < first[i].size(); ++j) {
            failures += !std::isfinite(first[i][j]);
            largest = std::fmax(largest, std::fabs(first[i][j]));
            apart = std::fmax(apart, std::fabs(double(first[i][j]) - double(alone[i][j])));
        }
        // what is rounded may turn out otherwise
        failures += apart > largest * (sizeof(T) == 8 ? 1e-10 : rounding ? 0.2 : 1e-2);
    }
    // without what is kept the values are the same
    a.at[block::kept] = nullptr;
    OwnPool pool(threads);
    run_block(*chosen(), std::is_same_v<T, double>, false, sizes, numbers, a.at, pool);
    for (size_t i = 0; i < first.size(); ++i)
        if (a.owned[i].data() == a.at[block::h])
            failures += std::memcmp(first[i].data(), a.at[block::h], first[i].size() * sizeof(T)) != 0;
    if (failures)
        std::printf("seed %u, %d bytes: T=%d B=%d H=%d P=%d K=%d L=%d: %d failures\n", seed,
                    int(sizeof(T)), int(T_), int(B), int(H), int(P), int(K), int(n.L), failures);
    return failures;
}

}  // namespace

int main(int count, char** arguments) {
    const int seeds = count > 1 ? std::atoi(arguments[1]) : 200;
    int failures[2] = {0, 0};
    auto run = [&](int which) {
        for (int i = 0; i < seeds; ++i)
            failures[which] += one<float>(2 * i + which) + one<double>(2 * i + which);
    };
    std::thread other(run, 1);
    run(0);
    other.join();
    run(0);  // alone it has all threads
    std::printf("%d runs, %d failures\n", 6 * seeds, failures[0] + failures[1]);
    return failures[0] + failures[1] != 0;
}
