// How often the core ran in this process, by the framework that called it.
#pragma once

#include <atomic>
#include <cstdint>

namespace lnrnn {

// In the order of `FRAMEWORKS` in lnrnn/engines/native/core.py.
enum class Framework : int { numpy, torch, jax, tensorflow };
constexpr int frameworks = 4;

// Forward and backward passes.  Each library that holds the core counts its own.
inline std::atomic<int64_t> passes[frameworks][2];

inline void count_pass(Framework framework, bool back) {
    passes[int(framework)][back].fetch_add(1, std::memory_order_relaxed);
}

}  // namespace lnrnn
