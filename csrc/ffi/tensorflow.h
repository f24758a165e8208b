// How the library for TensorFlow reaches the core, which is in another library.
#pragma once

#include <cstdint>

namespace lnrnn {

// One pass of the core for TensorFlow: null, or why it cannot run.  The arguments are those of
// `call` in csrc/core/call.h; `words` and `numbers` are lists.
using CorePass = const char* (*)(bool back, int64_t precision, const int64_t* words,
                                 const int64_t* sizes, const double* numbers, void* const* arrays,
                                 int threads);

}  // namespace lnrnn
