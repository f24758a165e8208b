// lnrnn.engines.native._tensorflow: the core as TensorFlow operators, by TensorFlow's C interface.
//
// It is compiled without TensorFlow: the prototypes stand here, and the functions are found in the
// TensorFlow that loads this library.  The core is that of `_core`, which hands over its address.
#include "tensorflow.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "block_run.h"
#include "call.h"

struct TF_Status;
struct TF_Tensor;
struct TF_OpDefinitionBuilder;
struct TF_KernelBuilder;
struct TF_OpKernelConstruction;
struct TF_OpKernelContext;
struct TF_ShapeInferenceContext;

namespace lnrnn {
namespace {

// TensorFlow's numbers for dtypes and errors.
namespace dtype {
constexpr int float32 = 1, float64 = 2, boolean = 10, bfloat16 = 14, float16 = 19;
}
constexpr int invalid_argument = 3;

// The functions of TensorFlow that are used: result, name, arguments.
#define LNRNN_TENSORFLOW(F)                                                                        \
    F(TF_Status*, TF_NewStatus, ())                                                                \
    F(void, TF_DeleteStatus, (TF_Status*))                                                         \
    F(void, TF_SetStatus, (TF_Status*, int code, const char* message))                             \
    F(int, TF_GetCode, (const TF_Status*))                                                         \
    F(void*, TF_TensorData, (const TF_Tensor*))                                                    \
    F(int, TF_TensorType, (const TF_Tensor*))                                                      \
    F(int, TF_NumDims, (const TF_Tensor*))                                                         \
    F(int64_t, TF_Dim, (const TF_Tensor*, int axis))                                               \
    F(void, TF_DeleteTensor, (TF_Tensor*))                                                         \
    F(TF_OpDefinitionBuilder*, TF_NewOpDefinitionBuilder, (const char* name))                      \
    F(void, TF_OpDefinitionBuilderAddInput, (TF_OpDefinitionBuilder*, const char*))                \
    F(void, TF_OpDefinitionBuilderAddOutput, (TF_OpDefinitionBuilder*, const char*))               \
    F(void, TF_OpDefinitionBuilderAddAttr, (TF_OpDefinitionBuilder*, const char*))                 \
    F(void, TF_OpDefinitionBuilderSetShapeInferenceFunction,                                       \
      (TF_OpDefinitionBuilder*, void (*)(TF_ShapeInferenceContext*, TF_Status*)))                  \
    F(void, TF_ShapeInferenceContextSetUnknownShape, (TF_ShapeInferenceContext*, TF_Status*))      \
    F(void, TF_RegisterOpDefinition, (TF_OpDefinitionBuilder*, TF_Status*))                        \
    F(TF_KernelBuilder*, TF_NewKernelBuilder,                                                      \
      (const char* op, const char* device, void* (*create)(TF_OpKernelConstruction*),              \
       void (*compute)(void*, TF_OpKernelContext*), void (*destroy)(void*)))                       \
    F(void, TF_RegisterKernelBuilder, (const char* name, TF_KernelBuilder*, TF_Status*))           \
    F(void, TF_OpKernelConstruction_GetAttrSize,                                                   \
      (TF_OpKernelConstruction*, const char*, int32_t* size, int32_t* total, TF_Status*))          \
    F(void, TF_OpKernelConstruction_GetAttrInt64List,                                              \
      (TF_OpKernelConstruction*, const char*, int64_t* to, int most, TF_Status*))                  \
    F(void, TF_OpKernelConstruction_Failure, (TF_OpKernelConstruction*, TF_Status*))               \
    F(void, TF_OpKernelContext_Failure, (TF_OpKernelContext*, TF_Status*))                         \
    F(int, TF_NumInputs, (TF_OpKernelContext*))                                                    \
    F(int, TF_NumOutputs, (TF_OpKernelContext*))                                                   \
    F(void, TF_GetInput, (TF_OpKernelContext*, int, TF_Tensor**, TF_Status*))                      \
    F(TF_Tensor*, TF_AllocateOutput,                                                               \
      (TF_OpKernelContext*, int, int dtype, const int64_t* shape, int rank, size_t bytes,          \
       TF_Status*))

#define LNRNN_DECLARE(result, name, arguments) result(*name) arguments = nullptr;
LNRNN_TENSORFLOW(LNRNN_DECLARE)

// the first of these functions that this TensorFlow has not, or what it said no to
std::string missing;
Core core{};

struct Free {
    void operator()(TF_Status* s) const { TF_DeleteStatus(s); }
    void operator()(TF_Tensor* t) const { TF_DeleteTensor(t); }
    void operator()(void* p) const { ::operator delete(p, std::align_val_t(64)); }
};
using Tensor = std::unique_ptr<TF_Tensor, Free>;
using Memory = std::unique_ptr<void, Free>;

class Status {
public:
    Status() : own_(TF_NewStatus()) {}
    operator TF_Status*() const { return own_.get(); }
    bool failed() const { return TF_GetCode(own_.get()) != 0; }
    void fail(const std::string& message) const {
        TF_SetStatus(own_.get(), invalid_argument, message.c_str());
    }

private:
    std::unique_ptr<TF_Status, Free> own_;
};

using Shape = std::vector<int64_t>;

int64_t elements(const Shape& shape) {
    int64_t n = 1;
    for (int64_t length : shape) n *= length;
    return n;
}

std::string text(const Shape& shape) {
    std::string found;
    for (int64_t length : shape) found += (found.empty() ? "" : ", ") + std::to_string(length);
    return "(" + found + ")";
}

// What is fixed of a call: the attributes of its node.
struct Node {
    bool back;
    Shape operands, results;  // which arrays they are
    Shape words;
    std::vector<double> numbers;
    bool batch_first;  // x, h and their gradients
    int threads;
    int64_t most_kept;  // bytes of x W, and of h U, beyond which they are not kept

    bool is_given(int64_t name) const {
        return std::count(operands.begin(), operands.end(), name) > 0;
    }
};

// The arrays of a call of one of the functions of the core, `count` with that of its inputs.
class Call {
public:
    Call(const Node& node, int count, int inputs)
        : node_(node), inputs_(inputs), shape_(count), at_(count) {}
    virtual ~Call() = default;

    void read(TF_OpKernelContext* context, const Status& status) {
        if (TF_NumInputs(context) != int(node_.operands.size()) ||
            TF_NumOutputs(context) != int(node_.results.size()))
            return status.fail("The attributes of an lnrnn operator do not fit its arrays.");
        for (size_t i = 0; i < node_.operands.size(); ++i) {
            TF_Tensor* given = nullptr;
            TF_GetInput(context, int(i), &given, status);
            if (status.failed()) return;
            keep_.emplace_back(given);
            const int64_t name = node_.operands[i];
            for (int axis = 0; axis < TF_NumDims(given); ++axis)
                shape_[name].push_back(TF_Dim(given, axis));
            if (name == inputs_) dtype_ = TF_TensorType(given);
            if (elements(shape_[name]) > 0) at_[name] = TF_TensorData(given);
        }
        bool agree = computes(dtype_);
        for (size_t i = 0; i < node_.operands.size(); ++i)
            agree = agree && TF_TensorType(keep_[i].get()) == dtype_of(node_.operands[i]);
        if (!agree)
            return status.fail(
                "The inputs of a recurrence are of one dtype, flags bool; beside an x of half "
                "precision all else is float32.");
        measure(status);
        if (status.failed()) return;
        if (T_ < 1) return status.fail("A recurrence has one step or more; got T=0.");
        // the core reads its inputs unchecked
        for (int64_t name : node_.operands)
            if (!fits(name))
                return status.fail("An input of a recurrence has the shape " + text(expected(name)) +
                                   " at " + sizes() + "; got " + text(shape_[name]) + ".");
    }

    void write(TF_OpKernelContext* context, const Status& status) {
        for (size_t i = 0; i < node_.results.size(); ++i) {
            const int64_t name = node_.results[i], of = of_gradient(name);
            const Shape its = of < 0 ? made(name) : shape_[of];
            TF_Tensor* made =
                TF_AllocateOutput(context, int(i), dtype_of(name), its.data(), int(its.size()),
                                  size_t(elements(its) * width(name)), status);
            if (status.failed()) return;
            keep_.emplace_back(made);
            if (elements(its) > 0) at_[name] = TF_TensorData(made);
        }
    }

    void compute(const Status& status) {
        const char* error = nullptr;
        // a forward pass that kept nothing, as it was not one of training
        if (node_.back && B_ > 0 && lacks_what_is_kept()) error = keep_again();
        if (!error) error = pass(node_.back);
        if (error) status.fail(error);
    }

protected:
    // whether the core has x of this dtype
    virtual bool computes(int dtype) const = 0;
    virtual int dtype_of(int64_t name) const = 0;
    // sizes from the shapes, which may be any
    virtual void measure(const Status& status) = 0;
    virtual std::string sizes() const = 0;
    virtual Shape expected(int64_t name) const = 0;
    virtual bool fits(int64_t name) const { return shape_[name] == expected(name); }
    // the input that a gradient is of; -1: it is none
    virtual int64_t of_gradient(int64_t name) const = 0;
    virtual Shape made(int64_t name) const { return expected(name); }
    virtual bool lacks_what_is_kept() const = 0;
    // what a forward pass keeps, and what it gives beside
    virtual Shape kept() const = 0;
    virtual Shape outputs() const = 0;
    virtual const char* pass(bool back) const = 0;

    const char* keep_again() {
        const std::vector<void*> given = at_;
        auto place = [&](int64_t name) {
            const size_t bytes = size_t(elements(expected(name)) * width(name));
            again_.emplace_back(::operator new(bytes, std::align_val_t(64)));
            at_[name] = again_.back().get();
        };
        for (int64_t name : kept()) place(name);
        for (int64_t name : outputs()) place(name);
        const char* error = pass(false);
        for (int64_t name : outputs()) at_[name] = given[name];
        return error;
    }

    int64_t width(int64_t name) const {
        switch (dtype_of(name)) {
            case dtype::float64: return 8;
            case dtype::float32: return 4;
            default: return 2;
        }
    }

    const Node& node_;
    const int64_t inputs_;  // the name of x
    std::vector<Shape> shape_;
    std::vector<void*> at_;
    int dtype_ = 0;
    int64_t T_ = 0, B_ = 0, H_ = 0;

private:
    std::vector<Tensor> keep_;
    std::vector<Memory> again_;
};

std::string named(const char* name, int64_t size) {
    return std::string(name) + "=" + std::to_string(size);
}

// Of the cells of variants.
class Recurrence : public Call {
public:
    static constexpr int arrays = lnrnn::arrays, words = spec_words, numbers = scalar_words;

    explicit Recurrence(const Node& node) : Call(node, arrays, x) {}

private:
    bool computes(int dtype) const override {
        return dtype == dtype::float32 || dtype == dtype::float64 || dtype == dtype::bfloat16 ||
               dtype == dtype::float16;
    }

    void measure(const Status& status) override {
        if (shape_[x].size() != 3 || shape_[kernel].size() != 2 || shape_[h0].size() != 2)
            return status.fail("x has the shape (T, B, I) and kernel (I, G H); got " +
                               text(shape_[x]) + " and " + text(shape_[kernel]) + ".");
        T_ = shape_[x][node_.batch_first], B_ = shape_[x][!node_.batch_first];
        I_ = shape_[x][2], H_ = shape_[kernel][1] / node_.words[1], wide_ = node_.words[1] * H_;
        R_ = node_.is_given(projection) ? shape_[h0].back() : H_;
    }

    std::string sizes() const override {
        return named("T", T_) + ", " + named("B", B_) + ", " + named("I", I_) + ", " + named("H", H_);
    }

    Shape made(int64_t name) const override {
        const bool left_out = (name == xw || name == hu) && !keeps_products();
        return left_out ? Shape{0, 0, 0} : expected(name);
    }

    bool lacks_what_is_kept() const override { return Cell(node_.words[0]) == Cell::lstm && !at_[c]; }
    Shape kept() const override { return keeps_products() ? Shape{c, xw, hu} : Shape{c}; }
    Shape outputs() const override { return {h, h_last, c_last}; }

    const char* pass(bool back) const override {
        auto moves = [&](Array factor) { return int64_t(shape_[factor].size() == 3); };
        const int64_t sizes[size_words] = {
            T_, B_, I_, H_, R_, moves(recurrent_mask), moves(candidate_mask),
            node_.batch_first, node_.batch_first, 0, 0, 0};
        return core.recurrence(back, int64_t(precision()), node_.words.data(), sizes,
                               node_.numbers.data(), at_.data(), node_.threads);
    }

    bool fits(int64_t name) const override {
        const Shape& its = shape_[name];
        const bool factor = name == recurrent_mask || name == candidate_mask;
        const bool kept = name == c || name == xw || name == hu;
        const int64_t width = name == recurrent_mask ? R_ : H_;
        return its == expected(name) || (factor && its == Shape{B_, width}) ||
               (kept && elements(its) == 0);
    }

    Shape expected(int64_t name) const override {
        switch (name) {
            case kernel: return {I_, wide_};
            case recurrent: return diagonal() ? Shape{H_} : Shape{R_, wide_};
            case gain_c: case shift_c: return {H_};
            case peephole: return {(node_.words[1] - 1) * H_};
            case gain_pre: case shift_pre: return {I_ + R_};
            case gain_hidden: case shift_hidden: case projection_bias: return {R_};
            case projection: return {H_, R_};
            case x: return in_time(I_);
            case h0: case reset_h: case h_last: case dh_last: return {B_, R_};
            case c0: case reset_c: case c_last: case dc_last: return {B_, H_};
            case mask: case reset: return {T_, B_};
            case xw: case hu: return {T_, B_, wide_};
            case h: case dh: return in_time(R_);
            case take_h: case recurrent_mask: return {T_, B_, R_};
            case c: case take_c: case candidate_mask: return {T_, B_, H_};
            default: return {wide_};
        }
    }

    // of x or h
    Shape in_time(int64_t width) const {
        return node_.batch_first ? Shape{B_, T_, width} : Shape{T_, B_, width};
    }

    bool diagonal() const {
        Spec spec;
        std::memcpy(&spec, node_.words.data(), sizeof spec);
        return spec.diagonal;
    }

    int64_t of_gradient(int64_t name) const override {
        return name >= dx ? x + (name - dx) : name >= dkernel ? kernel + (name - dkernel) : -1;
    }

    Precision precision() const {
        switch (dtype_) {
            case dtype::float64: return Precision::float64;
            case dtype::bfloat16: return Precision::bfloat16;
            case dtype::float16: return Precision::float16;
            default: return Precision::float32;
        }
    }

    // Half precision is that of x, h, the products that are kept, and the gradients of x and h.
    int dtype_of(int64_t name) const override {
        switch (name) {
            case mask: case reset: return dtype::boolean;
            case x: case h: case xw: case hu: case dh: case dx: return dtype_;
            default: return dtype_ == dtype::float64 ? dtype::float64 : dtype::float32;
        }
    }

    bool keeps_products() const { return T_ * B_ * wide_ * width(xw) <= node_.most_kept; }

    int64_t I_ = 0, R_ = 0, wide_ = 0;
};

// Of Dreamer's block GRU.
class BlockRecurrence : public Call {
public:
    static constexpr int arrays = block::arrays, words = 2, numbers = block::scalar_words;

    explicit BlockRecurrence(const Node& node) : Call(node, arrays, block::x) {}

private:
    bool computes(int dtype) const override {
        return dtype == dtype::float32 || dtype == dtype::float64;
    }
    int dtype_of(int64_t name) const override {
        return name == block::mask || name == block::reset ? dtype::boolean : dtype_;
    }

    void measure(const Status& status) override {
        const Shape &its = shape_[block::x], &hidden = shape_[block::hidden_kernel];
        const Shape &gates = shape_[block::gate_kernel], &gains = shape_[block::gain];
        if (its.size() == 3 && hidden.size() == 2 && gates.size() == 3 && gains.size() == 1) {
            T_ = its[0], B_ = its[1], H_ = hidden[0], P_ = hidden[1], K_ = gates[0];
            L_ = H_ > 0 ? gains[0] / H_ : 0;
        }
        bool all = K_ > 0 && H_ % K_ == 0 && L_ > 0;
        for (int64_t name = block::hidden_kernel; name <= block::h0; ++name) {
            const bool later = name == block::layer_kernel || name == block::layer_bias;
            all = all && (node_.is_given(name) || (later && L_ == 1));
        }
        if (!all)
            status.fail("The weights of a block GRU have the shape (T, B, H) of x, units that divide "
                        "into the blocks, and layers; got " + text(its) + " beside " + text(hidden) +
                        ", " + text(gates) + " and " + text(gains) + ".");
    }

    std::string sizes() const override {
        return named("T", T_) + ", " + named("B", B_) + ", " + named("H", H_) + ", " +
               named("P", P_) + ", " + named("K", K_) + ", " + named("L", L_);
    }

    Shape expected(int64_t name) const override {
        const int64_t one = H_ / K_;
        switch (name) {
            case block::hidden_kernel: return {H_, P_};
            case block::hidden_bias: case block::hidden_gain: return {P_};
            case block::state_kernel: return {K_, one, one};
            case block::projected_kernel: return {P_, H_};
            case block::layer_kernel: return {K_, one, (L_ - 1) * one};
            case block::layer_bias: return {(L_ - 1) * H_};
            case block::gain: return {L_ * H_};
            case block::gate_kernel: return {K_, one, 3 * one};
            case block::gate_bias: return {3 * H_};
            case block::mask: case block::reset: return {T_, B_};
            case block::h0: case block::h_last: case block::dh_last: return {B_, H_};
            case block::kept: return {T_, B_, BlockSizes{T_, B_, H_, P_, K_, L_}.kept()};
            default: return {T_, B_, H_};
        }
    }

    bool fits(int64_t name) const override {
        return Call::fits(name) || (name == block::kept && elements(shape_[name]) == 0);
    }

    int64_t of_gradient(int64_t name) const override {
        return name < block::dweights ? -1 : name - block::dweights;
    }

    bool lacks_what_is_kept() const override { return !at_[block::kept]; }
    Shape kept() const override { return {block::kept}; }
    Shape outputs() const override { return {block::h, block::h_last}; }

    const char* pass(bool back) const override {
        const int64_t sizes[block::size_words] = {T_, B_, H_, P_, K_, L_, node_.words[0],
                                                  node_.words[1]};
        return core.block(back, dtype_ == dtype::float64, sizes, node_.numbers.data(), at_.data(),
                          node_.threads);
    }

    int64_t P_ = 0, K_ = 0, L_ = 0;
};

Shape attribute(TF_OpKernelConstruction* context, const char* name, const Status& status) {
    int32_t size = 0, total = 0;
    TF_OpKernelConstruction_GetAttrSize(context, name, &size, &total, status);
    Shape found(status.failed() ? 0 : size_t(size));
    if (!found.empty())
        TF_OpKernelConstruction_GetAttrInt64List(context, name, found.data(), size, status);
    return found;
}

template <class Kind, bool back>
void* create(TF_OpKernelConstruction* context) {
    const Status status;
    auto node = std::make_unique<Node>();
    node->back = back;
    node->operands = attribute(context, "operands", status);
    node->results = attribute(context, "results", status);
    node->words = attribute(context, "spec", status);
    const Shape numbers = attribute(context, "numbers", status);
    const Shape options = attribute(context, "options", status);
    auto known = [](const Shape& names) {
        return std::all_of(names.begin(), names.end(), [](int64_t n) { return 0 <= n && n < Kind::arrays; });
    };
    if (!status.failed() &&
        (node->words.size() != Kind::words || numbers.size() != Kind::numbers || options.size() != 3 ||
         !known(node->operands) || !known(node->results)))
        status.fail("The attributes of an lnrnn operator are not those of this version.");
    if (status.failed()) {
        TF_OpKernelConstruction_Failure(context, status);
        return nullptr;
    }
    node->numbers.resize(numbers.size());
    std::memcpy(node->numbers.data(), numbers.data(), numbers.size() * sizeof(double));
    node->batch_first = options[0] != 0;
    node->threads = int(options[1]);
    node->most_kept = options[2];
    return node.release();
}

void destroy(void* node) { delete static_cast<Node*>(node); }

template <class Kind>
void compute(void* node, TF_OpKernelContext* context) {
    const Status status;
    Kind call(*static_cast<const Node*>(node));
    call.read(context, status);
    if (!status.failed()) call.write(context, status);
    if (!status.failed()) call.compute(status);
    if (status.failed()) TF_OpKernelContext_Failure(context, status);
}

// Numbers are the bits of doubles: an attribute of floats would round them.
template <class Kind, bool back>
void define(const char* name) {
    const Status status;
    TF_OpDefinitionBuilder* op = TF_NewOpDefinitionBuilder(name);
    TF_OpDefinitionBuilderAddInput(op, "arrays: given");
    TF_OpDefinitionBuilderAddOutput(op, "found: made");
    TF_OpDefinitionBuilderAddAttr(op, "given: list({float, double, bfloat16, half, bool}) >= 1");
    TF_OpDefinitionBuilderAddAttr(op, "made: list({float, double, bfloat16, half}) >= 1");
    for (const char* list : {"operands: list(int)", "results: list(int)", "spec: list(int)",
                             "numbers: list(int)", "options: list(int)"})
        TF_OpDefinitionBuilderAddAttr(op, list);
    TF_OpDefinitionBuilderSetShapeInferenceFunction(
        op, [](TF_ShapeInferenceContext* context, TF_Status* status) {
            TF_ShapeInferenceContextSetUnknownShape(context, status);
        });
    TF_RegisterOpDefinition(op, status);
    if (!status.failed())
        TF_RegisterKernelBuilder(
            name, TF_NewKernelBuilder(name, "CPU", create<Kind, back>, compute<Kind>, destroy), status);
    if (status.failed()) missing = std::string("it refuses the operator ") + name;
}

// As TensorFlow loads this library.
[[maybe_unused]] const bool registered = [] {
    void* host = dlopen("libtensorflow_framework.so.2", RTLD_NOLOAD | RTLD_LAZY);
#define LNRNN_FIND(result, name, arguments)                                             \
    name = reinterpret_cast<decltype(name)>(dlsym(host ? host : RTLD_DEFAULT, #name)); \
    if (!name && missing.empty()) missing = "it has no " #name;
    LNRNN_TENSORFLOW(LNRNN_FIND)
    if (missing.empty()) define<Recurrence, false>("LnrnnRecurrence");
    if (missing.empty()) define<Recurrence, true>("LnrnnRecurrenceBackward");
    if (missing.empty()) define<BlockRecurrence, false>("LnrnnBlockRecurrence");
    if (missing.empty()) define<BlockRecurrence, true>("LnrnnBlockRecurrenceBackward");
    return missing.empty();
}();

}  // namespace
}  // namespace lnrnn

// What this TensorFlow lacks; empty if the operators are there.
extern "C" __attribute__((visibility("default"))) const char* lnrnn_missing() {
    return lnrnn::missing.c_str();
}

extern "C" __attribute__((visibility("default"))) void lnrnn_use_core(const lnrnn::Core* core) {
    lnrnn::core = *core;
}
