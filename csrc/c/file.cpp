#include "file.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

namespace lnrnn {

namespace {

constexpr uint64_t most_header = 16 << 20;

struct Width {
    const char* code;
    int64_t bytes;
};
constexpr Width widths[] = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8},
                            {"I32", 4}, {"I16", 2}, {"I8", 1},  {"U64", 8},  {"U32", 4},
                            {"U16", 2}, {"U8", 1},  {"BOOL", 1}};

int64_t width_of(const std::string& code) {
    for (const Width& width : widths)
        if (code == width.code) return width.bytes;
    return 0;
}

std::string quoted(const std::string& name) { return "'" + name.substr(0, 80) + "'"; }

template <class T>
T read_as(const char* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

float of_half(uint16_t bits) {
    const int exponent = bits >> 10 & 31;
    const double part = bits & 1023;
    double size = exponent == 0    ? std::ldexp(part, -24)
                  : exponent == 31 ? (part != 0 ? NAN : INFINITY)
                                   : std::ldexp(1024 + part, exponent - 25);
    return float(bits >> 15 ? -size : size);
}

// the place of one tensor in the part of the file behind the header
Tensor place(const std::string& name, const Json& about, int64_t& start, int64_t& end) {
    const Json *code = about.find("dtype"), *shape = about.find("shape");
    const Json* offsets = about.find("data_offsets");
    const int64_t width = code && code->is(Json::Kind::text) ? width_of(code->text) : 0;
    auto sizes = [](const Json* list) {
        if (!list || !list->is(Json::Kind::list) || list->items.size() > 32) return false;
        for (const Json& n : list->items)
            if (!n.is(Json::Kind::number) || !n.whole || n.integer < 0) return false;
        return true;
    };
    if (about.items.size() != 3 || width == 0 || !sizes(shape) || !sizes(offsets) ||
        offsets->items.size() != 2)
        throw FileError("A tensor of a safetensors file has a known dtype, a shape and two offsets; " +
                        quoted(name) + " has not.");
    Tensor tensor{code->text, {}, 1, nullptr};
    start = offsets->items[0].integer, end = offsets->items[1].integer;
    bool fits = end >= start;
    for (const Json& n : shape->items) {
        tensor.shape.push_back(n.integer);
        if (n.integer > 0 && tensor.count > (int64_t(1) << 60) / n.integer) fits = false;
        if (fits) tensor.count *= n.integer;
    }
    if (!fits || tensor.count > (end - start) / width || tensor.count * width != end - start)
        throw FileError("The offsets of a tensor span its shape; those of " + quoted(name) +
                        " do not.");
    return tensor;
}

}  // namespace

File File::read(const char* path) {
    std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path, "rb"), std::fclose);
    if (!file)
        throw FileError("The file " + quoted(path) + " cannot be opened: " + std::strerror(errno) +
                        ".");
    std::string bytes;
    char part[1 << 16];
    for (size_t n; (n = std::fread(part, 1, sizeof part, file.get())) > 0;) bytes.append(part, n);
    if (std::ferror(file.get()))
        throw FileError("The file " + quoted(path) + " cannot be read: " + std::strerror(errno) + ".");
    return File(std::move(bytes));
}

File::File(std::string bytes) : bytes_(std::move(bytes)) {
    if (bytes_.size() < 8)
        throw FileError("A safetensors file begins with 8 bytes of length; this one has " +
                        std::to_string(bytes_.size()) + ".");
    uint64_t length = 0;
    for (int i = 0; i < 8; ++i) length |= uint64_t(uint8_t(bytes_[i])) << 8 * i;
    if (length > std::min<uint64_t>(bytes_.size() - 8, most_header))
        throw FileError("The header of a safetensors file fits into it and into " +
                        std::to_string(most_header) + " bytes; this one claims " +
                        std::to_string(length) + " bytes in a file of " +
                        std::to_string(bytes_.size()) + ".");
    const Json header = parse_json(std::string_view(bytes_).substr(8, length), "the header");
    if (!header.is(Json::Kind::object))
        throw FileError("The header of a safetensors file is a JSON object; this one is not.");
    const int64_t begin = 8 + int64_t(length), size = int64_t(bytes_.size()) - begin;
    std::vector<std::pair<int64_t, int64_t>> spans;
    for (size_t i = 0; i < header.names.size(); ++i) {
        const std::string& name = header.names[i];
        const Json& about = header.items[i];
        if (name == "__metadata__") {
            for (size_t k = 0; k < about.items.size(); ++k) {
                if (!about.is(Json::Kind::object) || !about.items[k].is(Json::Kind::text))
                    throw FileError("The metadata of a safetensors file are strings by name; "
                                    "these are not.");
                texts_.emplace(about.names[k], about.items[k].text);
            }
            continue;
        }
        int64_t start, end;
        Tensor tensor = place(name, about, start, end);
        if (end > size)
            throw FileError("The tensors of a safetensors file are within it; " + quoted(name) +
                            " ends at byte " + std::to_string(end) + " of " + std::to_string(size) +
                            ".");
        tensor.at = bytes_.data() + begin + start;
        spans.emplace_back(start, end);
        tensors_.emplace(name, std::move(tensor));
    }
    std::sort(spans.begin(), spans.end());
    int64_t expected = 0;
    for (const auto& [start, end] : spans) {
        if (start != expected)
            throw FileError("The tensors of a safetensors file stand one after the other without "
                            "gaps; one begins at byte " + std::to_string(start) + " where " +
                            std::to_string(expected) + " was due.");
        expected = end;
    }
    if (expected != size)
        throw FileError("The header describes " + std::to_string(expected) +
                        " bytes of tensors, the file has " + std::to_string(size) +
                        ": it is cut short or has something appended.");
}

const std::string* File::text(const std::string& name) const {
    const auto found = texts_.find(name);
    return found == texts_.end() ? nullptr : &found->second;
}

std::vector<float> File::numbers(const std::string& name, const Tensor& tensor) {
    std::vector<float> found(size_t(tensor.count));
    const int64_t width = width_of(tensor.code);
    for (int64_t i = 0; i < tensor.count; ++i) {
        const char* at = tensor.at + i * width;
        if (tensor.code == "F32") {
            found[i] = read_as<float>(at);
        } else if (tensor.code == "F64") {
            found[i] = float(read_as<double>(at));
        } else if (tensor.code == "F16") {
            found[i] = of_half(read_as<uint16_t>(at));
        } else if (tensor.code == "BF16") {
            const uint32_t bits = uint32_t(read_as<uint16_t>(at)) << 16;
            std::memcpy(&found[i], &bits, sizeof bits);
        } else {
            throw FileError("Weights are of the dtypes F16, BF16, F32, F64; " + quoted(name) +
                            " is of " + tensor.code + ".");
        }
    }
    return found;
}

}  // namespace lnrnn
