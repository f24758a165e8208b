// Streams beside sequences: float32 bit for bit, in blocks of any size, with resets; matrices of
// fewer bits by every instruction set within the error of their rounding.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "call.h"
#include "stream.h"

using namespace lnrnn;

namespace {

using Numbers1 = std::vector<float>;

struct Stack {
    std::vector<std::vector<Numbers1>> owned;
    std::vector<StreamLayer> layers;
};

Numbers1 numbers(std::mt19937& random, int64_t n, float size) {
    std::uniform_real_distribution<float> value(-size, size);
    Numbers1 found(n);
    for (float& v : found) v = value(random);
    return found;
}

Spec spec_of(std::mt19937& random) {
    Spec s{};
    s.cell = Cell(random() % 3);
    s.reset = s.is(Cell::gru) ? Reset(random() % 5) : Reset::after;
    s.gates = s.is(Cell::simple) ? 1 : s.is(Cell::lstm) ? 3 + random() % 2
              : s.reset == Reset::none ? 2 : 2 + random() % 2;
    s.rms = random() % 4 == 0;
    s.cell_norm = s.is(Cell::lstm) ? CellNorm(random() % 5) : CellNorm::none;
    s.keep = random() % 2;
    s.phi = random() % 2 ? Activation::tanh : Activation(random() % 2);
    s.sigma = random() % 2 ? Activation::sigmoid : Activation::hard_sigmoid;
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

Stack stack_of(std::mt19937& random, int64_t inputs, const std::vector<int64_t>& units) {
    Stack stack;
    int64_t I = inputs;
    for (int64_t H : units) {
        stack.owned.emplace_back();
        auto& owned = stack.owned.back();
        owned.reserve(20);
        auto vector = [&](int64_t n, float size) {
            owned.push_back(numbers(random, n, size));
            return static_cast<const float*>(owned.back().data());
        };
        const Spec spec = spec_of(random);
        const int64_t wide = spec.gates * H;
        Weights<float> w = {};
        w.kernel = vector(I * wide, 2 / std::sqrt(float(I)));
        const int64_t R = spec.projection ? 4 + random() % 80 : H;
        w.recurrent = spec.diagonal ? vector(H, 1) : vector(R * wide, 1 / std::sqrt(float(R)));
        if (random() % 2) w.bias_x = vector(wide, 1);
        if (random() % 2) w.bias_h = vector(wide, 1);
        if (spec.x.of[0] >= 0) w.gain_x = vector(wide, 1);
        if (spec.h.of[0] >= 0) w.gain_h = vector(wide, 0.5f);
        if (random() % 2) w.shift_x = vector(wide, 1);
        bool summed = false;
        for (int64_t g : spec.sum.of) summed |= g >= 0;
        if (summed) w.gain_sum = vector(wide, 1), w.shift_sum = vector(wide, 1);
        if (spec.cell_norm != CellNorm::none) w.gain_c = vector(H, 1), w.shift_c = vector(H, 1);
        if (spec.peephole != Peephole::none)
            w.peephole = vector((spec.coupled() ? 2 : 3) * H, 0.5f);
        if (spec.pre) w.gain_pre = vector(I + R, 1), w.shift_pre = vector(I + R, 0.5f);
        if (spec.hidden_norm) w.gain_hidden = vector(R, 1), w.shift_hidden = vector(R, 0.5f);
        if (spec.projection)
            w.projection = vector(H * R, 1 / std::sqrt(float(H))), w.projection_bias = vector(R, 0.5f);
        const bool lstm = spec.is(Cell::lstm);
        const Clips<float> clips = {lstm && random() % 2 ? 0.7f : 0, lstm && random() % 2 ? 0.6f : 0,
                                    spec.projection && random() % 2 ? 0.5f : 0};
        stack.layers.push_back(
            {spec, 1e-3, I, H, R, 1, random() % 2 ? 0.875 : 1.0, clips, w});
        I = R;
    }
    return stack;
}

// What sequences give, each layer from zeros, again from zeros at the step `reset` (0: never).
Numbers1 sequence(const Isa& isa, const Stack& stack, Numbers1 x, int64_t T, int64_t B, int64_t reset) {
    OwnPool pool(1);
    for (const StreamLayer& layer : stack.layers) {
        const int64_t H = layer.units, R = layer.hidden;
        Numbers1 y(T * B * R), h_last(B * R), c_last(B * H), zeros(B * std::max(H, R));
        std::vector<uint8_t> resets(T * B);
        for (int64_t b = 0; reset > 0 && b < B; ++b) resets[reset * B + b] = 1;
        const void* at[arrays] = {};
        const Weights<float>& w = layer.weights;
        const float* all[] = {w.kernel, w.recurrent, w.bias_x, w.bias_h, w.gain_x, w.shift_x,
                              w.gain_h, w.shift_h, w.gain_sum, w.shift_sum, w.gain_c, w.shift_c,
                              w.peephole, w.gain_pre, w.shift_pre, w.gain_hidden, w.shift_hidden,
                              w.projection, w.projection_bias};
        std::copy(std::begin(all), std::end(all), at);
        at[Array::x] = x.data(), at[h0] = zeros.data(), at[c0] = zeros.data();
        if (reset > 0) at[Array::reset] = resets.data();
        at[h] = y.data(), at[Array::h_last] = h_last.data(), at[Array::c_last] = c_last.data();
        const Numbers n = {T, B, layer.inputs, H, R, 0, 0, 0, 0, 0, 0, layer.take_h, layer.take_c,
                           layer.epsilon, 0, layer.clips.cell, layer.clips.hidden,
                           layer.clips.projection};
        call(isa, Precision::float32, false, layer.spec, n, const_cast<void* const*>(at), pool);
        x = y;
    }
    return x;
}

Numbers1 streamed(const Isa& isa, Form form, const Stack& stack, const Numbers1& x, int64_t T,
                  int64_t B, int64_t reset, std::mt19937& random) {
    Stream stream(isa, form, B, stack.layers);
    Numbers1 y(T * B * stream.outputs());
    for (int64_t t = 0; t < T;) {
        const int64_t end = reset > t ? reset : T;
        const int64_t now = std::min<int64_t>(end - t, 1 + random() % 90);
        if (t == reset)
            for (int64_t b = 0; b < B; ++b) stream.reset(b);
        stream.run(now, x.data() + t * B * stream.inputs(), y.data() + t * B * stream.outputs());
        t += now;
    }
    return y;
}

double difference(const Numbers1& a, const Numbers1& b) {
    double squares = 0, scale = 0;
    for (size_t i = 0; i < a.size(); ++i)
        squares += double(a[i] - b[i]) * (a[i] - b[i]), scale += double(b[i]) * b[i];
    return std::sqrt(squares / (scale + 1e-30));
}

int one(unsigned seed) {
    std::mt19937 random(seed);
    const int64_t I = 1 + random() % 70, B = random() % 3 ? 1 + random() % 2 : 1 + random() % 19;
    std::vector<int64_t> units(1 + random() % 3);
    for (int64_t& H : units) H = 4 + random() % 80;
    const Stack stack = stack_of(random, I, units);
    const int64_t T = 1 + random() % 100, reset = random() % 2 ? random() % T : 0;
    const Numbers1 x = numbers(random, T * B * I, 1);
    int failures = 0;
    Numbers1 integers;
    int count;
    const Isa* all = compiled(&count);
    for (const Isa* isa = all; isa < all + count; ++isa) {
        if (!isa->usable()) continue;
        const Numbers1 expected = sequence(*isa, stack, x, T, B, reset);
        const Numbers1 y = streamed(*isa, Form::float32, stack, x, T, B, reset, random);
        const Numbers1 half = streamed(*isa, Form::bfloat16, stack, x, T, B, reset, random);
        const Numbers1 eight = streamed(*isa, Form::int8, stack, x, T, B, reset, random);
        if (std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) != 0) ++failures;
        const double errors[] = {difference(half, y), difference(eight, y)};
        if (!(errors[0] < 0.1) || !(errors[1] < 0.3)) ++failures;
        if (isa->stream.integers && has_integers()) {
            Isa without = *isa;
            without.stream.integers = nullptr;
            if (streamed(without, Form::int8, stack, x, T, B, reset, random) != eight) ++failures;
        }
        if (failures) {
            std::printf("seed %u, %s: %d failures, errors %g and %g\n", seed, isa->name, failures,
                        errors[0], errors[1]);
            return failures;
        }
    }
    return 0;
}

}  // namespace

int main(int count, char** arguments) {
    const int seeds = count > 1 ? std::atoi(arguments[1]) : 200;
    int failures = 0;
    for (int i = 0; i < seeds; ++i) failures += one(i);
    std::printf("%d stacks, %d failures\n", seeds, failures);
    return failures != 0;
}
