// Launches of compiled kernels on an NVIDIA device, with its driver's library found at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#if defined(__linux__)
#include <dlfcn.h>
#endif

namespace lnrnn::cuda {

// What the driver's interface has of it: its own names, with the suffix of the version that is meant.
struct Driver {
    using Result = int;
    Result (*cuStreamGetCtx)(void* stream, void** context) = nullptr;
    Result (*cuCtxPushCurrent_v2)(void* context) = nullptr;
    Result (*cuCtxPopCurrent_v2)(void** context) = nullptr;
    Result (*cuModuleLoadData)(void** module, const void* image) = nullptr;
    Result (*cuModuleGetFunction)(void** function, void* module, const char* name) = nullptr;
    Result (*cuFuncSetAttribute)(void* function, int attribute, int value) = nullptr;
    Result (*cuMemHostAlloc)(void** memory, size_t bytes, unsigned flags) = nullptr;
    Result (*cuLaunchKernel)(void* function, unsigned, unsigned, unsigned, unsigned, unsigned,
                             unsigned, unsigned shared, void* stream, void** parameters,
                             void** extra) = nullptr;
    Result (*cuLaunchCooperativeKernel)(void* function, unsigned, unsigned, unsigned, unsigned,
                                        unsigned, unsigned, unsigned shared, void* stream,
                                        void** parameters) = nullptr;
    Result (*cuGetErrorString)(Result result, const char** text) = nullptr;

    // Why there is none; empty where there is one.
    std::string missing;

    // That of this process.
    static const Driver& get() {
        static const Driver driver;
        return driver;
    }

private:
    Driver() {
#if defined(__linux__)
        void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        if (!library) {
            missing = "NVIDIA's driver is not found: libcuda.so.1";
            return;
        }
        const auto find = [&](auto& function, const char* name) {
            void* found = dlsym(library, name);
            if (!found) missing = std::string("NVIDIA's driver is too old: it has no ") + name;
            function = reinterpret_cast<std::decay_t<decltype(function)>>(found);
        };
#define LNRNN_FIND(name) find(name, #name)
        LNRNN_FIND(cuStreamGetCtx);
        LNRNN_FIND(cuCtxPushCurrent_v2);
        LNRNN_FIND(cuCtxPopCurrent_v2);
        LNRNN_FIND(cuModuleLoadData);
        LNRNN_FIND(cuModuleGetFunction);
        LNRNN_FIND(cuFuncSetAttribute);
        LNRNN_FIND(cuMemHostAlloc);
        LNRNN_FIND(cuLaunchKernel);
        LNRNN_FIND(cuLaunchCooperativeKernel);
        LNRNN_FIND(cuGetErrorString);
#undef LNRNN_FIND
#else
        missing = "kernels are launched on Linux only";
#endif
    }
};

// A compiled kernel and how it is launched.
struct Kernel {
    std::string_view key;    // of the binary and the name, what it is remembered by
    std::string_view name;   // in the binary
    std::string_view binary;
    unsigned grid[3];
    unsigned threads;
    unsigned shared;         // bytes
    bool at_once;            // all programs, or none
};

// A device's context as the current one.
class Current {
public:
    Current(const Driver& driver, void* context)
        : driver_(driver), result(driver.cuCtxPushCurrent_v2(context)) {}
    ~Current() {
        void* popped;
        if (result == 0) driver_.cuCtxPopCurrent_v2(&popped);
    }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;

private:
    const Driver& driver_;

public:
    const int result;
};

// What the programs of a kernel tell the host: not 0 where one has waited in vain for another.  In
// the host's memory, where a device writes it and nobody has to wait before he reads it.
class Flag {
public:
    // Its address; null, and the driver's answer, where there is no memory for it.  The thread that asks
    // first may have no context of its own.
    int32_t* get(const Driver& driver, void* stream, int* result) {
        const std::lock_guard lock(mutex_);
        if (flag_) return flag_;
        void *context, *memory;
        if ((*result = driver.cuStreamGetCtx(stream, &context))) return nullptr;
        const Current current(driver, context);
        if ((*result = current.result)) return nullptr;
        constexpr unsigned portable_and_mapped = 1 | 2;
        if ((*result = driver.cuMemHostAlloc(&memory, sizeof *flag_, portable_and_mapped))) return nullptr;
        flag_ = static_cast<int32_t*>(memory);
        *flag_ = 0;
        return flag_;
    }

    // Whether it was raised: of all who ask, one is told.
    static bool lower(int32_t* flag) {
        return __atomic_load_n(flag, __ATOMIC_RELAXED) && __atomic_exchange_n(flag, 0, __ATOMIC_RELAXED);
    }

private:
    std::mutex mutex_;
    int32_t* flag_ = nullptr;
};

inline Flag& flag() {
    static Flag flag;
    return flag;
}

// The kernels that are loaded, of each context.
class Loaded {
public:
    int find(const Driver& driver, void* context, const Kernel& kernel, void** function) {
        const std::lock_guard lock(mutex_);
        void*& found = functions_[{context, std::string(kernel.key)}];
        if (!found) {
            void* module;
            // where it lies in a program is not aligned
            const std::string name(kernel.name), binary(kernel.binary);
            int result = driver.cuModuleLoadData(&module, binary.data());
            if (result == 0) result = driver.cuModuleGetFunction(&found, module, name.c_str());
            constexpr int max_dynamic_shared = 8;
            constexpr unsigned without_asking = 48 << 10;
            if (result == 0 && kernel.shared > without_asking)
                result = driver.cuFuncSetAttribute(found, max_dynamic_shared, int(kernel.shared));
            if (result != 0) {
                functions_.erase({context, std::string(kernel.key)});
                return result;
            }
        }
        *function = found;
        return 0;
    }

private:
    std::mutex mutex_;
    std::map<std::pair<void*, std::string>, void*> functions_;
};

inline Loaded& loaded() {
    static Loaded loaded;
    return loaded;
}

// Puts a kernel on a stream; why it cannot, or an empty string.
inline std::string launch(void* stream, const Kernel& kernel, void** parameters) {
    const Driver& driver = Driver::get();
    if (!driver.missing.empty()) return driver.missing;
    const auto failed = [&](const char* what, int result) {
        const char* text = nullptr;
        driver.cuGetErrorString(result, &text);
        return std::string(what) + " of the kernel " + std::string(kernel.name) + " failed: " +
               (text ? text : std::to_string(result));
    };
    void* context;
    if (int result = driver.cuStreamGetCtx(stream, &context)) return failed("The stream", result);
    const Current current(driver, context);
    if (current.result) return failed("The context", current.result);
    void* function;
    if (int result = loaded().find(driver, context, kernel, &function))
        return failed("Loading", result);
    const unsigned* n = kernel.grid;
    const int result =
        kernel.at_once
            ? driver.cuLaunchCooperativeKernel(function, n[0], n[1], n[2], kernel.threads, 1, 1,
                                               kernel.shared, stream, parameters)
            : driver.cuLaunchKernel(function, n[0], n[1], n[2], kernel.threads, 1, 1, kernel.shared,
                                    stream, parameters, nullptr);
    return result ? failed("The launch", result) : std::string();
}

}  // namespace lnrnn::cuda
