#include "stream.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "memory.h"

namespace lnrnn {

namespace {

constexpr size_t line = 64;
// Rows of a block that pass through one layer before the next one.
constexpr int64_t piece_rows = 16;

const Steps& steps_of(const Isa& isa, Form form) {
    switch (form) {
        case Form::bfloat16: return *isa.stream.bfloat16;
        case Form::int8:
            return isa.stream.integers && has_integers() ? *isa.stream.integers : *isa.stream.int8;
        default: return *isa.stream.float32;
    }
}

}  // namespace

struct Stream::Part {
    StreamJob job;
    Meeting team;
    Worker<float> worker;
    Runner runner;
    float *h, *c;
    const float *initial_h, *initial_c;

    bool has_c() const { return job.spec.is(Cell::lstm); }
};

Stream::Stream(const Isa& isa, Form form, int64_t batch, const std::vector<StreamLayer>& layers)
    : batch_(batch), piece_(std::max<int64_t>(piece_rows / std::max<int64_t>(batch, 1), 1)) {
    if (layers.empty()) throw std::invalid_argument("A stream has one layer or more; got none.");
    if (batch < 1 || batch > 1 << 20)
        throw std::invalid_argument("The batch of a stream is 1 to 1048576 rows; got " +
                                    std::to_string(batch) + ".");
    for (size_t i = 1; i < layers.size(); ++i)
        if (layers[i].inputs != layers[i - 1].hidden)
            throw std::invalid_argument(
                "Each layer of a stream takes what the one before it gives; layer " +
                std::to_string(i) + " takes " + std::to_string(layers[i].inputs) +
                " inputs and layer " + std::to_string(i - 1) + " gives " +
                std::to_string(layers[i - 1].hidden) + ": give one stack, in its order.");
    try {
        const Steps& steps = steps_of(isa, form);
        int64_t widest = 0;
        for (const StreamLayer& layer : layers) {
            parts_.push_back(std::make_unique<Part>());
            Part& part = *parts_.back();
            const int64_t I = layer.inputs, H = layer.units, R = layer.hidden;
            const int64_t wide = layer.spec.gates * H;
            if (&layer != &layers.back()) widest = std::max(widest, R);
            auto copied = [&](const float* from, int64_t n) -> const float* {
                if (!from) return nullptr;
                void* to = take(n * sizeof(float));
                std::memcpy(to, from, n * sizeof(float));
                return static_cast<float*>(to);
            };
            // K rows of N columns, `row` apart
            auto packed = [&](const float* from, int64_t K, int64_t N, int64_t row) {
                void* to = take(steps.packed_size(K, N));
                steps.pack(from, K, N, row, 1, 0, steps.panels(N), to);
                return to;
            };
            StreamJob& job = part.job;
            const Weights<float>& w = layer.weights;
            job = {};
            job.spec = layer.spec, job.epsilon = layer.epsilon;
            job.n = {piece_, batch, I, H, R}, job.clips = layer.clips;
            job.weights = {nullptr, nullptr,
                           copied(w.bias_x, wide), copied(w.bias_h, wide),
                           copied(w.gain_x, wide), copied(w.shift_x, wide),
                           copied(w.gain_h, wide), copied(w.shift_h, wide),
                           copied(w.gain_sum, wide), copied(w.shift_sum, wide),
                           copied(w.gain_c, H), copied(w.shift_c, H),
                           copied(w.peephole, (layer.spec.coupled() ? 2 : 3) * H),
                           copied(w.gain_pre, I + R), copied(w.shift_pre, I + R),
                           copied(w.gain_hidden, R), copied(w.shift_hidden, R),
                           nullptr, copied(w.projection_bias, R)};
            const int64_t early = job.early_gates() * H;
            job.packed.kernel = packed(w.kernel, I, wide, wide);
            if (layer.spec.diagonal)
                job.weights.recurrent = copied(w.recurrent, H);
            else
                job.packed.first = packed(w.recurrent, R, early, wide);
            if (layer.spec.two_products())
                job.packed.second = packed(w.recurrent + early, R, H, wide);
            if (layer.spec.projection) job.packed.projection = packed(w.projection, H, R, R);
            job.in.take_h = {nullptr, 0, float(layer.take_h)};
            job.in.take_c = {nullptr, 0, float(layer.take_c)};
            job.in.recurrent = job.in.candidate = {nullptr, 0, 1.0f};
            part.h = static_cast<float*>(take(batch * R * sizeof(float)));
            part.c = part.has_c() ? static_cast<float*>(take(batch * H * sizeof(float))) : nullptr;
            job.in.h0 = job.out.h_last = part.h;
            job.in.c0 = job.out.c_last = part.c;
            part.initial_h = copied(layer.initial_h, R);
            part.initial_c = part.has_c() ? copied(layer.initial_c, H) : nullptr;
            part.worker = {0, batch, 0, 1, 1, &part.team, nullptr, nullptr, nullptr, nullptr, nullptr};
            part.worker.memory = static_cast<char*>(take(steps.memory(job, batch)));
            part.worker.shared = static_cast<char*>(take(steps.shared(job, batch)));
            part.runner = steps.prepare(job, part.worker, take(steps.runner_size));
        }
        for (float*& between : between_)
            between = static_cast<float*>(take(piece_ * batch * widest * sizeof(float)));
        for (int64_t row = 0; row < batch; ++row) reset(row);
    } catch (...) {
        for (void* at : owned_) ::operator delete(at, std::align_val_t{line});
        throw;
    }
}

Stream::~Stream() {
    for (void* at : owned_) ::operator delete(at, std::align_val_t{line});
}

// zeros, which belong to the stream
void* Stream::take(int64_t bytes) {
    bytes = std::max<int64_t>(bytes, 1);
    owned_.push_back(nullptr);
    void* at = ::operator new(size_t(bytes), std::align_val_t{line});
    owned_.back() = at;
    large_pages(at, size_t(bytes));
    std::memset(at, 0, size_t(bytes));
    bytes_ += bytes;
    return at;
}

int64_t Stream::inputs() const { return parts_.front()->job.n.I; }
int64_t Stream::outputs() const { return parts_.back()->job.n.R; }
int64_t Stream::layers() const { return int64_t(parts_.size()); }
int64_t Stream::units(int64_t layer) const { return parts_[layer]->job.n.H; }
int64_t Stream::hidden(int64_t layer) const { return parts_[layer]->job.n.R; }
bool Stream::has_c(int64_t layer) const { return parts_[layer]->has_c(); }
float* Stream::h(int64_t layer) { return parts_[layer]->h; }
float* Stream::c(int64_t layer) { return parts_[layer]->c; }

void Stream::run(int64_t steps, const float* x, float* y) {
    const int64_t I = inputs(), R = outputs();
    for (int64_t t = 0; t < steps; t += piece_) {
        const int64_t now = std::min(piece_, steps - t);
        const float* from = x + t * batch_ * I;
        for (size_t i = 0; i < parts_.size(); ++i) {
            Part& part = *parts_[i];
            float* to = i + 1 < parts_.size() ? between_[i % 2] : y + t * batch_ * R;
            part.job.n.T = now;
            part.job.in.x = from;
            part.job.out.h = to;
            part.runner.run(part.runner.at);
            from = to;
        }
    }
}

void Stream::reset(int64_t row) {
    for (const auto& part : parts_) {
        auto begin = [&](float* state, const float* initial, int64_t width) {
            for (int64_t j = 0; state && j < width; ++j)
                state[row * width + j] = initial ? initial[j] : 0;
        };
        begin(part->h, part->initial_h, part->job.n.R);
        begin(part->c, part->initial_c, part->job.n.H);
    }
}

}  // namespace lnrnn
