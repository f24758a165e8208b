// The C interface: what it answers to use and misuse, and damaged files without end.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "lnrnn.h"

namespace {

int failures = 0;

void expect(bool holds, const char* what) {
    if (holds) return;
    std::printf("%s: %s\n", what, lnrnn_error_text());
    ++failures;
}

// A file of two layers with random weights: a GRU of 3 inputs and 5 units, and an LSTM of 4.
std::string file() {
    struct Tensor {
        const char* name;
        int64_t rows, columns;  // rows 0: a vector
    };
    const Tensor tensors[] = {{"layers.0.forward.kernel", 3, 15},
                              {"layers.0.forward.recurrent_kernel", 5, 15},
                              {"layers.0.forward.bias_x", 0, 15},
                              {"layers.0.forward.x_norm_gain", 0, 15},
                              {"layers.0.forward.h_norm_gain", 0, 10},
                              {"layers.0.forward.h_norm_bias", 0, 10},
                              {"layers.1.forward.kernel", 5, 16},
                              {"layers.1.forward.recurrent_kernel", 4, 16},
                              {"layers.1.forward.bias", 0, 16},
                              {"layers.1.forward.cell_norm_gain", 0, 4}};
    std::string header =
        R"({"__metadata__":{"format":"np","lnrnn":"{\"version\":1,\"requires\":[],\"layers\":{)"
        R"(\"layers.0.forward\":{\"variant\":{\"cell\":\"gru\",\"bias_x\":true,\"norms\":[)"
        R"({\"site\":\"x\",\"gates\":\"rzn\",\"gain\":true,\"bias\":false},)"
        R"({\"site\":\"h\",\"gates\":\"rz\",\"gain\":true,\"bias\":true}],\"epsilon\":1e-05},)"
        R"(\"sizes\":[3,5,5],\"zoneout\":[0.25,0.0],\"origin\":null},)"
        R"(\"layers.1.forward\":{\"variant\":{\"cell\":\"lstm\",\"bias\":true,)"
        R"(\"cell_norm\":\"output\",\"cell_norm_bias\":false,\"forget_bias\":1.0},)"
        R"(\"sizes\":[5,4,4],\"zoneout\":[0.0,0.0],\"origin\":null}},\"notes\":{\"\\u00e9\":[1.5]}}"})";
    std::mt19937 random(1);
    std::uniform_real_distribution<float> value(-1, 1);
    std::vector<float> numbers;
    for (const Tensor& t : tensors) {
        const size_t start = numbers.size() * sizeof(float);
        for (int64_t i = 0; i < std::max<int64_t>(t.rows, 1) * t.columns; ++i)
            numbers.push_back(value(random));
        header += std::string(",\"") + t.name + "\":{\"dtype\":\"F32\",\"shape\":[" +
                  (t.rows ? std::to_string(t.rows) + "," : "") + std::to_string(t.columns) +
                  "],\"data_offsets\":[" + std::to_string(start) + "," +
                  std::to_string(numbers.size() * sizeof(float)) + "]}";
    }
    header += "}";
    const uint64_t length = header.size();
    std::string found(8, '\0');
    for (int i = 0; i < 8; ++i) found[i] = char(length >> 8 * i & 255);
    found += header;
    found.append(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float));
    return found;
}

void use(const std::string& bytes) {
    lnrnn_file* it = nullptr;
    lnrnn_stream *stream = nullptr, *other = nullptr;
    expect(lnrnn_file_read(bytes.data(), bytes.size(), &it) == LNRNN_OK, "read");
    expect(lnrnn_stream_new(it, 2, LNRNN_FLOAT32, &stream) == LNRNN_OK, "new");
    expect(lnrnn_stream_new(it, 2, LNRNN_INT8, &other) == LNRNN_OK, "new of int8");
    if (failures) return;
    const float* values;
    int64_t count, shape[2];
    expect(lnrnn_file_tensor(it, "layers.1.forward.kernel", &values, &count, shape, 2) == LNRNN_OK &&
               count == 80 && shape[0] == 5 && shape[1] == 16,
           "tensor");
    expect(lnrnn_file_tensor(it, "layers.1.forward.kernel", &values, &count, shape, 1) == LNRNN_ARGUMENT,
           "tensor of other dimensions");
    expect(lnrnn_file_tensor(it, "no", &values, &count, nullptr, 0) == LNRNN_FILE, "no tensor");
    expect(lnrnn_stream_new(it, 0, LNRNN_FLOAT32, &other) == LNRNN_ARGUMENT, "no rows");
    expect(lnrnn_stream_new(it, 2, lnrnn_weights(3), &other) == LNRNN_ARGUMENT, "no such weights");
    expect(lnrnn_file_free(it) == LNRNN_OK && lnrnn_file_free(it) == LNRNN_HANDLE, "freed twice");
    expect(lnrnn_stream_new(it, 2, LNRNN_FLOAT32, &other) == LNRNN_HANDLE, "a file that was freed");
    int64_t batch, inputs, outputs, state;
    lnrnn_stream_sizes(stream, &batch, &inputs, &outputs, &state);
    expect(batch == 2 && inputs == 3 && outputs == 4 && state == 2 * (5 + 4 + 4), "sizes");
    constexpr int T = 7;
    std::vector<float> x(T * 2 * 3), one(T * 2 * 4), all(T * 2 * 4), saved(state), again(2 * 4);
    for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(float(i));
    for (int t = 0; t < T; ++t) {
        if (t == T - 1) lnrnn_stream_get_state(stream, saved.data());
        lnrnn_stream_step(stream, &x[t * 6], &one[t * 8]);
    }
    expect(lnrnn_stream_set_state(stream, saved.data()) == LNRNN_OK, "set");
    lnrnn_stream_step(stream, &x[(T - 1) * 6], again.data());
    expect(!std::memcmp(again.data(), &one[(T - 1) * 8], sizeof(float) * 8), "a state that was set");
    expect(lnrnn_stream_reset(stream, -1) == LNRNN_OK, "reset");
    expect(lnrnn_stream_run(stream, T, x.data(), all.data()) == LNRNN_OK && all == one, "a block");
    lnrnn_stream_reset(stream, 1), lnrnn_stream_get_state(stream, saved.data());
    expect(saved[0] != 0 && saved[5] == 0 && saved[9] == 0 && saved[10] != 0 && saved[14] == 0, "a row");
    expect(lnrnn_stream_reset(stream, 2) == LNRNN_ARGUMENT, "no such row");
    expect(lnrnn_stream_step(stream, nullptr, all.data()) == LNRNN_ARGUMENT, "no x");
    expect(lnrnn_stream_run(stream, -1, x.data(), all.data()) == LNRNN_ARGUMENT, "steps");
    expect(lnrnn_stream_step(nullptr, x.data(), all.data()) == LNRNN_ARGUMENT, "no stream");
    expect(lnrnn_stream_free(stream) == LNRNN_OK, "free");
    expect(lnrnn_stream_step(stream, x.data(), all.data()) == LNRNN_HANDLE, "a stream that was freed");
    expect(lnrnn_stream_free(stream) == LNRNN_HANDLE && lnrnn_stream_free(nullptr) == LNRNN_OK, "twice");
    lnrnn_stream_free(other);
    expect(lnrnn_file_open("/no/such/file", &it) == LNRNN_FILE && std::strlen(lnrnn_error_text()) > 0,
           "no file");
}

// Any outcome but a crash, and states that are at most as large as the file allows.
void damage(std::string bytes, std::mt19937& random) {
    const char* words[] = {"null", "[", "]", "{", "}", "-1", "1e999", "\\\"", "9223372036854775807",
                           "0.5", "\"", ",", ":", "\\u0000", "\\ud800", "lstm", "sum", "rzn"};
    const uint64_t length = uint8_t(bytes[0]) | uint64_t(uint8_t(bytes[1])) << 8;
    for (int changes = 1 + random() % 3; changes > 0 && !bytes.empty(); --changes) {
        const size_t at = random() % 4 ? 8 + random() % length : random() % bytes.size();
        if (at >= bytes.size()) continue;
        switch (random() % 4) {
            case 0: bytes[at] = char(random()); break;
            case 1: bytes.resize(at); break;
            case 2: bytes.erase(at, random() % 8); break;
            default: {
                const char* word = words[random() % (sizeof words / sizeof *words)];
                const size_t size = std::strlen(word);
                if (random() % 2) bytes.insert(at, word);
                else bytes.replace(at, size, word);
            }
        }
    }
    if (bytes.size() >= 8 && random() % 2) {  // a length that fits again
        const uint64_t header = bytes.rfind("}") == std::string::npos ? 0 : length;
        for (int i = 0; i < 8; ++i) bytes[i] = char(header >> 8 * i & 255);
    }
    lnrnn_file* it;
    if (lnrnn_file_read(bytes.data(), bytes.size(), &it) != LNRNN_OK) return;
    lnrnn_stream* stream;
    if (lnrnn_stream_new(it, 1, lnrnn_weights(random() % 3), &stream) == LNRNN_OK) {
        int64_t inputs = 0, outputs = 0;
        lnrnn_stream_sizes(stream, nullptr, &inputs, &outputs, nullptr);
        std::vector<float> x(inputs), y(outputs);
        lnrnn_stream_step(stream, x.data(), y.data());
        lnrnn_stream_free(stream);
    }
    lnrnn_file_free(it);
}

}  // namespace

int main(int count, char** arguments) {
    const int damaged = count > 1 ? std::atoi(arguments[1]) : 100000;
    const std::string bytes = file();
    use(bytes);
    std::mt19937 random(2);
    for (int i = 0; i < damaged; ++i) damage(bytes, random);
    std::printf("%d damaged files, %d failures\n", damaged, failures);
    return failures != 0;
}
