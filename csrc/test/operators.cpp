// The operators for TensorFlow without TensorFlow, for the sanitizers: this program has the functions
// of TensorFlow's C interface that the library finds, over arrays of its own.
//
// Fails where the operators and a direct call of the core differ in a bit, where an error is missed,
// or where something is not given back.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "block_run.h"
#include "call.h"
#include "numbers.h"
#include "tensorflow.h"

using namespace lnrnn;
using Lengths = std::vector<int64_t>;

struct TF_Status {
    int code = 0;
    std::string message;
};

struct TF_Tensor {
    int dtype;
    Lengths shape;
    void* data;
};

struct TF_OpDefinitionBuilder {};

struct TF_KernelBuilder {
    void* (*create)(struct TF_OpKernelConstruction*);
    void (*compute)(void*, struct TF_OpKernelContext*);
    void (*destroy)(void*);
};

struct TF_OpKernelConstruction {
    std::map<std::string, Lengths> lists;
    std::string failure;
};

struct TF_OpKernelContext {
    std::vector<TF_Tensor> inputs;
    std::vector<TF_Tensor> outputs;
    std::string failure;
};

namespace {

int lent = 0;  // what the library has to give back

std::map<std::string, TF_KernelBuilder*>& kernels() {
    static std::map<std::string, TF_KernelBuilder*> found;
    return found;
}

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "%s\n", what.c_str());
    std::exit(1);
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT TF_Status* TF_NewStatus() { return ++lent, new TF_Status; }
EXPORT void TF_DeleteStatus(TF_Status* s) { --lent, delete s; }
EXPORT void TF_SetStatus(TF_Status* s, int code, const char* message) { *s = {code, message}; }
EXPORT int TF_GetCode(const TF_Status* s) { return s->code; }
EXPORT void* TF_TensorData(const TF_Tensor* t) { return t->data; }
EXPORT int TF_TensorType(const TF_Tensor* t) { return t->dtype; }
EXPORT int TF_NumDims(const TF_Tensor* t) { return int(t->shape.size()); }
EXPORT int64_t TF_Dim(const TF_Tensor* t, int axis) { return t->shape.at(axis); }
EXPORT void TF_DeleteTensor(TF_Tensor* t) { --lent, delete t; }
EXPORT TF_OpDefinitionBuilder* TF_NewOpDefinitionBuilder(const char*) {
    return new TF_OpDefinitionBuilder;
}
EXPORT void TF_OpDefinitionBuilderAddInput(TF_OpDefinitionBuilder*, const char*) {}
EXPORT void TF_OpDefinitionBuilderAddOutput(TF_OpDefinitionBuilder*, const char*) {}
EXPORT void TF_OpDefinitionBuilderAddAttr(TF_OpDefinitionBuilder*, const char*) {}
EXPORT void TF_OpDefinitionBuilderSetShapeInferenceFunction(TF_OpDefinitionBuilder*, void*) {}
EXPORT void TF_ShapeInferenceContextSetUnknownShape(void*, TF_Status*) {}
EXPORT void TF_RegisterOpDefinition(TF_OpDefinitionBuilder* op, TF_Status*) { delete op; }
EXPORT TF_KernelBuilder* TF_NewKernelBuilder(const char*, const char*,
                                             void* (*create)(TF_OpKernelConstruction*),
                                             void (*compute)(void*, TF_OpKernelContext*),
                                             void (*destroy)(void*)) {
    return new TF_KernelBuilder{create, compute, destroy};
}
EXPORT void TF_RegisterKernelBuilder(const char* name, TF_KernelBuilder* kernel, TF_Status*) {
    kernels()[name] = kernel;
}
EXPORT void TF_OpKernelConstruction_GetAttrSize(TF_OpKernelConstruction* c, const char* name,
                                                int32_t* size, int32_t* total, TF_Status* s) {
    if (!c->lists.count(name)) return TF_SetStatus(s, 5, "no such attribute");
    *size = int32_t(c->lists[name].size()), *total = -1;
}
EXPORT void TF_OpKernelConstruction_GetAttrInt64List(TF_OpKernelConstruction* c, const char* name,
                                                     int64_t* to, int most, TF_Status*) {
    std::copy_n(c->lists[name].begin(), most, to);
}
EXPORT void TF_OpKernelConstruction_Failure(TF_OpKernelConstruction* c, TF_Status* s) {
    c->failure = s->message;
}
EXPORT void TF_OpKernelContext_Failure(TF_OpKernelContext* c, TF_Status* s) {
    c->failure = s->message;
}
EXPORT int TF_NumInputs(TF_OpKernelContext* c) { return int(c->inputs.size()); }
EXPORT int TF_NumOutputs(TF_OpKernelContext* c) { return int(c->outputs.size()); }
EXPORT void TF_GetInput(TF_OpKernelContext* c, int i, TF_Tensor** t, TF_Status*) {
    *t = new TF_Tensor(c->inputs.at(i)), ++lent;
}
EXPORT TF_Tensor* TF_AllocateOutput(TF_OpKernelContext* c, int i, int dtype, const int64_t* shape,
                                    int rank, size_t bytes, TF_Status*) {
    TF_Tensor made{dtype, Lengths(shape, shape + rank), std::malloc(bytes)};
    std::memset(made.data, 0xff, bytes);  // not a number
    c->outputs.at(i) = made;
    return ++lent, new TF_Tensor(made);
}

extern "C" const char* lnrnn_missing();
extern "C" void lnrnn_use_core(const Core* core);

namespace {

const char* pass(bool back, int64_t precision, const int64_t* words, const int64_t* sizes,
                 const double* numbers, void* const* at, int threads) {
    Spec spec;
    std::memcpy(&spec, words, sizeof spec);
    OwnPool pool(threads);
    call(*chosen(), Precision(precision), back, spec, numbers_of(sizes, numbers), at, pool);
    return nullptr;
}

const char* block_pass(bool back, bool full, const int64_t* sizes, const double* numbers,
                       void* const* at, int threads) {
    OwnPool pool(threads);
    run_block(*chosen(), full, back, sizes, numbers, at, pool);
    return nullptr;
}

constexpr int64_t T = 5, B = 3, I = 4, H = 7, R = 6, G = 4, W = G * H;
const std::map<int, Lengths> shapes = {
    {kernel, {I, W}}, {recurrent, {R, W}}, {peephole, {3 * H}}, {gain_hidden, {R}},
    {shift_hidden, {R}}, {projection, {H, R}}, {projection_bias, {R}}, {bias_x, {W}}, {gain_h, {W}}, {shift_c, {H}}, {gain_c, {H}},
    {x, {T, B, I}}, {h0, {B, R}}, {c0, {B, H}}, {mask, {T, B}}, {recurrent_mask, {B, R}},
    {h, {T, B, R}}, {c, {T, B, H}}, {xw, {T, B, W}}, {hu, {T, B, W}}, {h_last, {B, R}}, {c_last, {B, H}},
    {dh, {T, B, R}}, {dh_last, {B, R}}, {dc_last, {B, H}}};

int64_t product(const Lengths& shape) {
    int64_t n = 1;
    for (int64_t length : shape) n *= length;
    return n;
}

using Bytes = std::vector<char>;
template <class Number>
constexpr int dtype_of = 0;
template <>
constexpr int dtype_of<float> = 1;
template <>
constexpr int dtype_of<double> = 2;
template <>
constexpr int dtype_of<bfloat16> = 14;
template <>
constexpr int dtype_of<float16> = 19;

struct Answer {
    std::vector<TF_Tensor> outputs;
    std::string failure;
};

// What an operator makes of these arrays.
Answer ask(const char* name, std::map<std::string, Lengths> lists, const std::vector<int>& given,
           const std::vector<int>& found, const std::vector<TF_Tensor>& inputs) {
    const TF_KernelBuilder* kernel = kernels().at(name);
    lists["operands"] = Lengths(given.begin(), given.end());
    lists["results"] = Lengths(found.begin(), found.end());
    TF_OpKernelConstruction construction{lists, ""};
    void* node = kernel->create(&construction);
    TF_OpKernelContext context;
    context.inputs = inputs;
    context.outputs.resize(found.size());
    if (node) kernel->compute(node, &context), kernel->destroy(node);
    return {context.outputs, construction.failure + context.failure};
}

// x, and what is of its precision, are of Narrow, all else of Wide.
template <class Wide, class Narrow>
struct Program {
    static constexpr int dtype = dtype_of<Narrow>;
    std::map<int, Bytes> numbers;
    Bytes flags;
    std::map<std::string, Lengths> attributes;

    Program() : flags(T * B, 1) {
        std::mt19937 random(7);
        std::uniform_real_distribution<double> value(-1, 1);
        for (const auto& [name, shape] : shapes) {
            auto fill = [&](auto number) {
                for (int64_t left = product(shape); left > 0; --left) {
                    put(value(random), number);
                    const char* at = reinterpret_cast<const char*>(&number);
                    numbers[name].insert(numbers[name].end(), at, at + sizeof number);
                }
            };
            is_narrow(name) ? fill(Narrow{}) : fill(Wide{});
        }
        flags[4] = flags[7] = 0;
        Spec spec{};
        spec.cell = Cell::lstm, spec.gates = G, spec.cell_norm = CellNorm::output;
        spec.sigma = Activation::sigmoid, spec.peephole = Peephole::after;
        spec.projection = spec.hidden_norm = 1;
        for (int g = 0; g < max_gates; ++g) spec.x.of[g] = spec.sum.of[g] = -1, spec.h.of[g] = 0;
        Lengths words(spec_words), bits(scalar_words);
        std::memcpy(words.data(), &spec, sizeof spec);
        const double scalars[] = {1, .9, 1e-5, 0, 0.8, 0, 0.5};
        std::memcpy(bits.data(), scalars, sizeof scalars);
        attributes = {{"spec", words}, {"numbers", bits}, {"options", {0, 2, 1 << 20}}};
    }

    static bool is_narrow(int name) {
        return name == x || name == h || name == xw || name == hu || name == dh || name == dx;
    }

    static size_t size(int name) { return is_narrow(name) ? sizeof(Narrow) : sizeof(Wide); }

    static bool is_finite(int name, const Bytes& array) {
        auto all = [&](auto number) {
            for (size_t i = 0; i < array.size(); i += sizeof number) {
                std::memcpy(&number, &array[i], sizeof number);
                if (!lnrnn::is_finite(number)) return false;
            }
            return true;
        };
        return is_narrow(name) ? all(Narrow{}) : all(Wide{});
    }

    TF_Tensor tensor(int name) {
        if (name == mask) return {10, shapes.at(name), flags.data()};
        return {is_narrow(name) ? dtype : dtype_of<Wide>, shapes.at(name), numbers[name].data()};
    }

    // the results by name; or the message of the error
    std::map<int, Bytes> run(bool back, std::vector<int> given, std::vector<int> found,
                                           std::map<int, TF_Tensor> other = {},
                                           std::string* error = nullptr) {
        std::vector<TF_Tensor> inputs;
        for (int name : given) inputs.push_back(other.count(name) ? other[name] : tensor(name));
        const Answer answer =
            ask(back ? "LnrnnRecurrenceBackward" : "LnrnnRecurrence", attributes, given, found, inputs);
        const std::string& message = answer.failure;
        if (error)
            *error = message;
        else if (!message.empty())
            fail(message);
        std::map<int, Bytes> results;
        for (size_t i = 0; i < found.size(); ++i) {
            const TF_Tensor& out = answer.outputs[i];
            const char* at = static_cast<const char*>(out.data);
            if (at) results[found[i]].assign(at, at + product(out.shape) * size(found[i]));
            std::free(out.data);
        }
        if (lent) fail("something was not given back");
        return results;
    }
};

void same(const std::string& what, bool holds) {
    if (!holds) fail(what + " differs");
}

template <class Wide, class Narrow>
void check() {
    using Program = Program<Wide, Narrow>;
    Program program;
    const std::vector<int> inputs = {kernel, recurrent, bias_x, gain_h, gain_c, shift_c,
                                     peephole, gain_hidden, shift_hidden, projection,
                                     projection_bias, x,      h0,        c0,     mask,   recurrent_mask};
    const std::vector<int> outputs = {h, h_last, c_last, c, xw, hu};
    const std::vector<int> gradients = {dkernel, drecurrent, dbias_x, dgain_h, dgain_c,
                                        dshift_c, dpeephole, dgain_hidden, dshift_hidden,
                                        dprojection, dprojection_bias, dx,        dh0,     dc0};
    auto joined = [](std::vector<int> a, const std::vector<int>& b) {
        a.insert(a.end(), b.begin(), b.end());
        return a;
    };

    auto made = program.run(false, inputs, outputs);
    for (auto& [name, array] : made)
        if (!program.is_finite(name, array)) fail("a result is not a number");
    auto plain = program.run(false, inputs, {h, h_last, c_last});
    for (int name : {h, h_last, c_last}) same("what is not kept", plain[name] == made[name]);
    for (int name : {h, c, xw, hu}) program.numbers[name] = made[name];

    const std::vector<int> incoming = {dh, dh_last, dc_last};
    auto kept = program.run(true, joined(joined(inputs, {h, c, xw, hu}), incoming), gradients);
    auto again = program.run(true, joined(joined(inputs, {h}), incoming), gradients);
    program.attributes["options"][2] = 0;
    auto nothing = program.run(false, inputs, outputs);
    if (!nothing[xw].empty() || !nothing[hu].empty()) fail("products were kept");
    TF_Tensor empty{Program::dtype, {0, 0, 0}, nullptr};
    auto cell = program.run(true, joined(joined(inputs, {h, c, xw, hu}), incoming), gradients,
                            {{xw, empty}, {hu, empty}});
    for (int name : gradients) {
        if (!program.is_finite(name, kept[name])) fail("a gradient is not a number");
        same("a gradient of what was made again", kept[name] == again[name]);
        // what is kept in 16 bits is rounded, what is computed again is not
        same("a gradient without products", kept[name] == cell[name] || sizeof(Narrow) == 2);
    }

    // x, h and their gradients as they lie batch first
    auto turned = [](const Bytes& from, int64_t width) {
        Bytes to(from.size());
        const int64_t row = width * int64_t(sizeof(Narrow));
        for (int64_t t = 0; t < T; ++t)
            for (int64_t b = 0; b < B; ++b)
                std::copy_n(&from[(t * B + b) * row], row, &to[(b * T + t) * row]);
        return to;
    };
    Bytes turned_x = turned(program.numbers[x], I), turned_dh = turned(program.numbers[dh], R);
    made[h] = turned(made[h], R), kept[dx] = turned(kept[dx], I);
    const std::map<int, TF_Tensor> as_it_lies = {
        {x, {Program::dtype, {B, T, I}, turned_x.data()}},
        {h, {Program::dtype, {B, T, R}, made[h].data()}},
        {dh, {Program::dtype, {B, T, R}, turned_dh.data()}}};
    program.attributes["options"] = {1, 2, 1 << 20};
    auto first = program.run(false, inputs, outputs, as_it_lies);
    for (int name : outputs) same("batch first", first[name] == made[name]);
    auto back = program.run(true, joined(joined(inputs, {h, c, xw, hu}), incoming), gradients,
                            as_it_lies);
    for (int name : gradients) same("a gradient batch first", back[name] == kept[name]);
    program.attributes["options"] = {0, 2, 1 << 20};

    // what does not fit is said, and nothing is read
    std::string error;
    auto refused = [&](const char* what, std::map<int, TF_Tensor> other, const char* expected) {
        program.run(false, inputs, outputs, other, &error);
        if (error.find(expected) == std::string::npos) fail(std::string(what) + ": " + error);
    };
    for (int name : inputs) {
        TF_Tensor wrong = program.tensor(name);
        wrong.shape.back() += 1;
        refused("a shape", {{name, wrong}}, "An input of a recurrence has the shape");
        wrong.shape = {};
        refused("a rank", {{name, wrong}}, "has the shape");
        wrong = program.tensor(name);
        wrong.dtype = name == kernel ? 10 : 9;
        refused("a dtype", {{name, wrong}}, "of one dtype");
    }
    TF_Tensor none = program.tensor(x);
    none.shape[0] = 0;
    refused("no steps", {{x, none}}, "one step or more");
    program.run(false, {kernel, arrays}, {h}, {{arrays, none}}, &error);
    if (error.find("not those of this version") == std::string::npos) fail("an unknown array: " + error);
    program.attributes["options"].pop_back();
    program.run(false, inputs, outputs, {}, &error);
    if (error.find("not those of this version") == std::string::npos) fail("options: " + error);
    program.attributes.erase("numbers");
    program.run(false, inputs, outputs, {}, &error);
    if (error != "no such attribute") fail("a missing attribute: " + error);
}

// The block GRU: what was kept and what is made again, as a direct call; and what does not fit.
template <class Number>
void check_blocks(Rounding rounding = Rounding::none) {
    constexpr int64_t P = 5, K = 2, L = 2, n = 4, H = K * n;
    const Lengths sizes = {T, B, H, P, K, L, 0, int64_t(rounding)};
    std::map<int, Lengths> shapes = {
        {block::hidden_kernel, {H, P}}, {block::hidden_bias, {P}}, {block::hidden_gain, {P}},
        {block::state_kernel, {K, n, n}}, {block::projected_kernel, {P, H}},
        {block::layer_kernel, {K, n, (L - 1) * n}}, {block::layer_bias, {(L - 1) * H}},
        {block::gain, {L * H}}, {block::gate_kernel, {K, n, 3 * n}}, {block::gate_bias, {3 * H}},
        {block::x, {T, B, H}}, {block::h0, {B, H}}, {block::h, {T, B, H}}, {block::h_last, {B, H}},
        {block::kept, {T, B, BlockSizes{T, B, H, P, K, L}.kept()}},
        {block::dh, {T, B, H}}, {block::dh_last, {B, H}}};
    std::vector<int> inputs, gradients;
    for (int i = block::hidden_kernel; i <= block::h0; ++i) {
        inputs.push_back(i), gradients.push_back(block::dweights + i);
        shapes[block::dweights + i] = shapes[i];
    }
    std::mt19937 random(7);
    std::uniform_real_distribution<double> value(-1, 1);
    std::map<int, std::vector<Number>> numbers;
    void* at[block::arrays] = {};
    for (const auto& [name, shape] : shapes) {
        for (int64_t left = product(shape); left > 0; --left)
            numbers[name].push_back(Number(value(random)));
        at[name] = numbers[name].data();
    }
    const double scalars[] = {1e-4, -1};
    block_pass(false, sizeof(Number) == 8, sizes.data(), scalars, at, 2);
    block_pass(true, sizeof(Number) == 8, sizes.data(), scalars, at, 2);

    Lengths bits(2);
    std::memcpy(bits.data(), scalars, sizeof scalars);
    const std::map<std::string, Lengths> attributes = {
        {"spec", {0, int64_t(rounding)}}, {"numbers", bits}, {"options", {0, 2, 0}}};
    auto run = [&](const char* name, std::vector<int> given, const std::vector<int>& found,
                   int wrong = -1) {
        std::vector<TF_Tensor> tensors;
        for (int i : given)
            tensors.push_back({dtype_of<Number>, shapes[i], numbers[i].data()});
        if (wrong >= 0) tensors[wrong].shape.back() += 1;
        const Answer answer = ask(name, attributes, given, found, tensors);
        for (size_t i = 0; i < found.size(); ++i) {
            const TF_Tensor& out = answer.outputs[i];
            if (answer.failure.empty())
                same("an array of a block GRU", product(out.shape) == product(shapes[found[i]]) &&
                     std::memcmp(out.data, numbers[found[i]].data(),
                                 numbers[found[i]].size() * sizeof(Number)) == 0);
            std::free(out.data);
        }
        if (lent) fail("something was not given back");
        return answer.failure;
    };
    auto joined = [&](std::vector<int> more) {
        more.insert(more.begin(), inputs.begin(), inputs.end());
        return more;
    };
    const char *forward = "LnrnnBlockRecurrence", *backward = "LnrnnBlockRecurrenceBackward";
    for (const std::string& failure :
         {run(forward, inputs, {block::h, block::h_last, block::kept}),
          run(forward, inputs, {block::h, block::h_last}),
          run(backward, joined({block::h, block::kept, block::dh, block::dh_last}), gradients),
          run(backward, joined({block::h, block::dh, block::dh_last}), gradients)})
        if (!failure.empty()) fail(failure);
    for (size_t i = 0; i < inputs.size(); ++i)
        if (run(forward, inputs, {block::h}, int(i)).find("shape") == std::string::npos)
            fail("a shape of a block GRU");
    if (run(forward, {inputs.begin() + 1, inputs.end()}, {block::h}).empty()) fail("no matrix of h");
}

}  // namespace

int main() {
    if (*lnrnn_missing()) fail(lnrnn_missing());
    const Core core{pass, block_pass};
    lnrnn_use_core(&core);
    check<float, float>();
    check<double, double>();
    check<float, bfloat16>();
    check<float, float16>();
    for (Rounding rounding : {Rounding::none, Rounding::bfloat16, Rounding::float16})
        check_blocks<float>(rounding);
    check_blocks<double>();
    for (auto& [name, kernel] : kernels()) delete kernel;
    std::puts("the operators compute, and refuse, as they should");
}
