// Memory of a worker, cut into parts.
#pragma once

#include <cstdint>

namespace lnrnn::LNRNN_ISA {

// Memory cut into parts of whole cache lines; without a base it only counts.
struct Memory {
    char* base;
    int64_t used = 0;

    template <class T>
    T* take(int64_t n) {
        T* part = base ? reinterpret_cast<T*>(base + used) : nullptr;
        used += (n * int64_t(sizeof(T)) + 63) / 64 * 64;
        return part;
    }
};

}  // namespace lnrnn::LNRNN_ISA
