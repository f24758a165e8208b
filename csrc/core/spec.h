// What the core computes: the cell, the sizes and the arrays.
//
// Letters: T time, B batch, I inputs, H units, R width of h, G gates.  Rows of G H hold the gates side
// by side in the order i f g o, f g o (coupled), r z n, z n (coupled, or without a reset), or n; those
// of weights may stand in another order.
// Arrays are dense, those over time begin with it, and matrices are (in, out), but for x, h, W and U
// where a job says that they lie otherwise.
#pragma once

#include <cstdint>

namespace lnrnn {

constexpr int max_gates = 4;

// Numbers of 16 bits: the upper half of a float32, and IEEE's.
struct bfloat16 {
    uint16_t bits;
};
struct float16 {
    uint16_t bits;
};

enum class Cell : int64_t { simple, lstm, gru };
enum class Activation : int64_t { tanh, sigmoid, relu, hard_sigmoid, keras2_hard_sigmoid, linear };
enum class Smooth : int64_t { silu, gelu };  // gelu by its approximation with tanh
enum class CellNorm : int64_t { none, output, carry, carry_only, after_tanh };
enum class Reset : int64_t { after, inside, before, whole, none };
enum class Peephole : int64_t { none, after, inside };
enum class ClipAt : int64_t { before_norm, after_norm, incoming, carried };

// The group of each gate at a site: gates of one group share a mean and a variance.  -1: no norm.
struct Groups {
    int64_t of[max_gates];
};

struct Spec {
    Cell cell;
    int64_t gates;
    int64_t rms;               // root mean square: not centred
    int64_t ddof;              // squared deviations are divided by n - ddof
    int64_t epsilon_at_root;   // epsilon is added to the deviation and not to the variance
    CellNorm cell_norm;
    Reset reset;
    int64_t keep;              // z multiplies the old h and not the candidate
    Activation phi, sigma, psi;
    int64_t capped;            // i is at most 1 - f
    Peephole peephole;
    int64_t peephole_in_cell;  // that of o is added to what psi is of
    ClipAt clip_at;
    int64_t hidden_norm, projection;
    int64_t pre;               // [x, h] is normed before the products
    int64_t diagonal;          // u h in place of h U
    int64_t order;             // of gates in weights: two bits for the place of each; 0: as above
    Groups x, h, sum;

    bool is(Cell c) const { return cell == c; }
    // one gate does the work of two: i is 1 - f, or r is z
    bool coupled() const { return gates == (cell == Cell::lstm ? 3 : 2) && reset != Reset::none; }
    // with reset before the product, the candidate has a product of its own
    bool two_products() const { return cell == Cell::gru && reset == Reset::before; }
    // r multiplies the recurrent part of n, so that it is not simply added
    bool apart(int gate) const {
        return cell == Cell::gru && gate == gates - 1 &&
               (reset == Reset::after || reset == Reset::inside);
    }
    // the sum of both parts of a gate is not all of its pre-activation: other gates come first
    bool late(int gate) const {
        return apart(gate) || (peephole == Peephole::inside && gate == gates - 1);
    }
    // where a gate stands in the weights
    int64_t place(int gate) const { return order ? order >> 2 * gate & 3 : gate; }
    // no worker can compute some of the units of h without the others
    bool needs_whole_rows() const { return pre || projection; }
};

constexpr int spec_words = sizeof(Spec) / sizeof(int64_t);

struct Sizes {
    int64_t T, B, I, H, R;
};

// Bounds on magnitudes; 0 for none.
template <class T>
struct Clips {
    T cell, hidden, projection;
};

// A factor that may be absent (1), one number, or an array whose steps are `stride` apart
// (0: the same for all steps).
template <class T>
struct Noise {
    const T* at;
    int64_t stride;
    T value;
};

// Null pointers stand for what a cell does not have: biases of 0, gains of 1.
template <class T>
struct Weights {
    const T *kernel, *recurrent;               // W (I, G H), U (R, G H) or u (H)
    const T *bias_x, *bias_h;                  // (G H), inside the norms of x W and of h U
    const T *gain_x, *shift_x;                 // (G H)
    const T *gain_h, *shift_h;
    const T *gain_sum, *shift_sum;
    const T *gain_c, *shift_c;                 // (H)
    const T* peephole;                         // (3 H) of i f o, or (2 H) of f o
    const T *gain_pre, *shift_pre;             // (I + R)
    const T *gain_hidden, *shift_hidden;       // (R)
    const T *projection, *projection_bias;     // (H, R), (R)
};

// Of two types the first is computed with, the second is that of long arrays in memory.
template <class T, class S>
struct Inputs {
    const S* x;                                // (T, B, I)
    const T *h0, *c0;                          // (B, R), (B, H)
    const T *reset_h, *reset_c;                // alike, what a reset goes to; null: zeros
    const uint8_t *mask, *reset;               // (T, B); a masked-out step holds the states
    Noise<T> take_h, take_c;                   // zoneout: the share of the new state
    Noise<T> recurrent, candidate;             // dropout of h before its product, of the candidate
};

template <class T, class S>
struct Outputs {
    S* h;                                      // (T, B, R)
    T* c;                                      // (T, B, H); null: not kept
    S *xw, *hu;                                // (T, B, G H), the projections; null: not kept
    T *h_last, *c_last;                        // (B, R), (B, H)
};

template <class T, class S>
struct Gradients {
    const S* dh;                               // (T, B, R) or null
    const T *dh_last, *dc_last;                // (B, R) and (B, H), or null
    S* dx;                                     // (T, B, I); null: not asked for
    T *dh0, *dc0;                              // (B, R), (B, H)
    T *dreset_h, *dreset_c;                    // alike; null with them
    // like the weights of these names; null with them
    T *kernel, *recurrent, *bias_x, *bias_h;
    T *gain_x, *shift_x, *gain_h, *shift_h, *gain_sum, *shift_sum, *gain_c, *shift_c;
    T *peephole, *gain_pre, *shift_pre, *gain_hidden, *shift_hidden, *projection, *projection_bias;
};

}  // namespace lnrnn
