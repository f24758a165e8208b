// A call of Dreamer's block GRU behind its inputs, and what one of its workers is given.
//
// Letters beside those of spec.h: P the width of the projection of h, K blocks, n = H / K units of a
// block, L layers before the gates.  x is what the first of them takes of the inputs, with its bias.
#pragma once

#include "job.h"

namespace lnrnn {

// What the operands of products are rounded to; they stay in memory as float32, as all else is.
enum class Rounding : int64_t { none, bfloat16, float16 };

struct BlockSizes {
    int64_t T, B, H, P, K, L;

    int64_t one() const { return H / K; }
    // numbers that a forward pass keeps of a row: what enters each norm and the gates
    int64_t kept() const { return P + L * H + 3 * H; }
};

template <class T>
struct BlockWeights {
    T *hidden_kernel, *hidden_bias, *hidden_gain;  // (H, P), (P), (P): the projection of h
    T* state_kernel;                               // (K, n, n): of h, to the first layer
    T* projected_kernel;                           // (P, H): of the projection, to the first layer
    T *layer_kernel, *layer_bias;                  // (K, n, (L - 1) n), ((L - 1) H)
    T* gain;                                       // (L H)
    T *gate_kernel, *gate_bias;                    // (K, n, 3 n), (3 H): r n z in each block

    // call f(array, size) for each
    template <class F>
    void each(const BlockSizes& n, F f) {
        const int64_t one = n.one();
        f(hidden_kernel, n.H * n.P), f(hidden_bias, n.P), f(hidden_gain, n.P);
        f(state_kernel, n.H * one), f(projected_kernel, n.P * n.H);
        f(layer_kernel, n.H * (n.L - 1) * one), f(layer_bias, (n.L - 1) * n.H);
        f(gain, n.L * n.H), f(gate_kernel, n.H * 3 * one), f(gate_bias, 3 * n.H);
    }
};

// The packed matrices of a pass, or in a backward one their transposes; those of blocks one behind the
// other, and those of a layer behind those of the one before.
struct BlockPacked {
    const char *hidden, *projected, *state, *layers, *gates;
};

template <class T>
struct BlockJob {
    BlockSizes n;
    Smooth phi;
    double epsilon, update_bias;
    BlockWeights<const T> weights;
    const T *x, *h0;               // (T, B, H), (B, H)
    const uint8_t *mask, *reset;   // (T, B) or null; a masked-out step holds h
    T *h, *h_last;                 // (T, B, H), (B, H)
    // (T, B, kept()), or null: not kept; a row has the projection of h before its norm (P), what enters
    // the norm of each layer (L H), and the gates (3 H)
    T* kept;
    const T *dh, *dh_last;         // (T, B, H), (B, H), or null
    T *dx, *dh0;                   // (T, B, H), (B, H)
    BlockWeights<T> gradients;
    BlockPacked packed;
};

// One of the `size` workers that compute rows [first, last) of the batch together: with one part by
// itself, else the units of its blocks, the parts [parts rank / size, parts (rank + 1) / size).
template <class T>
struct BlockWorker {
    int64_t first, last;
    int rank, size, parts;
    Meeting* team;
    char *memory, *shared;
    BlockWeights<T> gradients;  // the sums over these rows

    int64_t rows() const { return last - first; }
};

// What an instruction set provides; sizes are in bytes.
template <class T>
struct BlockKernel {
    int64_t width;  // of a panel
    void (*pack)(const T* m, int64_t K, int64_t N, int64_t down, int64_t across, int64_t first,
                 int64_t last, void* packed);
    int64_t (*memory)(const BlockJob<T>&, int64_t rows, int parts);
    int64_t (*shared)(const BlockJob<T>&, int64_t rows, int parts);
    void (*forward)(const BlockJob<T>&, const BlockWorker<T>&);
    void (*backward)(const BlockJob<T>&, const BlockWorker<T>&);
};

}  // namespace lnrnn
