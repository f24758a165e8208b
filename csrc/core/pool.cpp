#include "pool.h"

#ifndef _WIN32
#include <pthread.h>
#endif
#ifdef __linux__
#include <sched.h>
#endif

#include <condition_variable>
#include <mutex>
#include <thread>

namespace lnrnn {

namespace {

// Linux wakes a thread where its waker computes if few of the processors are idle, as where there
// are two; the waker then waits for the whole task.  The thread goes elsewhere by itself.
#ifdef __linux__
int processor() { return sched_getcpu(); }

void leave(int taken) {
    if (sched_getcpu() != taken) return;
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
    cpu_set_t others = allowed;
    CPU_CLR(taken, &others);
    if (!CPU_COUNT(&others)) return;
    sched_setaffinity(0, sizeof others, &others);
    sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
int processor() { return 0; }
void leave(int) {}
#endif

// Threads that wait for the next task.  They are never joined: at exit the process ends them, and
// in a forked child they do not exist.
class Threads {
public:
    void run(int n, const Pool::Task& task) {
        std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);
        if (!mine.owns_lock() || n <= 1) {
            task(0, 1);
            return;
        }
        grow(n - 1);
        {
            std::lock_guard<std::mutex> lock(state_);
            task_ = &task;
            size_ = n;
            taken_ = processor();
            left_ = n - 1;
            ++call_;
        }
        wake_.notify_all();
        task(0, n);
        std::unique_lock<std::mutex> lock(state_);
        done_.wait(lock, [&] { return left_ == 0; });
    }

private:
    void grow(int n) {
        for (int rank = int(started_) + 1; rank <= n; ++rank, ++started_)
            std::thread([this, rank, seen = call_]() mutable { serve(rank, seen); }).detach();
    }

    void serve(int rank, long seen) {
        for (;;) {
            const Pool::Task* task;
            int size, taken;
            {
                std::unique_lock<std::mutex> lock(state_);
                wake_.wait(lock, [&] { return call_ != seen; });
                seen = call_;
                task = task_, size = size_, taken = taken_;
            }
            if (rank >= size) continue;
            leave(taken);
            (*task)(rank, size);
            std::lock_guard<std::mutex> lock(state_);
            if (--left_ == 0) done_.notify_one();
        }
    }

    std::mutex busy_, state_;
    std::condition_variable wake_, done_;
    const Pool::Task* task_ = nullptr;
    int size_ = 0, left_ = 0, taken_ = 0;
    long call_ = 0;
    long started_ = 0;
};

// The threads of this process; a fork leaves the parent's behind (they may hold its locks).
Threads* current = nullptr;
std::mutex making;

Threads& threads_of_process() {
#ifndef _WIN32
    [[maybe_unused]] static const int registered = pthread_atfork(
        [] { making.lock(); }, [] { making.unlock(); },
        [] {
            current = nullptr;
            making.unlock();
        });
#endif
    std::lock_guard<std::mutex> lock(making);
    if (!current) current = new Threads;
    return *current;
}

}  // namespace

void OwnPool::run(int n, const Task& task) {
    if (n <= 1)
        task(0, 1);
    else
        threads_of_process().run(n, task);
}

void OpenMpPool::run(int n, const Task& task) {
    if (n <= 1) {
        task(0, 1);
        return;
    }
    struct Call {
        const OpenMp& runtime;
        const Task& task;
    } call{runtime_, task};
    runtime_.parallel(
        [](void* data) {
            const Call& call = *static_cast<Call*>(data);
            call.task(call.runtime.rank(), call.runtime.size());
        },
        &call, unsigned(n), 0);
}

}  // namespace lnrnn
