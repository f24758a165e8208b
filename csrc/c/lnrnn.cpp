// The C interface: handles, error codes, and no exception across.
#include "lnrnn.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <unordered_map>

#include "model.h"

using namespace lnrnn;

namespace {

thread_local char error_text[512] = "";

lnrnn_status fail(lnrnn_status status, const char* text) {
    std::strncpy(error_text, text, sizeof error_text - 1);
    return status;
}

// A handle outlives what it stands for, so that one that was freed can be told: it is kept, a few
// words each, for as long as the process lives.
constexpr uint64_t file_mark = 0x656c69666e726e6c, stream_mark = 0x7274736e6e726e6c;

struct Handle {
    std::atomic<uint64_t> mark{0};
    Handle* next = nullptr;  // keeps it reachable
};
std::atomic<Handle*> handles{nullptr};

void remember(Handle* handle, uint64_t mark) {
    handle->mark = mark;
    handle->next = handles.load();
    while (!handles.compare_exchange_weak(handle->next, handle)) {}
}

// Call f and translate what it throws.
template <class F>
lnrnn_status guarded(F f) {
    try {
        return f();
    } catch (const FileError& error) {
        return fail(LNRNN_FILE, error.what());
    } catch (const std::bad_alloc&) {
        return fail(LNRNN_MEMORY, "There is not enough memory for this.");
    } catch (const std::exception& error) {
        return fail(LNRNN_ARGUMENT, error.what());
    }
}

}  // namespace

struct lnrnn_file : Handle {
    std::unique_ptr<File> file;
    std::unordered_map<std::string, std::vector<float>> numbers;
};

struct lnrnn_stream : Handle {
    std::unique_ptr<Stream> stream;
};

namespace {

lnrnn_status check(const lnrnn_file* file) {
    if (!file) return fail(LNRNN_ARGUMENT, "A file is a handle of lnrnn_file_open; got null.");
    if (file->mark.load(std::memory_order_relaxed) != file_mark)
        return fail(LNRNN_HANDLE, "This file was freed: open it again.");
    return LNRNN_OK;
}

lnrnn_status check(const lnrnn_stream* stream) {
    if (!stream) return fail(LNRNN_ARGUMENT, "A stream is a handle of lnrnn_stream_new; got null.");
    if (stream->mark.load(std::memory_order_relaxed) != stream_mark)
        return fail(LNRNN_HANDLE, "This stream was freed: make another one.");
    return LNRNN_OK;
}

lnrnn_status check(const void* pointer, const char* text) {
    return pointer ? LNRNN_OK : fail(LNRNN_ARGUMENT, text);
}

constexpr const char* no_place = "A result needs a place to be written to; got null.";
constexpr const char* no_array = "Numbers need an array; got null.";

template <class F>
lnrnn_status open(lnrnn_file** file, F make) {
    if (auto status = check(file, no_place)) return status;
    *file = nullptr;
    return guarded([&] {
        auto opened = std::make_unique<lnrnn_file>();
        opened->file = std::make_unique<File>(make());
        *file = opened.release();
        remember(*file, file_mark);
        return LNRNN_OK;
    });
}

// the arrays of the states of a stream, in their order, and how long each is
template <class F>
void each_state(Stream& stream, F f) {
    for (int64_t i = 0; i < stream.layers(); ++i) {
        f(stream.h(i), stream.batch() * stream.hidden(i));
        if (stream.has_c(i)) f(stream.c(i), stream.batch() * stream.units(i));
    }
}

}  // namespace

extern "C" {

const char* lnrnn_error_text(void) { return error_text; }

lnrnn_status lnrnn_file_open(const char* path, lnrnn_file** file) {
    if (auto status = check(path, "A file has a path; got null.")) return status;
    return open(file, [&] { return File::read(path); });
}

lnrnn_status lnrnn_file_read(const void* bytes, size_t size, lnrnn_file** file) {
    if (auto status = check(bytes, no_array)) return status;
    return open(file, [&] { return File(std::string(static_cast<const char*>(bytes), size)); });
}

lnrnn_status lnrnn_file_free(lnrnn_file* file) {
    if (!file) return LNRNN_OK;
    if (auto status = check(file)) return status;
    file->mark = 0;
    file->file.reset();
    file->numbers.clear();
    return LNRNN_OK;
}

lnrnn_status lnrnn_file_tensor(lnrnn_file* file, const char* name, const float** values,
                               int64_t* count, int64_t* shape, int dimensions) {
    if (auto status = check(file)) return status;
    if (auto status = check(name && values && count ? name : nullptr, no_place)) return status;
    return guarded([&] {
        const auto found = file->file->tensors().find(name);
        if (found == file->file->tensors().end())
            throw FileError("The file has no tensor '" + std::string(name).substr(0, 80) + "'.");
        const Tensor& tensor = found->second;
        if (shape && dimensions != int(tensor.shape.size()))
            throw std::invalid_argument("The tensor '" + std::string(name).substr(0, 80) + "' has " +
                                        std::to_string(tensor.shape.size()) + " dimensions; got room for " +
                                        std::to_string(dimensions) + ".");
        auto& numbers = file->numbers[name];
        if (numbers.empty()) numbers = File::numbers(name, tensor);
        if (shape) std::copy(tensor.shape.begin(), tensor.shape.end(), shape);
        *values = numbers.data(), *count = tensor.count;
        return LNRNN_OK;
    });
}

lnrnn_status lnrnn_file_text(lnrnn_file* file, const char* name, const char** text) {
    if (auto status = check(file)) return status;
    if (auto status = check(name && text ? name : nullptr, no_place)) return status;
    return guarded([&] {
        const std::string* found = file->file->text(name);
        if (!found) throw FileError("The file has no text '" + std::string(name).substr(0, 80) + "'.");
        *text = found->c_str();
        return LNRNN_OK;
    });
}

lnrnn_status lnrnn_stream_new(lnrnn_file* file, int64_t batch, lnrnn_weights weights,
                              lnrnn_stream** stream) {
    if (auto status = check(stream, no_place)) return status;
    *stream = nullptr;
    if (auto status = check(file)) return status;
    if (weights != LNRNN_FLOAT32 && weights != LNRNN_BFLOAT16 && weights != LNRNN_INT8)
        return fail(LNRNN_ARGUMENT, "Weights are LNRNN_FLOAT32, LNRNN_BFLOAT16 or LNRNN_INT8.");
    const Isa* isa = chosen();
    if (!isa)
        return fail(LNRNN_MACHINE, "LNRNN_ISA is the name of an instruction set that was compiled "
                                   "and that this machine has: unset it.");
    return guarded([&] {
        auto made = std::make_unique<lnrnn_stream>();
        made->stream = std::make_unique<Stream>(*isa, Form(weights), batch, Model(*file->file).layers());
        *stream = made.release();
        remember(*stream, stream_mark);
        return LNRNN_OK;
    });
}

lnrnn_status lnrnn_stream_free(lnrnn_stream* stream) {
    if (!stream) return LNRNN_OK;
    if (auto status = check(stream)) return status;
    stream->mark = 0;
    stream->stream.reset();
    return LNRNN_OK;
}

lnrnn_status lnrnn_stream_sizes(lnrnn_stream* stream, int64_t* batch, int64_t* inputs,
                                int64_t* outputs, int64_t* state) {
    if (auto status = check(stream)) return status;
    Stream& it = *stream->stream;
    if (batch) *batch = it.batch();
    if (inputs) *inputs = it.inputs();
    if (outputs) *outputs = it.outputs();
    if (!state) return LNRNN_OK;
    *state = 0;
    each_state(it, [&](float*, int64_t n) { *state += n; });
    return LNRNN_OK;
}

lnrnn_status lnrnn_stream_step(lnrnn_stream* stream, const float* x, float* y) {
    return lnrnn_stream_run(stream, 1, x, y);
}

lnrnn_status lnrnn_stream_run(lnrnn_stream* stream, int64_t steps, const float* x, float* y) {
    if (auto status = check(stream)) return status;
    if (steps < 0) return fail(LNRNN_ARGUMENT, "Steps are 0 or more; got fewer.");
    if (auto status = check(x && y ? x : nullptr, no_array)) return status;
    stream->stream->run(steps, x, y);
    return LNRNN_OK;
}

lnrnn_status lnrnn_stream_reset(lnrnn_stream* stream, int64_t row) {
    if (auto status = check(stream)) return status;
    Stream& it = *stream->stream;
    if (row < -1 || row >= it.batch())
        return fail(LNRNN_ARGUMENT, "A row is one of the batch, or -1 for all; got another.");
    for (int64_t r = row < 0 ? 0 : row; r < (row < 0 ? it.batch() : row + 1); ++r) it.reset(r);
    return LNRNN_OK;
}

lnrnn_status lnrnn_stream_get_state(lnrnn_stream* stream, float* state) {
    if (auto status = check(stream)) return status;
    if (auto status = check(state, no_array)) return status;
    each_state(*stream->stream, [&](const float* from, int64_t n) {
        std::memcpy(state, from, n * sizeof(float));
        state += n;
    });
    return LNRNN_OK;
}

lnrnn_status lnrnn_stream_set_state(lnrnn_stream* stream, const float* state) {
    if (auto status = check(stream)) return status;
    if (auto status = check(state, no_array)) return status;
    each_state(*stream->stream, [&](float* to, int64_t n) {
        std::memcpy(to, state, n * sizeof(float));
        state += n;
    });
    return LNRNN_OK;
}

}  // extern "C"
