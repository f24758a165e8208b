// The instruction sets that were compiled, and the choice among them.
#pragma once

#include "job.h"

namespace lnrnn {

struct Isa {
    const char* name;
    bool (*usable)();
    const Kernel<float>* single;
    const Kernel<double>* full;

    template <class T>
    const Kernel<T>& kernel() const;
};

template <>
inline const Kernel<float>& Isa::kernel<float>() const { return *single; }
template <>
inline const Kernel<double>& Isa::kernel<double>() const { return *full; }

// All that were compiled, the best first, and how many.
const Isa* compiled(int* count);

// The best that this machine has, or that of the environment variable LNRNN_ISA; null where the
// variable names one that is not compiled or not usable here.
const Isa* chosen();

}  // namespace lnrnn
