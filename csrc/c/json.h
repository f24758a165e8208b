// JSON of files that nobody vouches for: bounded in depth and number of values, no name twice in an
// object, no numbers that JSON has not.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lnrnn {

// What is wrong with a file, in one sentence.
struct FileError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Json {
    enum class Kind { null, flag, number, text, list, object };

    Kind kind = Kind::null;
    bool flag = false, whole = false;
    double number = 0;
    int64_t integer = 0;  // of a number that is written as one and fits
    std::string text;
    std::vector<Json> items;                // of a list, or the values of an object
    std::vector<std::string> names;         // of an object

    bool is(Kind k) const { return kind == k; }
    // a member of an object, or null
    const Json* find(std::string_view name) const;
};

// Throws FileError; `what` says in whose place the text stands.
Json parse_json(std::string_view text, const char* what);

}  // namespace lnrnn
