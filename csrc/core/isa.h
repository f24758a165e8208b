// The instruction sets that were compiled, and the choice among them.
#pragma once

#include "block.h"

namespace lnrnn {

struct Steps;

// How an instruction set computes the steps of streams, by the form of their matrices; `integers`
// is null, or for int8 on processors that have an instruction for such products.
struct StreamSteps {
    const Steps *float32, *bfloat16, *int8, *integers;
};

// Whether this processor has that instruction.
bool has_integers();

// Who takes an instruction set: any call where it is the best one usable, or only tests, for which
// LNRNN_ISA names it, so that it is not listed.
enum class Choice { best, tested };

struct Isa {
    const char* name;
    // null where this machine and process may use it, else why not
    const char* (*refusal)();
    const Kernel<float, float>* single;
    const Kernel<double, double>* full;
    const Kernel<float, bfloat16>* brain;
    const Kernel<float, float16>* half;
    const Kernel<float, float>* rounding;  // float32 with operands of products rounded to bfloat16
    const BlockKernel<float>*block_single, *block_brain, *block_half;
    const BlockKernel<double>* block_full;
    StreamSteps stream;
    Choice choice;

    bool usable() const { return !refusal(); }
};

// All that were compiled, the best first, and how many.
const Isa* compiled(int* count);

// The best that this machine has, or that of the environment variable LNRNN_ISA; null where the
// variable names one that is not compiled or not usable here.
const Isa* chosen();

}  // namespace lnrnn
