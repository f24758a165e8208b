// A call of the core, and what one of its workers is given; shared by all instruction sets.
#pragma once

#include <initializer_list>
#include <vector>

#include "spec.h"

namespace lnrnn {

// Let another thread run.
void give_way();

// Where the workers of one block of rows meet, after each product that they share.
class Meeting {
public:
    void meet(int size) {
        if (size == 1) return;
        const int phase = __atomic_load_n(&phase_, __ATOMIC_ACQUIRE);
        if (__atomic_add_fetch(&arrived_, 1, __ATOMIC_ACQ_REL) == size) {
            __atomic_store_n(&arrived_, 0, __ATOMIC_RELAXED);
            __atomic_store_n(&phase_, phase + 1, __ATOMIC_RELEASE);
            return;
        }
        for (int spins = 0; __atomic_load_n(&phase_, __ATOMIC_ACQUIRE) == phase; ++spins)
            if (spins > 4000) give_way();  // one of them is not running
    }

private:
    int arrived_ = 0;
    int phase_ = 0;
};

// The packed matrices of a call.  Of two products the first is that of all gates but n, else of all.
// Where workers divide the units, those with a column for each gate and unit are packed gate by gate.
struct Packed {
    const void *kernel, *kernel_back;      // W: (I, G H), and its transpose
    const void *first, *second;            // U: (R, columns)
    const void *first_back, *second_back;  // its transpose: (columns, R)
    const void *projection, *projection_back;  // P: (H, R), and its transpose
};

template <class T, class S>
struct Job {
    Spec spec;
    double epsilon, clip;  // clip: as of Context
    bool batch_first, h_batch_first;       // x is (B, T, I), h is (B, T, R)
    bool kernel_turned, recurrent_turned;  // W and U are given as their transposes
    Clips<T> clips;
    Sizes n;
    Weights<T> weights;
    Inputs<T, S> in;
    Outputs<T, S> out;
    Gradients<T, S> grad;
    Packed packed;

    int64_t wide() const { return spec.gates * n.H; }
    int64_t early_gates() const { return spec.gates - spec.two_products(); }
};

// One of the `size` workers that compute rows [first, last) of the batch together.  With one part they
// share the columns of the products, and each does all the rest; with more, each does all that is of
// its units, the parts [parts rank / size, parts (rank + 1) / size).  `memory` is its own, `shared` the
// team's, and so are the gradients of W, U and P of these rows.
template <class T>
struct Worker {
    int64_t first, last;
    int rank, size, parts;
    Meeting* team;
    char *memory, *shared;
    T *dkernel, *drecurrent, *dprojection;

    int64_t rows() const { return last - first; }
    bool leads() const { return rank == 0; }
};

// Offsets of the sums over rows, in elements: at the start of a worker's memory, or of the team's where
// it divides the units.
struct SumsLayout {
    int64_t gain_x, shift_x, gain_h, shift_h, gain_sum, shift_sum, bias_x, bias_h, gain_c, shift_c,
        recurrent, peephole, gain_pre, shift_pre, gain_hidden, shift_hidden, projection_bias, size = 0;

    SumsLayout(int64_t wide, const Sizes& n) {
        for (int64_t* it : {&gain_x, &shift_x, &gain_h, &shift_h, &gain_sum, &shift_sum, &bias_x, &bias_h})
            *it = size, size += wide;
        for (int64_t* it : {&gain_c, &shift_c, &recurrent}) *it = size, size += n.H;
        peephole = size, size += 3 * n.H;
        for (int64_t* it : {&gain_pre, &shift_pre}) *it = size, size += n.I + n.R;
        for (int64_t* it : {&gain_hidden, &shift_hidden, &projection_bias}) *it = size, size += n.R;
    }
};

// What an instruction set provides for one precision; sizes are in bytes.
template <class T, class S>
struct Kernel {
    int64_t few_rows;  // of a worker: products of as many are bound by reading the matrix
    int64_t (*panels)(int64_t columns);
    int64_t (*packed_size)(int64_t K, int64_t N);
    void (*pack)(const T* m, int64_t K, int64_t N, int64_t down, int64_t across, int64_t first,
                 int64_t last, void* packed);
    int64_t (*memory)(const Job<T, S>&, int64_t rows, int parts);
    int64_t (*shared)(const Job<T, S>&, int64_t rows, int parts);
    void (*forward)(const Job<T, S>&, const Worker<T>&);
    void (*backward)(const Job<T, S>&, const Worker<T>&);
    // null where a block sums the gradients of matrices as they are; else makes them of what blocks of as
    // many parts have summed in their shared memory: the share of one of `size` workers
    void (*collect)(const Job<T, S>&, const std::vector<char*>& shared, int parts, int rank, int size);
    void (*function)(Activation, bool exponential, int64_t n, const T* in, T* out);
};

}  // namespace lnrnn
