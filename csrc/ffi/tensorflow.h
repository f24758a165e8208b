// How the library for TensorFlow reaches the core, which is in another library.
#pragma once

#include <cstdint>

namespace lnrnn {

// The passes of the core for TensorFlow.  They return null, or why they cannot run.
struct Core {
    // the arguments are those of `call` in csrc/core/call.h; `words` and `numbers` are lists
    const char* (*recurrence)(bool back, int64_t precision, const int64_t* words,
                              const int64_t* sizes, const double* numbers, void* const* arrays,
                              int threads);
    // those of `run_block` in csrc/core/block_run.h
    const char* (*block)(bool back, bool full, const int64_t* sizes, const double* numbers,
                         void* const* arrays, int threads);
};

}  // namespace lnrnn
