// A stack of layers that advances step by step, with all that it needs made ready once.
//
// A step computes what the engine's forward pass over one step does, by the same code, and gives
// the same bits where matrices are float32: every sum of a product is taken in the order of its
// depth, however many rows there are.
#pragma once

#include <memory>
#include <vector>

#include "isa.h"

namespace lnrnn {

using StreamJob = Job<float, float>;

// A cell that is ready to run its job.
struct Runner {
    void* at;
    void (*run)(void* at);
};

// What an instruction set provides for matrices that are stored in one form; sizes are in bytes.
struct Steps {
    int64_t (*panels)(int64_t columns);
    int64_t (*packed_size)(int64_t K, int64_t N);
    void (*pack)(const float* m, int64_t K, int64_t N, int64_t down, int64_t across, int64_t first,
                 int64_t last, void* packed);
    int64_t (*memory)(const StreamJob&, int64_t rows);
    int64_t (*shared)(const StreamJob&, int64_t rows);
    int64_t runner_size;
    Runner (*prepare)(const StreamJob&, const Worker<float>&, void* at);  // `at`: runner_size
};

// How the matrices of a stream are stored.
enum class Form : int64_t { float32, bfloat16, int8 };

// One layer as it is given, with weights that are read once; matrices are (in, out).
struct StreamLayer {
    Spec spec;
    double epsilon;
    int64_t inputs, units, hidden;  // hidden: the width of h
    double take_h, take_c;  // zoneout: the shares of the new states
    Clips<float> clips;
    Weights<float> weights;
    const float *initial_h, *initial_c;  // (R), (H), where a sequence begins; null: zeros
};

class Stream {
public:
    // Throws std::bad_alloc, and std::invalid_argument where layers do not follow one another.
    Stream(const Isa& isa, Form form, int64_t batch, const std::vector<StreamLayer>& layers);
    ~Stream();
    Stream(const Stream&) = delete;

    int64_t batch() const { return batch_; }
    int64_t inputs() const;
    int64_t outputs() const;
    int64_t layers() const;
    int64_t units(int64_t layer) const;
    int64_t hidden(int64_t layer) const;
    bool has_c(int64_t layer) const;

    // y (T, B, R) from x (T, B, I), both dense; x may be y where they are of one size.
    void run(int64_t steps, const float* x, float* y);
    // The states (B, R) and (B, H) of a layer; c is null where it has none.
    float *h(int64_t layer), *c(int64_t layer);
    // The initial states in a row of the batch.
    void reset(int64_t row);
    // Bytes of weights, states and scratch.
    int64_t bytes() const { return bytes_; }

private:
    struct Part;
    int64_t batch_, piece_, bytes_ = 0;
    std::vector<std::unique_ptr<Part>> parts_;
    float* between_[2] = {};
    std::vector<void*> owned_;

    void* take(int64_t bytes);
};

}  // namespace lnrnn
