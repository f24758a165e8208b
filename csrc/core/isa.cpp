#include "isa.h"

#include <cstdlib>
#include <cstring>

namespace lnrnn {

#define DECLARE(name)                      \
    namespace name {                       \
    extern const Kernel<float> kernel_float;   \
    extern const Kernel<double> kernel_double; \
    }
DECLARE(avx512)
DECLARE(avx2)
DECLARE(baseline)
#undef DECLARE

namespace {

#ifdef LNRNN_HAS_avx512
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
}
#endif
#ifdef LNRNN_HAS_avx2
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
#ifdef LNRNN_HAS_baseline
bool always() { return true; }
#endif

const Isa table[] = {
#ifdef LNRNN_HAS_avx512
    {"avx512", has_avx512, &avx512::kernel_float, &avx512::kernel_double},
#endif
#ifdef LNRNN_HAS_avx2
    {"avx2", has_avx2, &avx2::kernel_float, &avx2::kernel_double},
#endif
#ifdef LNRNN_HAS_baseline
    {LNRNN_BASELINE, always, &baseline::kernel_float, &baseline::kernel_double},
#endif
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
