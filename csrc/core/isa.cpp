#include "isa.h"

#include <cstdlib>
#include <cstring>

namespace lnrnn {

#define DECLARE(name)                      \
    namespace name {                       \
    extern const Kernel<float> kernel_float;   \
    extern const Kernel<double> kernel_double; \
    }
#ifdef LNRNN_X86
DECLARE(avx512)
DECLARE(avx2)
#endif
DECLARE(baseline)
#undef DECLARE

namespace {

#ifdef LNRNN_X86
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
bool always() { return true; }

const Isa table[] = {
#ifdef LNRNN_X86
    {"avx512", has_avx512, &avx512::kernel_float, &avx512::kernel_double},
    {"avx2", has_avx2, &avx2::kernel_float, &avx2::kernel_double},
#endif
    {LNRNN_BASELINE, always, &baseline::kernel_float, &baseline::kernel_double},
};
constexpr int count_of_table = sizeof table / sizeof table[0];

}  // namespace

const Isa* compiled(int* count) {
    *count = count_of_table;
    return table;
}

const Isa* chosen() {
    const char* wanted = std::getenv("LNRNN_ISA");
    for (const Isa& isa : table)
        if (isa.usable() && (!wanted || !*wanted || std::strcmp(wanted, isa.name) == 0))
            return &isa;
    return nullptr;
}

}  // namespace lnrnn
