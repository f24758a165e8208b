// A safetensors file: named tensors and texts, checked before anything is read.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "json.h"

namespace lnrnn {

struct Tensor {
    std::string code;  // of its numbers, such as F32
    std::vector<int64_t> shape;
    int64_t count;
    const char* at;
};

class File {
public:
    // Throws FileError, and std::bad_alloc.
    explicit File(std::string bytes);
    static File read(const char* path);

    const std::unordered_map<std::string, Tensor>& tensors() const { return tensors_; }
    // a text of the metadata, or null
    const std::string* text(const std::string& name) const;
    // the numbers of a tensor as float32; throws FileError where they are no floats
    static std::vector<float> numbers(const std::string& name, const Tensor& tensor);

private:
    std::string bytes_;
    std::unordered_map<std::string, Tensor> tensors_;
    std::unordered_map<std::string, std::string> texts_;
};

}  // namespace lnrnn
