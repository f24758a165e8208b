// Launches of kernels by several threads at once, for the sanitizers, with the driver of driver.cpp.
//
// Fails where a launch is not told as it was made, where a kernel is loaded more than once or a context
// stays behind, or where a raised flag is told to none or to two.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "cuda.h"

using namespace lnrnn::cuda;

extern "C" {
using Tell = void (*)(const char* name, const unsigned* grid, unsigned threads, unsigned shared,
                      int at_once, void** parameters);
void lnrnn_tell(Tell whom);
int lnrnn_loads();
int lnrnn_contexts();
}

namespace {

constexpr int callers = 4, kernels = 5;
std::atomic<int> told = 0, failures = 0;

void check(bool right, const char* what) {
    if (right) return;
    std::fprintf(stderr, "%s\n", what);
    ++failures;
}

// kernel i has the name "kernel<i>", a grid, threads and shared memory made of i, and i as its parameter
void tell(const char* name, const unsigned* grid, unsigned threads, unsigned shared, int at_once,
          void** parameters) {
    ++told;
    const int i = *static_cast<const int*>(parameters[0]);
    check(name == "kernel" + std::to_string(i), "another kernel");
    check(grid[0] == unsigned(i) + 1 && grid[1] == 2 && grid[2] == 3, "another grid");
    check(threads == 32 * (unsigned(i) + 1) && shared == unsigned(i) << 15, "another size");
    check(at_once == i % 2, "not all at once");
}

std::string put(int i, const std::string& binary) {
    const unsigned n = unsigned(i) + 1;
    const std::string name = "kernel" + std::to_string(i), key = binary + name;
    void* parameters[] = {&i};
    return launch(nullptr, {key, name, binary, {n, 2, 3}, 32 * n, unsigned(i) << 15, i % 2 != 0},
                  parameters);
}

template <class F>
void by_all(F f) {
    std::vector<std::thread> threads;
    for (int i = 0; i < callers; ++i) threads.emplace_back(f, i);
    for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main(int count, char** arguments) {
    const int rounds = count > 1 ? std::atoi(arguments[1]) : 200;
    check(Driver::get().missing.empty(), Driver::get().missing.c_str());
    lnrnn_tell(tell);
    int32_t* raised[callers];
    by_all([&](int caller) {
        int result = 0;
        raised[caller] = flag().get(Driver::get(), nullptr, &result);
        check(raised[caller] && raised[caller] == flag().get(Driver::get(), nullptr, &result),
              "no flag, or two");
        for (int i = 0; i < rounds; ++i)
            check(put((i + caller) % kernels, "binary").empty(), "a launch failed");
        check(put(0, "broken") == "Loading of the kernel kernel0 failed: device kernel image is invalid",
              "a broken image");
    });
    check(told == callers * rounds, "launches were lost");
    check(lnrnn_loads() == kernels + callers, "a kernel was loaded again");
    check(lnrnn_contexts() == 0, "a context stayed behind");
    for (int i = 0; i < rounds; ++i) {
        std::atomic<int> lowered = 0;
        *raised[0] = 1;
        by_all([&](int caller) { lowered += Flag::lower(raised[caller]); });
        check(lowered == 1, "a flag was told to none or to two");
    }
    std::printf("%d launches, %d failures\n", told.load(), failures.load());
    return failures != 0;
}
