// A driver that tells a program of each launch, in place of NVIDIA's.  It is loaded under the name of
// NVIDIA's library.
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>

namespace {

using Tell = void (*)(const char* name, const unsigned* grid, unsigned threads, unsigned shared,
                      int at_once, void** parameters);

Tell tell = nullptr;
std::atomic<int> loads = 0, most_shared = 0, contexts = 0;
thread_local int own_contexts = 0;
int context;

int launched(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned shared,
             int at_once, void** parameters) {
    const unsigned grid[] = {x, y, z};
    tell(static_cast<const char*>(function), grid, threads, shared, at_once, parameters);
    return 0;
}

}  // namespace

#define LNRNN_SHOWN extern "C" __attribute__((visibility("default")))

LNRNN_SHOWN void lnrnn_tell(Tell whom) { tell = whom; }
LNRNN_SHOWN int lnrnn_loads() { return loads; }
LNRNN_SHOWN int lnrnn_most_shared() { return most_shared; }
LNRNN_SHOWN int lnrnn_contexts() { return contexts; }

LNRNN_SHOWN int cuInit(unsigned) { return 0; }
LNRNN_SHOWN int cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return 0;
}
// an H100
LNRNN_SHOWN int cuDeviceGetAttribute(int* value, int attribute, int) {
    *value = attribute == 16 ? 132 : attribute == 75 ? 9 : attribute == 97 ? 232448 : 0;
    return 0;
}
LNRNN_SHOWN int cuDeviceGetName(char* name, int, int) {
    std::strcpy(name, "none");
    return 0;
}
LNRNN_SHOWN int cuDriverGetVersion(int* version) {
    *version = 12080;
    return 0;
}
LNRNN_SHOWN int cuStreamGetCtx(void*, void** found) {
    *found = &context;
    return 0;
}
LNRNN_SHOWN int cuCtxPushCurrent_v2(void* pushed) {
    if (pushed != &context) return 201;
    ++contexts, ++own_contexts;
    return 0;
}
LNRNN_SHOWN int cuCtxPopCurrent_v2(void** popped) {
    *popped = &context;
    --contexts, --own_contexts;
    return 0;
}
// an image that is the text "broken" is none
LNRNN_SHOWN int cuModuleLoadData(void** module, const void* image) {
    ++loads;
    *module = const_cast<void*>(image);
    return std::strcmp(static_cast<const char*>(image), "broken") == 0 ? 200 : 0;
}
LNRNN_SHOWN int cuModuleGetFunction(void** function, void*, const char* name) {
    // a handle is the name; whoever has it asks for one at a time, and gives none back
    static auto& names = *new std::set<std::string>;
    *function = const_cast<char*>(names.insert(name).first->c_str());
    return 0;
}
LNRNN_SHOWN int cuFuncSetAttribute(void*, int attribute, int value) {
    if (attribute == 8 && value > most_shared) most_shared = value;
    return 0;
}
LNRNN_SHOWN int cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
    if (own_contexts == 0) return 201;
    *memory = std::calloc(1, bytes);
    return 0;
}
LNRNN_SHOWN int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads,
                               unsigned, unsigned, unsigned shared, void*, void** parameters, void**) {
    return launched(function, x, y, z, threads, shared, 0, parameters);
}
LNRNN_SHOWN int cuLaunchCooperativeKernel(void* function, unsigned x, unsigned y, unsigned z,
                                          unsigned threads, unsigned, unsigned, unsigned shared,
                                          void*, void** parameters) {
    return launched(function, x, y, z, threads, shared, 1, parameters);
}
LNRNN_SHOWN int cuGetErrorString(int, const char** text) {
    *text = "device kernel image is invalid";
    return 0;
}
