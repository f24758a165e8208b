// Who runs the workers of a call: the host's threads, so that two pools never compete.
#pragma once

#include <functional>

namespace lnrnn {

// A way to run a task on several threads at the same time.
class Pool {
public:
    using Task = std::function<void(int rank, int size)>;

    explicit Pool(int threads) : threads_(threads) {}
    virtual ~Pool() = default;

    int threads() const { return threads_; }

    // Run task(rank, size) for all ranks at once and return when all are done.  There are n ranks
    // or fewer, as many as there are threads to be had now.
    virtual void run(int n, const Task& task) = 0;

private:
    int threads_;
};

// Threads of this library, for hosts that lend none.  While one caller uses them another runs
// alone; a forked process starts new ones.
class OwnPool : public Pool {
public:
    using Pool::Pool;
    void run(int n, const Task& task) override;
};

// The functions of the OpenMP runtime that the host has loaded.
struct OpenMp {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel
    int (*rank)();                                                 // omp_get_thread_num
    int (*size)();                                                 // omp_get_num_threads
};

class OpenMpPool : public Pool {
public:
    OpenMpPool(const OpenMp& runtime, int threads) : Pool(threads), runtime_(runtime) {}
    void run(int n, const Task& task) override;

private:
    OpenMp runtime_;
};

}  // namespace lnrnn
