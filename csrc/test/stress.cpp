// Odd sizes of every cell with every option, for the sanitizers; two callers at once.
//
// Fails where a result is not a number; where two runs differ in a bit, of which one may have h the
// other way in memory and the gates of its weights in another order, or keep nothing; or where a
// result is not near that of one thread of the plainest instruction set.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <thread>
#include <utility>
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

// The largest distance of an array from another, relative to the latter.  One within a hundred roundings
// of a number of size one is none: derivatives that cancel, as before a norm over one number, leave that
// much by one order of sums and nothing by another.
template <class T>
double distance(const std::vector<std::vector<T>>& found, const std::vector<std::vector<T>>& right) {
    const double least = 100 * (sizeof(T) == 8 ? std::numeric_limits<double>::epsilon()
                                               : std::numeric_limits<float>::epsilon());
    double largest = 0;
    for (size_t i = 0; i < found.size(); ++i) {
        double apart = 0, size = 0;
        for (size_t j = 0; j < found[i].size(); ++j) {
            const double r = number(right[i][j]), d = number(found[i][j]) - r;
            apart += d * d, size += r * r;
        }
        if (apart > least * least) largest = std::max(largest, std::sqrt(apart / size));
    }
    return largest;
}

// The set that all others are compared with.
const Isa& plainest() {
    int count;
    const Isa* all = compiled(&count);
    for (int i = count - 1; i > 0; --i)
        if (all[i].choice == Choice::best) return all[i];
    return all[0];
}

// Of that distance: sums in another order, and where operands are rounded some to the other side.
double allowed(Precision precision, bool rounding) {
    if (precision == Precision::float64) return 1e-11;
    return precision == Precision::float32 && !rounding ? 1e-4 : 2e-3;
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
    s.ddof = !s.rms && random() % 4 == 0;
    s.epsilon_at_root = random() % 4 == 0;
    s.cell_norm = s.is(Cell::lstm) ? CellNorm(random() % 5) : CellNorm::none;
    s.keep = random() % 2;
    s.phi = random() % 2 ? Activation::tanh : Activation(random() % 6);
    s.sigma = random() % 2 ? Activation::sigmoid : Activation(random() % 6);
    s.psi = random() % 2 ? Activation::tanh : Activation(random() % 6);
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
    // each gate by itself, all together, or some; one that waits for others is never among them
    const int joined = random() % 3;
    int64_t groups = 0;
    for (int g = 0; g < max_gates; ++g) {
        const bool waits = s.late(g) || (s.two_products() && g + 1 == s.gates);
        const bool joins = groups > 0 && !waits && (joined == 1 || (joined == 2 && random() % 2));
        const bool bare = g >= s.gates || random() % 8 == 0;
        const int64_t group = bare ? -1 : joins ? groups - 1 : groups++;
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

// (first, second, width) to (second, first, width)
template <class S>
void turn(S* array, int64_t first, int64_t second, int64_t width) {
    const std::vector<S> old(array, array + first * second * width);
    for (int64_t i = 0; i < first; ++i)
        for (int64_t j = 0; j < second; ++j)
            std::copy_n(&old[(i * second + j) * width], width, array + (j * first + i) * width);
}

// the columns, or of a transpose the rows, of each gate to their places, or back from there
template <class T>
void in_order(T* array, int64_t rows, int64_t H, bool turned, const std::vector<int>& places, bool back) {
    const int64_t gates = int64_t(places.size()), count = turned ? 1 : rows;
    const int64_t length = turned ? rows * H : H;
    const std::vector<T> old(array, array + rows * gates * H);
    for (int64_t k = 0; k < count; ++k)
        for (int64_t g = 0; g < gates; ++g) {
            const int64_t here = (k * gates + g) * length, there = (k * gates + places[g]) * length;
            std::copy_n(&old[back ? there : here], length, array + (back ? here : there));
        }
}

template <class T, class S>
int one(unsigned seed, Precision precision, bool rounding = false) {
    std::mt19937 random(seed);
    Spec spec = spec_of(random);
    // now and then more rows than one chunk has, and then nothing that grows from step to step; more
    // rows than meet at a time; or more inputs, or a wider h, than one depth of a product
    const int size = random() % 16;
    const bool several = size < 4, many = size == 4, deep = size == 5;
    const bool tame = several || random() % 2 ||
                      precision == Precision::float16;  // whose numbers end at 65504
    if (tame) spec.phi = spec.psi = Activation::tanh, spec.sigma = Activation::sigmoid;
    const int64_t T_ = several ? 40 + random() % 60 : 1 + random() % (deep ? 2 : 6);
    const int64_t B = 1 + random() % (many ? 40 : deep ? 3 : 9);
    const int64_t I = 1 + random() % (deep ? 700 : 23), H = 1 + random() % (deep ? 9 : 37);
    const int64_t R = spec.projection ? 1 + random() % (deep ? 700 : 43) : H;
    if (std::min(H, R) == 1) spec.ddof = 0;
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
        if (random() % 2) a.add(shift_c, H, random, true), a.add(dshift_c, H, random, false);
    }
    auto both = [&](Array weight, Array gradient, int64_t n) {
        a.add(weight, n, random, true), a.add(gradient, n, random, false);
    };
    if (spec.peephole != Peephole::none)
        both(peephole, dpeephole, (spec.coupled() ? 2 : 3) * H);
    if (spec.pre) both(gain_pre, dgain_pre, I + R);
    if (spec.pre && random() % 2) both(shift_pre, dshift_pre, I + R);
    if (spec.hidden_norm) both(gain_hidden, dgain_hidden, R);
    if (spec.hidden_norm && random() % 2) both(shift_hidden, dshift_hidden, R);
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
    if (random() % 2) a.add(take_c, rows * H, random, true);
    const int64_t moves = random() % 2;
    if (random() % 2) a.add(recurrent_mask, (moves ? rows : B) * R, random, true);
    if (random() % 2) a.add(candidate_mask, (moves ? B : rows) * H, random, true);
    a.add_long(h, rows * R, random, false);
    if (lstm) a.add(c, rows * H, random, false), a.add(c_last, B * H, random, false);
    if (random() % 2) a.add_long(xw, rows * wide, random, false);
    if (random() % 2) a.add_long(hu, rows * wide, random, false);
    a.add(h_last, B * R, random, false);
    auto maybe = [&] { return int64_t(random() % 2); };
    auto bound = [&] { return random() % 2 ? 0.5 : 0.0; };
    const bool clips = lstm || (spec.is(Cell::gru) && spec.reset != Reset::none);
    const Numbers n = {T_, B, I, H, R, moves, !moves, maybe(), maybe(), maybe(), maybe(), rounding, random() % 2 ? 1 : 0.8, random() % 2 ? 1 : 0.9,
                       tame ? 1 : 1e-5, random() % 3 ? 0 : 0.5, clips ? bound() : 0,
                       lstm ? bound() : 0, spec.projection ? bound() : 0};
    OwnPool pool(1 + random() % 3);
    a.add_long(dh, rows * R, random, true);
    if (random() % 2) a.add(dh_last, B * R, random, true);
    if (random() % 4 == 0) a.at[dh] = nullptr;
    if (lstm && random() % 2) a.add(dc_last, B * H, random, true);
    if (random() % 4) a.add_long(dx, rows * I, random, false);
    a.add(dh0, B * R, random, false);
    if (lstm) a.add(dc0, B * H, random, false);
    if (resets_to_states) a.add(dreset_h, B * R, random, false);
    if (resets_to_states && lstm) a.add(dreset_c, B * H, random, false);
    auto both_passes = [&](const Isa& isa, const Spec& spec, const Numbers& n, Pool& pool) {
        call(isa, precision, false, spec, n, a.at, pool);
        call(isa, precision, true, spec, n, a.at, pool);
    };
    both_passes(*chosen(), spec, n, pool);
    const auto first = a.owned;
    const auto first_narrow = a.narrow;
    both_passes(*chosen(), spec, n, pool);
    int failures = differences(first, a.owned) + differences(first_narrow, a.narrow);
    // of a forward pass that keeps nothing
    void* kept[] = {std::exchange(a.at[c], nullptr), std::exchange(a.at[xw], nullptr),
                    std::exchange(a.at[hu], nullptr)};
    call(*chosen(), precision, false, spec, n, a.at, pool);
    a.at[c] = kept[0], a.at[xw] = kept[1], a.at[hu] = kept[2];
    failures += differences(first, a.owned) + differences(first_narrow, a.narrow);
    // the same with h the other way in memory, and the gates of the weights in another order
    Numbers m = n;
    m.h_batch_first = !n.h_batch_first;
    std::vector<int> places(spec.gates);
    std::iota(places.begin(), places.end(), 0);
    std::shuffle(places.begin(), places.end(), random);
    Spec other = spec;
    for (int g = 0; g < spec.gates; ++g) other.order |= int64_t(places[g]) << 2 * g;
    auto turn_h = [&](bool back) {
        const bool batch_first = back ? m.h_batch_first : n.h_batch_first;
        for (Array name : {h, dh})
            if (a.at[name])
                turn(static_cast<S*>(a.at[name]), batch_first ? B : T_, batch_first ? T_ : B, R);
    };
    auto reorder = [&](bool back) {
        auto move = [&](std::initializer_list<Array> names, int64_t rows, bool turned) {
            for (Array name : names)
                if (a.at[name])
                    in_order(static_cast<T*>(a.at[name]), rows, H, turned, places, back);
        };
        move({kernel, dkernel}, I, n.kernel_turned);
        if (!spec.diagonal) move({recurrent, drecurrent}, R, n.recurrent_turned);
        move({bias_x, dbias_x, bias_h, dbias_h, gain_x, dgain_x, shift_x, dshift_x, gain_h, dgain_h,
              shift_h, dshift_h, gain_sum, dgain_sum, shift_sum, dshift_sum}, 1, false);
    };
    turn_h(false), reorder(false);
    both_passes(*chosen(), other, m, pool);
    turn_h(true), reorder(true);
    failures += differences(first, a.owned) + differences(first_narrow, a.narrow);
    double error = 0;
    if (tame) {
        OwnPool alone(1);
        both_passes(plainest(), spec, n, alone);
        error = std::max(distance(first, a.owned), distance(first_narrow, a.narrow));
        failures += error > allowed(precision, rounding);
    }
    if (failures)
        std::printf("seed %u, precision %d: T=%d B=%d I=%d H=%d R=%d cell %d: %d failures, error %g\n",
                    seed, int(precision) + 4 * rounding, int(T_), int(B), int(I), int(H), int(R),
                    int(spec.cell), failures, error);
    return failures;
}

}  // namespace

int main(int count, char** arguments) {
    const int seeds = count > 1 ? std::atoi(arguments[1]) : 200;
    if (!chosen()) {
        std::puts("this instruction set is of no use here: nothing was run");
        return 0;
    }
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
