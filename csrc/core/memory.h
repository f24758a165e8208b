// Memory of calls: kept from one to the next, and in large pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

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

// What calls that are over have worked in, for those to come: the steps of a training ask for the same
// again and again.  Nobody waits for another here; who would have to goes to the system, as does the child
// of a fork in whose parent another thread was here.
class Kept {
public:
    static constexpr size_t least = size_t(1) << 16;  // bytes of a block
#ifdef __SANITIZE_ADDRESS__
    static constexpr size_t most = 0;  // of all: the sanitizer is to see the end of each block
#else
    static constexpr size_t most = size_t(64) << 20;
#endif

    // a block of at least as many bytes, and not much larger, which it says; null: none
    void* take(size_t& bytes) {
        const std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);
        if (!mine.owns_lock()) return nullptr;
        for (size_t i = blocks_.size(); i-- > 0;) {
            const Block block = blocks_[i];
            if (block.bytes < bytes || block.bytes > bytes + bytes / 4) continue;
            blocks_.erase(blocks_.begin() + i);
            all_ -= bytes = block.bytes;
            return block.at;
        }
        return nullptr;
    }

    // whether a block is kept; those that came first go
    bool give(void* at, size_t bytes) {
        if (bytes < least || bytes > most / 2) return false;
        const std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);
        if (!mine.owns_lock()) return false;
        while (all_ + bytes > most) drop();
        blocks_.push_back({at, bytes});
        all_ += bytes;
        return true;
    }

    void clear() {
        const std::unique_lock<std::mutex> mine(busy_);
        while (!blocks_.empty()) drop();
    }

private:
    struct Block {
        void* at;
        size_t bytes;
    };

    void drop() {
        all_ -= blocks_.front().bytes;
        ::operator delete(blocks_.front().at, cache_line);
        blocks_.erase(blocks_.begin());
    }

    std::mutex busy_;
    std::vector<Block> blocks_;
    size_t all_ = 0;
};

// never destroyed, as threads may outlive what is
inline Kept& kept_memory() {
    static Kept& kept = *new Kept;
    return kept;
}

struct Free {
    size_t bytes = 0;

    void operator()(void* p) const {
        if (!kept_memory().give(p, bytes)) ::operator delete(p, cache_line);
    }
};

template <class T>
using Buffer = std::unique_ptr<T, Free>;

template <class T>
Buffer<T> allocate(int64_t n) {
    size_t bytes = size_t(n < 1 ? 1 : n) * sizeof(T);
    void* at = bytes < Kept::least ? nullptr : kept_memory().take(bytes);
    if (!at) {
        at = ::operator new(bytes, cache_line);
        large_pages(at, bytes);
    }
    return Buffer<T>(static_cast<T*>(at), Free{bytes});
}

}  // namespace lnrnn
