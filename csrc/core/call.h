// A call as the host languages make it: a list of addresses and a list of numbers.
#pragma once

#include "run.h"

namespace lnrnn {

// The arrays of a call in their order; 0 or null stands for one that is absent.
enum Array : int {
    // weights
    kernel, recurrent, bias_x, bias_h, gain_x, shift_x, gain_h, shift_h, gain_sum, shift_sum, gain_c, shift_c,
    peephole, gain_pre, shift_pre, gain_hidden, shift_hidden, projection, projection_bias,
    // inputs
    x, h0, c0, reset_h, reset_c, mask, reset, take_h, take_c, recurrent_mask, candidate_mask,
    // results of a forward pass, inputs of a backward pass
    h, c, xw, hu, h_last, c_last,
    // gradients that come in
    dh, dh_last, dc_last,
    // gradients that go out
    dkernel, drecurrent, dbias_x, dbias_h, dgain_x, dshift_x, dgain_h, dshift_h, dgain_sum,
    dshift_sum, dgain_c, dshift_c, dpeephole, dgain_pre, dshift_pre, dgain_hidden, dshift_hidden,
    dprojection, dprojection_bias, dx, dh0, dc0, dreset_h, dreset_c,
    arrays
};

// The numbers of a call beside its arrays.
struct Numbers {
    int64_t T, B, I, H, R;
    int64_t recurrent_moves, candidate_moves;    // whether these factors differ from step to step
    int64_t batch_first;                         // x and its gradient are (B, T, I)
    int64_t kernel_turned, recurrent_turned;     // W and U, and their gradients, are transposes
    int64_t rounding;                            // operands of float32 products are rounded to bfloat16
    double take_h, take_c;                     // zoneout, where it is one number
    double epsilon, clip;
    double cell_clip, hidden_clip, projection_clip;  // 0: none
};

template <class T, class S>
Job<T, S> make_job(const Spec& spec, const Numbers& n, void* const* at) {
    auto in = [&](Array a) { return static_cast<const T*>(at[a]); };
    auto out = [&](Array a) { return static_cast<T*>(at[a]); };
    auto long_in = [&](Array a) { return static_cast<const S*>(at[a]); };
    auto long_out = [&](Array a) { return static_cast<S*>(at[a]); };
    auto flags = [&](Array a) { return static_cast<const uint8_t*>(at[a]); };
    const int64_t step = n.B * n.H, step_h = n.B * n.R;
    return {spec,
            n.epsilon,
            n.clip,
            n.batch_first != 0,
            n.kernel_turned != 0,
            n.recurrent_turned != 0,
            {T(n.cell_clip), T(n.hidden_clip), T(n.projection_clip)},
            {n.T, n.B, n.I, n.H, n.R},
            {in(kernel), in(recurrent), in(bias_x), in(bias_h), in(gain_x), in(shift_x), in(gain_h), in(shift_h),
             in(gain_sum), in(shift_sum), in(gain_c), in(shift_c), in(peephole), in(gain_pre),
             in(shift_pre), in(gain_hidden), in(shift_hidden), in(projection), in(projection_bias)},
            {long_in(x), in(h0), in(c0), in(reset_h), in(reset_c), flags(mask), flags(reset),
             {in(take_h), step_h, T(n.take_h)}, {in(take_c), step, T(n.take_c)},
             {in(recurrent_mask), n.recurrent_moves ? step_h : 0, T(1)},
             {in(candidate_mask), n.candidate_moves ? step : 0, T(1)}},
            {long_out(h), out(c), long_out(xw), long_out(hu), out(h_last), out(c_last)},
            {long_in(dh), in(dh_last), in(dc_last), long_out(dx), out(dh0), out(dc0), out(dreset_h), out(dreset_c),
             out(dkernel), out(drecurrent), out(dbias_x), out(dbias_h), out(dgain_x), out(dshift_x), out(dgain_h), out(dshift_h),
             out(dgain_sum), out(dshift_sum), out(dgain_c), out(dshift_c), out(dpeephole),
             out(dgain_pre), out(dshift_pre), out(dgain_hidden), out(dshift_hidden), out(dprojection),
             out(dprojection_bias)},
            {}};
}

constexpr int size_words = 11, scalar_words = 7;

inline Numbers numbers_of(const int64_t* n, const double* d) {
    return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10],
            d[0], d[1], d[2], d[3], d[4], d[5], d[6]};
}

template <class T, class S>
void call(const Kernel<T, S>& kernel, bool back, const Spec& spec, const Numbers& n,
          void* const* at, Pool& pool) {
    const Job<T, S> job = make_job<T, S>(spec, n, at);
    if (back)
        backward(kernel, job, pool);
    else
        forward(kernel, job, pool);
}

// What x, h, the projections that are kept, and the gradients of x and h are in memory; all else is
// in float32, or in float64 with it.
enum class Precision : int64_t { float32, float64, bfloat16, float16 };

inline void call(const Isa& isa, Precision precision, bool back, const Spec& spec,
                 const Numbers& n, void* const* at, Pool& pool) {
    switch (precision) {
        case Precision::float64: return call(*isa.full, back, spec, n, at, pool);
        case Precision::bfloat16: return call(*isa.brain, back, spec, n, at, pool);
        case Precision::float16: return call(*isa.half, back, spec, n, at, pool);
        default: return call(n.rounding ? *isa.rounding : *isa.single, back, spec, n, at, pool);
    }
}

}  // namespace lnrnn
