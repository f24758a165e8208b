// Odd sizes of every cell with every option, for the sanitizers; two callers at once.
//
// Fails where a result is not a number, or where two runs differ in a bit.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "call.h"
#include "numbers.h"

using namespace lnrnn;

namespace {

template <class T>
int differences(const std::vector<std::vector<T>>& first, const std::vector<std::vector<T>>& second) {
    int found = 0;
    for (size_t i = 0; i < first.size(); ++i) {
        for (T v : first[i]) found += !is_finite(v);
        found += std::memcmp(first[i].data(), second[i].data(), first[i].size() * sizeof(T)) != 0;
    }
    return found;
}

template <class T, class S>
struct Arrays {
    std::vector<std::vector<T>> owned;
    std::vector<std::vector<S>> narrow;
    std::vector<std::vector<uint8_t>> flags;
    void* at[arrays] = {};

    template <class A>
    A* fill(std::vector<std::vector<A>>& all, Array name, int64_t n, std::mt19937& random,
            bool given) {
        std::uniform_real_distribution<double> value(-1, 1);
        all.emplace_back(n);
        // results start as not a number
        for (A& v : all.back()) put(given ? value(random) : NAN, v);
        at[name] = all.back().data();
        return all.back().data();
    }

    T* add(Array name, int64_t n, std::mt19937& random, bool given) {
        return fill(owned, name, n, random, given);
    }
    void add_long(Array name, int64_t n, std::mt19937& random, bool given) {
        fill(narrow, name, n, random, given);
    }

    void add_flags(Array name, int64_t n, std::mt19937& random) {
        flags.emplace_back(n);
        for (uint8_t& f : flags.back()) f = random() % 3 != 0;
        at[name] = flags.back().data();
    }
};

Spec spec_of(std::mt19937& random) {
    Spec s{};
    s.cell = Cell(random() % 3);
    s.reset = s.is(Cell::gru) ? Reset(random() % 5) : Reset::after;
    s.gates = s.is(Cell::simple) ? 1 : s.is(Cell::lstm) ? 3 + random() % 2
              : s.reset == Reset::none ? 2 : 2 + random() % 2;
    s.rms = random() % 4 == 0;
    s.epsilon_at_root = random() % 4 == 0;
    s.cell_norm = s.is(Cell::lstm) ? CellNorm(random() % 5) : CellNorm::none;
    s.keep = random() % 2;
    s.phi = random() % 2 ? Activation::tanh : Activation(random() % 6);
    s.sigma = random() % 2 ? Activation::sigmoid : Activation(random() % 6);
    s.psi = Activation::tanh;
    if (s.is(Cell::lstm)) {
        s.capped = !s.coupled() && random() % 3 == 0;
        s.peephole = Peephole(random() % 3);
        s.peephole_in_cell = s.peephole == Peephole::after && random() % 2;
        s.clip_at = ClipAt(random() % 4);
        if (s.clip_at == ClipAt::after_norm) s.cell_norm = CellNorm::carry;
        s.projection = random() % 3 == 0;
    }
    s.hidden_norm = random() % 4 == 0;
    s.diagonal = s.is(Cell::simple) && random() % 3 == 0;
    // norms of x and h, of the sum, of [x, h], or none
    int where = random() % 4;
    if (s.peephole == Peephole::inside) where = 1;
    if (s.diagonal && where > 0) where = 3;
    if (s.two_products() && where == 2) where = 3;
    s.pre = where == 2;
    for (int g = 0; g < max_gates; ++g) {
        const int64_t group = g < s.gates ? g : -1;
        s.x.of[g] = where == 0 ? group : -1;
        s.h.of[g] = where == 0 && !s.diagonal ? group : -1;
        s.sum.of[g] = where == 1 && !s.apart(g) ? group : -1;
    }
    if (s.is(Cell::gru) && s.reset == Reset::inside) {
        s.pre = 0;
        for (int g = 0; g < max_gates; ++g) s.x.of[g] = s.h.of[g] = s.sum.of[g] = -1;
        s.sum.of[s.gates - 1] = 0;
    }
    return s;
}

template <class T, class S>
int one(unsigned seed, Precision precision, bool rounding = false) {
    std::mt19937 random(seed);
    Spec spec = spec_of(random);
    // now and then more rows than one chunk has, and then nothing that grows from step to step
    const bool several = random() % 4 == 0;
    const bool tame = several || precision == Precision::float16;  // whose numbers end at 65504
    if (tame) spec.phi = Activation::tanh, spec.sigma = Activation::sigmoid;
    const int64_t T_ = several ? 40 + random() % 60 : 1 + random() % 6, B = 1 + random() % 9;
    const int64_t I = 1 + random() % 23, H = 1 + random() % 37;
    const int64_t R = spec.projection ? 1 + random() % 43 : H;
    const int64_t wide = spec.gates * H, rows = T_ * B;
    const bool lstm = spec.is(Cell::lstm);
    Arrays<T, S> a;
    a.owned.reserve(arrays), a.narrow.reserve(arrays), a.flags.reserve(2);
    a.add(kernel, I * wide, random, true), a.add(dkernel, I * wide, random, false);
    const int64_t size_U = spec.diagonal ? H : R * wide;
    T* U = a.add(recurrent, size_U, random, true);
    for (int64_t i = 0; tame && !spec.diagonal && i < size_U; ++i) U[i] /= T(R);
    a.add(drecurrent, size_U, random, false);
    if (random() % 2) a.add(bias_x, wide, random, true), a.add(dbias_x, wide, random, false);
    if (random() % 2) a.add(bias_h, wide, random, true), a.add(dbias_h, wide, random, false);
    auto affine = [&](const Groups& groups, Array gain, Array shift, Array dgain, Array dshift) {
        bool normed = false;
        for (int64_t g : groups.of) normed |= g >= 0;
        if (!normed) return;
        a.add(gain, wide, random, true), a.add(dgain, wide, random, false);
        if (random() % 2) a.add(shift, wide, random, true), a.add(dshift, wide, random, false);
    };
    affine(spec.x, gain_x, shift_x, dgain_x, dshift_x);
    affine(spec.h, gain_h, shift_h, dgain_h, dshift_h);
    affine(spec.sum, gain_sum, shift_sum, dgain_sum, dshift_sum);
    if (spec.cell_norm != CellNorm::none) {
        a.add(gain_c, H, random, true), a.add(dgain_c, H, random, false);
        a.add(shift_c, H, random, true), a.add(dshift_c, H, random, false);
    }
    auto both = [&](Array weight, Array gradient, int64_t n) {
        a.add(weight, n, random, true), a.add(gradient, n, random, false);
    };
    if (spec.peephole != Peephole::none)
        both(peephole, dpeephole, (spec.coupled() ? 2 : 3) * H);
    if (spec.pre) both(gain_pre, dgain_pre, I + R), both(shift_pre, dshift_pre, I + R);
    if (spec.hidden_norm)
        both(gain_hidden, dgain_hidden, R), both(shift_hidden, dshift_hidden, R);
    if (spec.projection) both(projection, dprojection, H * R);
    if (spec.projection && random() % 2) both(projection_bias, dprojection_bias, R);
    a.add_long(x, rows * I, random, true);
    a.add(h0, B * R, random, true);
    if (lstm) a.add(c0, B * H, random, true);
    const bool resets_to_states = random() % 2;
    if (resets_to_states) a.add(reset_h, B * R, random, true);
    if (resets_to_states && lstm) a.add(reset_c, B * H, random, true);
    if (random() % 2) a.add_flags(mask, rows, random);
    if (random() % 2) a.add_flags(reset, rows, random);
    if (random() % 2) a.add(take_h, rows * R, random, true);
    if (random() % 2) a.add(recurrent_mask, B * R, random, true);
    if (random() % 2) a.add(candidate_mask, rows * H, random, true);
    a.add_long(h, rows * R, random, false);
    if (lstm) a.add(c, rows * H, random, false), a.add(c_last, B * H, random, false);
    if (random() % 2) a.add_long(xw, rows * wide, random, false);
    if (random() % 2) a.add_long(hu, rows * wide, random, false);
    a.add(h_last, B * R, random, false);
    auto maybe = [&] { return int64_t(random() % 2); };
    auto bound = [&] { return random() % 2 ? 0.5 : 0.0; };
    const bool clips = lstm || (spec.is(Cell::gru) && spec.reset != Reset::none);
    const Numbers n = {T_, B, I, H, R, 0, 1, maybe(), maybe(), maybe(), rounding, 1, 0.9,
                       tame ? 1 : 1e-5, random() % 3 ? 0 : 0.5, clips ? bound() : 0,
                       lstm ? bound() : 0, spec.projection ? bound() : 0};
    OwnPool pool(1 + random() % 3);
    call(*chosen(), precision, false, spec, n, a.at, pool);
    a.add_long(dh, rows * R, random, true), a.add(dh_last, B * R, random, true);
    if (random() % 4) a.add_long(dx, rows * I, random, false);
    a.add(dh0, B * R, random, false);
    if (lstm) a.add(dc0, B * H, random, false);
    if (resets_to_states) a.add(dreset_h, B * R, random, false);
    if (resets_to_states && lstm) a.add(dreset_c, B * H, random, false);
    call(*chosen(), precision, true, spec, n, a.at, pool);
    const auto first = a.owned;
    const auto first_narrow = a.narrow;
    call(*chosen(), precision, false, spec, n, a.at, pool);
    call(*chosen(), precision, true, spec, n, a.at, pool);
    const int failures = differences(first, a.owned) + differences(first_narrow, a.narrow);
    if (failures)
        std::printf("seed %u, precision %d: T=%d B=%d H=%d cell %d: %d failures\n", seed,
                    int(precision) + 4 * rounding, int(T_), int(B), int(H), int(spec.cell), failures);
    return failures;
}

}  // namespace

int main(int count, char** arguments) {
    const int seeds = count > 1 ? std::atoi(arguments[1]) : 200;
    int failures[2] = {0, 0};
    auto run = [&](int which) {
        for (int i = 0; i < seeds; ++i) {
            const unsigned seed = 2 * i + which;
            failures[which] += one<float, float>(seed, Precision::float32);
            failures[which] += one<double, double>(seed, Precision::float64);
            failures[which] += one<float, bfloat16>(seed, Precision::bfloat16);
            failures[which] += one<float, float16>(seed, Precision::float16);
            failures[which] += one<float, float>(seed, Precision::float32, true);
        }
    };
    std::thread other(run, 1);
    run(0);
    other.join();
    std::printf("%d runs, %d failures\n", 10 * seeds, failures[0] + failures[1]);
    return failures[0] + failures[1] != 0;
}
