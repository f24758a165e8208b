// lnrnn.engines.native._core: the core, for arrays given by their addresses.
//
// Shapes, dtypes and devices are checked in Python, where the messages are; an address is that of
// a dense array, 0 for one that is absent.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <mutex>
#include <stdexcept>

#include "block_run.h"
#include "call.h"
#include "memory.h"
#include "model.h"
#include "runs.h"
#include "tensorflow.h"

#ifdef LNRNN_XLA
#include "xla.h"
#endif

#ifndef _WIN32
#include <unistd.h>
#endif

namespace nb = nanobind;
using namespace nb::literals;

namespace lnrnn {
namespace {

OpenMp openmp = {};
long openmp_process = 0;  // a forked child must not enter the OpenMP runtime of its parent

long process() {
#ifdef _WIN32
    return 0;
#else
    return long(getpid());
#endif
}

void use_openmp(uintptr_t parallel, uintptr_t rank, uintptr_t size) {
    openmp = {reinterpret_cast<decltype(openmp.parallel)>(parallel),
              reinterpret_cast<decltype(openmp.rank)>(rank),
              reinterpret_cast<decltype(openmp.size)>(size)};
    openmp_process = process();
}

constexpr const char* unknown_isa =
    "LNRNN_ISA is the name of an instruction set that was compiled and that this machine has; "
    "unset it, or see `lnrnn info` for the names.";

const Isa& isa() {
    const Isa* found = chosen();
    if (!found) throw std::runtime_error(unknown_isa);
    return *found;
}

Spec spec_of(const std::vector<int64_t>& words) {
    if (words.size() != spec_words)
        throw std::invalid_argument("A spec has " + std::to_string(spec_words) + " words.");
    Spec spec;
    std::memcpy(&spec, words.data(), sizeof spec);
    return spec;
}

// Compute on the host's threads where it lends them, else on our own.
template <class F>
void with_pool(int threads, bool host, F compute) {
    if (host && openmp.parallel && openmp_process == process()) {
        OpenMpPool pool(openmp, threads);
        compute(pool);
    } else {
        OwnPool pool(threads);
        compute(pool);
    }
}

void run(const std::vector<int64_t>& words, bool back, int64_t precision,
         const std::vector<int64_t>& sizes, const std::vector<double>& numbers,
         const std::vector<uintptr_t>& addresses, int threads, bool host, int framework) {
    if (sizes.size() != size_words || numbers.size() != scalar_words || addresses.size() != arrays)
        throw std::invalid_argument("A call has " + std::to_string(size_words) + " sizes, " +
                                    std::to_string(scalar_words) + " numbers and " +
                                    std::to_string(int(arrays)) + " arrays.");
    if (framework < 0 || framework >= frameworks)
        throw std::invalid_argument("There are " + std::to_string(frameworks) + " frameworks.");
    const Isa& set = isa();
    const Spec spec = spec_of(words);
    const Numbers n = numbers_of(sizes.data(), numbers.data());
    void* at[arrays];
    for (int i = 0; i < arrays; ++i) at[i] = reinterpret_cast<void*>(addresses[i]);
    nb::gil_scoped_release unlocked;
    with_pool(threads, host, [&](Pool& pool) {
        call(set, Precision(precision), back, spec, n, at, pool);
    });
    count_pass(Framework(framework), back);
}

void run_of_block(bool back, bool full, const std::vector<int64_t>& sizes,
                  const std::vector<double>& numbers,
                  const std::vector<uintptr_t>& addresses, int threads, bool host, int framework) {
    if (sizes.size() != block::size_words || numbers.size() != block::scalar_words ||
        addresses.size() != block::arrays)
        throw std::invalid_argument("A call of a block GRU has " + std::to_string(block::size_words) +
                                    " sizes, " + std::to_string(block::scalar_words) +
                                    " numbers and " + std::to_string(int(block::arrays)) + " arrays.");
    const Isa& set = isa();
    void* at[block::arrays];
    for (int i = 0; i < block::arrays; ++i) at[i] = reinterpret_cast<void*>(addresses[i]);
    nb::gil_scoped_release unlocked;
    with_pool(threads, host, [&](Pool& pool) {
        run_block(set, full, back, sizes.data(), numbers.data(), at, pool);
    });
    count_pass(Framework(framework), back);
}

const char* pass_for_tensorflow(bool back, int64_t precision, const int64_t* words,
                                const int64_t* sizes, const double* numbers, void* const* arrays,
                                int threads) {
    const Isa* set = chosen();
    if (!set) return unknown_isa;
    Spec spec;
    std::memcpy(&spec, words, sizeof spec);
    const Numbers n = numbers_of(sizes, numbers);
    OwnPool pool(threads);
    call(*set, Precision(precision), back, spec, n, arrays, pool);
    count_pass(Framework::tensorflow, back);
    return nullptr;
}

const char* block_pass_for_tensorflow(bool back, bool full, const int64_t* sizes,
                                      const double* numbers, void* const* arrays, int threads) {
    const Isa* set = chosen();
    if (!set) return unknown_isa;
    OwnPool pool(threads);
    run_block(*set, full, back, sizes, numbers, arrays, pool);
    count_pass(Framework::tensorflow, back);
    return nullptr;
}

constexpr Core for_tensorflow = {pass_for_tensorflow, block_pass_for_tensorflow};

void function(const std::string& name, bool full, int64_t n, uintptr_t in, uintptr_t out) {
    const char* names[] = {"tanh", "sigmoid", "relu", "hard_sigmoid", "keras2_hard_sigmoid",
                           "linear"};
    int kind = -1;
    for (int i = 0; i < 6; ++i)
        if (name == names[i]) kind = i;
    if (kind < 0 && name != "exp") throw std::invalid_argument("There is no function " + name + ".");
    const Activation activation = kind < 0 ? Activation::linear : Activation(kind);
    if (full)
        isa().full->function(activation, kind < 0, n, reinterpret_cast<double*>(in),
                                        reinterpret_cast<double*>(out));
    else
        isa().single->function(activation, kind < 0, n, reinterpret_cast<float*>(in),
                                       reinterpret_cast<float*>(out));
}

// A number that two arrays share only by chance, made at about the speed of reading them: sums of
// many words at once, each mixed after Jenkins's one at a time.
uint64_t fingerprint(const std::vector<std::pair<uintptr_t, int64_t>>& arrays) {
    typedef uint32_t Words __attribute__((vector_size(16)));
    constexpr int streams = 8, size = sizeof(Words);
    Words sums[streams];
    for (int i = 0; i < streams; ++i) sums[i] = Words{1, 2, 3, 4} + uint32_t(4 * i);
    auto mix = [](Words sum, const char* at) {
        Words words;
        std::memcpy(&words, at, size);
        sum += words, sum += sum << 10;
        return sum ^ sum >> 6;
    };
    for (const auto& [address, bytes] : arrays) {
        const char* at = reinterpret_cast<const char*>(address);
        int64_t k = 0;
        for (; k + streams * size <= bytes; k += streams * size)
#pragma GCC unroll 8
            for (int i = 0; i < streams; ++i) sums[i] = mix(sums[i], at + k + i * size);
        char rest[streams * size] = {};
        // an empty array may have no address
        if (k < bytes) std::memcpy(rest, at + k, bytes - k);
        for (int i = 0; i < streams; ++i) sums[i] = mix(sums[i], rest + i * size);
    }
    uint64_t all = 0;
    for (const Words& sum : sums)
        for (int i = 0; i < 4; ++i) all = (all ^ sum[i]) * 0x9e3779b97f4a7c15u, all ^= all >> 29;
    return all;
}

// The memory of an array, for as long as this is there.
class Memory {
public:
    Memory(nb::handle array, const char* name, bool write) : name_(name) {
        const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (write ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(array.ptr(), &view_, flags) != 0) {
            PyErr_Clear();
            throw std::invalid_argument(std::string(name) + " is an array of float32 whose rows are "
                                        "side by side in memory" +
                                        (write ? ", and which can be written to" : "") + ".");
        }
        const bool floats = view_.format && std::strcmp(view_.format, "f") == 0;
        if (!floats) {
            const std::string given = view_.format ? view_.format : "B";
            PyBuffer_Release(&view_);
            throw std::invalid_argument(std::string(name) + " is of float32; got the format '" + given +
                                        "': convert it.");
        }
    }
    ~Memory() { PyBuffer_Release(&view_); }
    Memory(const Memory&) = delete;

    int dimensions() const { return view_.ndim; }
    int64_t size(int i) const { return view_.shape[i]; }
    int64_t bytes() const { return view_.len; }
    float* at() const { return static_cast<float*>(view_.buf); }

    // Throws unless the shape is (steps,) and then (rows, columns), steps < 0 for none.
    void check(int64_t steps, int64_t rows, int64_t columns, const char* meaning) const {
        const int first = steps < 0 ? 0 : 1;
        if (view_.ndim == first + 2 && (steps < 0 || size(0) == steps) && size(first) == rows &&
            size(first + 1) == columns)
            return;
        std::string given;
        for (int i = 0; i < view_.ndim; ++i)
            given += (i ? ", " : "") + std::to_string(size(i));
        throw std::invalid_argument(
            std::string(name_) + " has the shape " + meaning + " with B=" + std::to_string(rows) +
            " and " + (std::strcmp(name_, "x") ? "R=" : "I=") + std::to_string(columns) + "; got (" +
            given + (view_.ndim == 1 ? ",)." : ")."));
    }

private:
    Py_buffer view_;
    const char* name_;
};

// A stream that threads may share: one of them at a time, without the interpreter's lock.
class SharedStream {
public:
    SharedStream(nb::bytes file, int64_t batch, int64_t form)
        : stream_(isa(), Form(form), batch, model_of(file).layers()) {}

    void call(nb::handle x, nb::handle out) {
        const Memory from(x, "x", false), to(out, "out", true);
        const int64_t steps = from.dimensions() == 3 ? from.size(0) : -1;
        from.check(steps, stream_.batch(), stream_.inputs(), "(B, I) or (T, B, I)");
        to.check(steps, stream_.batch(), stream_.outputs(), steps < 0 ? "(B, R)" : "(T, B, R)");
        const char *a = reinterpret_cast<char*>(from.at()), *b = reinterpret_cast<char*>(to.at());
        if (a != b && a < b + to.bytes() && b < a + from.bytes())
            throw std::invalid_argument("x and out are one array or have no memory in common; these "
                                        "overlap in part: give another out.");
        nb::gil_scoped_release unlocked;
        const std::lock_guard<std::mutex> alone(mutex_);
        stream_.run(steps < 0 ? 1 : steps, from.at(), to.at());
        passes[int(Framework::numpy)][0].fetch_add(stream_.layers(), std::memory_order_relaxed);
    }

    // a step of one layer from states to states, given by their addresses as x and the new ones
    void advance(uintptr_t x, const std::vector<uintptr_t>& from, const std::vector<uintptr_t>& to) {
        float* const own[] = {stream_.h(0), stream_.c(0)};
        if (stream_.layers() != 1 || from.size() != to.size() || from.size() != (own[1] ? 2 : 1))
            throw std::invalid_argument("A step from states to states is that of one layer.");
        const int64_t width[] = {stream_.hidden(0), stream_.units(0)};
        auto bytes = [&](size_t i) { return stream_.batch() * width[i] * sizeof(float); };
        nb::gil_scoped_release unlocked;
        const std::lock_guard<std::mutex> alone(mutex_);
        for (size_t i = 0; i < from.size(); ++i)
            std::memcpy(own[i], reinterpret_cast<const void*>(from[i]), bytes(i));
        stream_.run(1, reinterpret_cast<const float*>(x), reinterpret_cast<float*>(to[0]));
        if (own[1]) std::memcpy(reinterpret_cast<void*>(to[1]), own[1], bytes(1));
        count_pass(Framework::torch, false);
    }

    void reset(const std::vector<int64_t>& rows) {
        nb::gil_scoped_release unlocked;
        const std::lock_guard<std::mutex> alone(mutex_);
        for (int64_t row : rows)
            if (row >= 0 && row < stream_.batch()) stream_.reset(row);
    }

    // read the states into arrays, h and c of layer after layer, or write them from such
    void states(const std::vector<nb::object>& arrays, bool write) {
        std::vector<std::unique_ptr<Memory>> given;
        for (const nb::object& array : arrays)
            given.push_back(std::make_unique<Memory>(array, "state", !write));
        std::vector<std::pair<float*, int64_t>> own;
        for (int64_t i = 0; i < stream_.layers(); ++i) {
            own.emplace_back(stream_.h(i), stream_.hidden(i));
            if (stream_.has_c(i)) own.emplace_back(stream_.c(i), stream_.units(i));
        }
        if (given.size() != own.size())
            throw std::invalid_argument("A state has h, and of an LSTM c, of each layer.");
        for (size_t i = 0; i < own.size(); ++i)
            given[i]->check(-1, stream_.batch(), own[i].second, "(B, R)");
        nb::gil_scoped_release unlocked;
        const std::lock_guard<std::mutex> alone(mutex_);
        for (size_t i = 0; i < own.size(); ++i)
            if (write)
                std::memcpy(own[i].first, given[i]->at(), given[i]->bytes());
            else
                std::memcpy(given[i]->at(), own[i].first, given[i]->bytes());
    }

    const Stream& stream() const { return stream_; }

private:
    static Model model_of(const nb::bytes& file) {
        try {
            return Model(File(std::string(file.c_str(), file.size())));
        } catch (const FileError& error) {
            throw std::invalid_argument(error.what());
        }
    }

    Stream stream_;
    std::mutex mutex_;
};

}  // namespace
}  // namespace lnrnn

NB_MODULE(_core, m) {
    using namespace lnrnn;
    m.def("run", run, "spec"_a, "back"_a, "precision"_a, "sizes"_a, "numbers"_a, "addresses"_a,
          "threads"_a, "host"_a, "framework"_a,
          "One pass; arrays in the order of `Array` in csrc/core/call.h.");
    m.def("block", run_of_block, "back"_a, "full"_a, "sizes"_a, "numbers"_a, "addresses"_a, "threads"_a,
          "host"_a, "framework"_a,
          "One pass of a block GRU; arrays in the order of `block::Array` in csrc/core/block_run.h.");
    m.def("fingerprint", fingerprint, "arrays"_a, "Of arrays given by address and bytes.");
    m.def("function", function, "name"_a, "full"_a, "n"_a, "x"_a, "y"_a,
          "exp or an activation of n numbers.");
    m.def("runs", [](bool back) {
        std::vector<int64_t> counts;
        for (auto& pass : passes) counts.push_back(pass[back].load(std::memory_order_relaxed));
        return counts;
    }, "back"_a, "How often `run` and the handlers ran, for each `Framework`.");
    m.def("use_openmp", use_openmp, "parallel"_a, "rank"_a, "size"_a,
          "Run on the OpenMP runtime with these addresses when a call says `host`.");
    m.def("forget", [] { kept_memory().clear(); }, "Give back the memory that is kept for calls to come.");
    m.def("isa", [] { return std::string(isa().name); }, "The instruction set in use.");
    m.def("isas", [] {
        std::vector<std::pair<std::string, std::string>> found;
        int count;
        const Isa* table = compiled(&count);
        for (int i = 0; i < count; ++i) {
            const char* why = table[i].refusal();
            if (table[i].choice != Choice::tested) found.emplace_back(table[i].name, why ? why : "");
        }
        return found;
    }, "The instruction sets that were compiled, the best first, and why not where one is not usable.");
    nb::class_<SharedStream>(m, "Stream", "A stream of the layers of a file's bytes.")
        .def(nb::init<nb::bytes, int64_t, int64_t>(), "file"_a, "batch"_a, "form"_a)
        .def("__call__", &SharedStream::call, "x"_a, "out"_a)
        .def("advance", &SharedStream::advance, "x"_a, "before"_a, "after"_a)
        .def("reset", &SharedStream::reset, "rows"_a)
        .def("states", &SharedStream::states, "arrays"_a, "write"_a)
        .def_prop_ro("inputs", [](const SharedStream& it) { return it.stream().inputs(); })
        .def_prop_ro("outputs", [](const SharedStream& it) { return it.stream().outputs(); })
        .def_prop_ro("nbytes", [](const SharedStream& it) { return it.stream().bytes(); });
    m.def("core_for_tensorflow", [] { return reinterpret_cast<uintptr_t>(&for_tensorflow); },
          "The address of the core for the library `_tensorflow`.");
#ifdef LNRNN_XLA
    m.def("xla_handlers", [] {
        nb::dict handlers;
        handlers["lnrnn_forward"] = nb::capsule(reinterpret_cast<void*>(xla_forward));
        handlers["lnrnn_backward"] = nb::capsule(reinterpret_cast<void*>(xla_backward));
        handlers["lnrnn_block_forward"] = nb::capsule(reinterpret_cast<void*>(xla_block_forward));
        handlers["lnrnn_block_backward"] = nb::capsule(reinterpret_cast<void*>(xla_block_backward));
        return handlers;
    }, "The handlers for XLA's foreign function interface.");
    m.def("xla_launch", [] { return nb::capsule(reinterpret_cast<void*>(xla_launch)); },
          "The handler that launches kernels on CUDA.");
    m.def("xla_version", [] { return nb::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR); },
          "The version of that interface for which they were compiled.");
#endif
}
