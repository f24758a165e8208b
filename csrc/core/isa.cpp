#include "isa.h"

#include <cstdlib>
#include <cstring>

#if defined(LNRNN_HAS_amx) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(LNRNN_HAS_neon_bf16) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(LNRNN_HAS_neon_bf16) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace lnrnn {

#define DECLARE(name)                                   \
    namespace name {                                    \
    extern const Kernel<float, float> kernel_single;    \
    extern const Kernel<double, double> kernel_full;    \
    extern const Kernel<float, bfloat16> kernel_brain;  \
    extern const Kernel<float, float16> kernel_half;    \
    extern const Kernel<float, float> kernel_rounding;  \
    extern const BlockKernel<float> block_single;       \
    extern const BlockKernel<float> block_brain;        \
    extern const BlockKernel<float> block_half;         \
    extern const BlockKernel<double> block_full;        \
    extern const Steps steps_float32;                   \
    extern const Steps steps_bfloat16;                  \
    extern const Steps steps_int8;                      \
    }
DECLARE(amx)
DECLARE(avx512_bf16)
DECLARE(avx512)
DECLARE(avx2)
DECLARE(neon_bf16)
DECLARE(baseline)
DECLARE(amx_emulated)
DECLARE(avx512_vnni)
#undef DECLARE

namespace {

[[maybe_unused]] constexpr const char* lacking = "this processor does not have it";

#ifdef __x86_64__
[[maybe_unused]] const char* without_avx512() {
    const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    return has ? nullptr : lacking;
}
[[maybe_unused]] const char* without_avx512_bf16() {
    return __builtin_cpu_supports("avx512bf16") ? without_avx512() : lacking;
}
#endif
#ifdef LNRNN_HAS_amx
const char* ask_for_amx() {
#ifdef __linux__
    if (without_avx512_bf16()) return lacking;
    unsigned a = 7, b, c = 0, d;
    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if (!(d >> 24 & 1) || !(d >> 22 & 1)) return lacking;  // AMX-TILE and AMX-BF16
    // without the system's permission the first tile instruction ends the process
    constexpr long request = 0x1023, tile_data = 18;
    const bool permitted = syscall(SYS_arch_prctl, request, tile_data) == 0;
    return permitted ? nullptr : "the system gives this process no permission for tiles";
#else
    return "the core asks for the permission for tiles on Linux only";
#endif
}
// once a process: in a virtual machine cpuid takes microseconds
const char* without_amx() {
    static const char* const reason = ask_for_amx();
    return reason;
}
#endif
#ifdef LNRNN_HAS_avx2
const char* without_avx2() {
    const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                     __builtin_cpu_supports("f16c");
    return has ? nullptr : lacking;
}
#endif
#ifdef LNRNN_HAS_neon_bf16
const char* without_neon_bf16() {
#if defined(__linux__)
    constexpr unsigned long bf16 = 1 << 14;
    return getauxval(AT_HWCAP2) & bf16 ? nullptr : lacking;
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    const int asked = sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &size, nullptr, 0);
    return asked == 0 && has ? nullptr : lacking;
#else
    return "the core asks for the dot products of bfloat16 on Linux and macOS only";
#endif
}
#endif
#ifdef LNRNN_HAS_baseline
const char* nothing() { return nullptr; }
#endif

#ifdef LNRNN_HAS_avx512_vnni
#define INTEGERS_avx512 &avx512_vnni::steps_int8
#else
#define INTEGERS_avx512 nullptr
#endif
#define INTEGERS_avx2 nullptr
#define INTEGERS_baseline nullptr
#define STREAM(set) \
    { &set::steps_float32, &set::steps_bfloat16, &set::steps_int8, INTEGERS_##set }

#define BLOCK(set) &set::block_single, &set::block_brain, &set::block_half, &set::block_full

#define WHOLE(set)                                                                  \
    &set::kernel_single, &set::kernel_full, &set::kernel_brain, &set::kernel_half, \
        &set::kernel_rounding, BLOCK(set), STREAM(set)
// what `set` adds to `base` are products of bfloat16
#define PRODUCTS(set, base)                                                           \
    &base::kernel_single, &base::kernel_full, &set::kernel_brain, &base::kernel_half, \
        &set::kernel_rounding, BLOCK(base), STREAM(base)

const Isa table[] = {
#ifdef LNRNN_HAS_amx
    {"amx", without_amx, PRODUCTS(amx, avx512), Choice::best},
#endif
#ifdef LNRNN_HAS_avx512_bf16
    {"avx512_bf16", without_avx512_bf16, PRODUCTS(avx512_bf16, avx512), Choice::best},
#endif
#ifdef LNRNN_HAS_avx512
    {"avx512", without_avx512, WHOLE(avx512), Choice::best},
#endif
#ifdef LNRNN_HAS_avx2
    {"avx2", without_avx2, WHOLE(avx2), Choice::best},
#endif
#ifdef LNRNN_HAS_neon_bf16
    {"neon_bf16", without_neon_bf16, PRODUCTS(neon_bf16, baseline), Choice::best},
#endif
#ifdef LNRNN_HAS_baseline
    {LNRNN_BASELINE, nothing, WHOLE(baseline), Choice::best},
#endif
#ifdef LNRNN_HAS_amx_emulated
    {"amx_emulated", nothing, PRODUCTS(amx_emulated, baseline), Choice::tested},
#endif
};
constexpr int count_of_table = sizeof table / sizeof table[0];

}  // namespace

bool has_integers() {
#ifdef LNRNN_HAS_avx512_vnni
    return __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

const Isa* compiled(int* count) {
    *count = count_of_table;
    return table;
}

const Isa* chosen() {
    const char* wanted = std::getenv("LNRNN_ISA");
    for (const Isa& isa : table) {
        const bool named = wanted && *wanted ? std::strcmp(wanted, isa.name) == 0
                                             : isa.choice == Choice::best;
        if (named && isa.usable()) return &isa;
    }
    return nullptr;
}

}  // namespace lnrnn
