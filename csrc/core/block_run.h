// A call of Dreamer's block GRU as the host languages make it: packing, threads, and the sums.
#pragma once

#include "isa.h"
#include "pool.h"

namespace lnrnn {

// The arrays of such a call in their order; null stands for one that is absent.
namespace block {
enum Array : int {
    // weights, as of BlockWeights
    hidden_kernel, hidden_bias, hidden_gain, state_kernel, projected_kernel, layer_kernel, layer_bias,
    gain, gate_kernel, gate_bias,
    // inputs
    x, h0, mask, reset,
    // results of a forward pass, of which a backward pass takes h and kept
    h, h_last, kept,
    // gradients that come in
    dh, dh_last,
    // gradients that go out: of the weights in their order, of x and of h0
    dweights, dx = dweights + gate_bias + 1, dh0,
    arrays
};
constexpr int size_words = 8;    // T B H P K L, Smooth and Rounding
constexpr int scalar_words = 2;  // epsilon and the bias of the update gate
}  // namespace block

// One pass over arrays of float32, or of float64 with `full`, which knows no rounding.
void run_block(const Isa& isa, bool full, bool back, const int64_t* sizes, const double* numbers,
               void* const* at, Pool& pool);

}  // namespace lnrnn
