// Memory that a call writes for the first time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace lnrnn {

// Ask for large pages for memory that is about to be filled.  The system gives what is this large
// anew for every call, page by page and filled with zeros: with small pages a tenth of a training
// step goes there.
inline void large_pages([[maybe_unused]] void* at, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t page = uintptr_t(2) << 20;
    if (!at) return;
    const uintptr_t start = (reinterpret_cast<uintptr_t>(at) + page - 1) & ~(page - 1);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(at) + bytes) & ~(page - 1);
    if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#endif
}

constexpr std::align_val_t cache_line{64};

struct Free {
    void operator()(void* p) const { ::operator delete(p, cache_line); }
};

template <class T>
using Buffer = std::unique_ptr<T, Free>;

template <class T>
Buffer<T> allocate(int64_t n) {
    const size_t bytes = size_t(n < 1 ? 1 : n) * sizeof(T);
    T* at = static_cast<T*>(::operator new(bytes, cache_line));
    large_pages(at, bytes);
    return Buffer<T>(at);
}

}  // namespace lnrnn
