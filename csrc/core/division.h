// What decides how the work of a call is divided among threads.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace lnrnn {

// Products smaller than this (multiplications of a call) are not worth a second thread.
constexpr double worth_a_thread = 2e5;
// Bytes of a packed matrix that a core has near enough, whatever it is divided into.
constexpr int64_t cached_matrix = 3 << 19;

// For tests: "units" or "rows" whatever the sizes; null where nothing is asked for.
inline const char* named_division() {
    static const char* const name = std::getenv("LNRNN_SPLIT");
    return name && *name ? name : nullptr;
}

}  // namespace lnrnn
