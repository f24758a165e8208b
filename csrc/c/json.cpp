#include "json.h"

#include <cmath>
#include <locale>
#include <sstream>
#include <unordered_set>

namespace lnrnn {

namespace {

constexpr int most_depth = 64;
constexpr int64_t most_values = 1 << 20;

class Parser {
public:
    Parser(std::string_view text, const char* what) : text_(text), what_(what) {}

    Json all() {
        Json found = value(0);
        blanks();
        if (at_ != text_.size()) fail();
        return found;
    }

private:
    [[noreturn]] void fail() const {
        throw FileError(std::string("JSON is due in ") + what_ + "; it ends at byte " +
                        std::to_string(at_) + ".");
    }

    bool more() const { return at_ < text_.size(); }
    char next() {
        if (!more()) fail();
        return text_[at_++];
    }
    void blanks() {
        while (more() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' ||
                          text_[at_] == '\r'))
            ++at_;
    }
    // past `c`, if it is what comes
    bool takes(char c) {
        blanks();
        if (!more() || text_[at_] != c) return false;
        ++at_;
        return true;
    }
    void expect(char c) {
        if (!takes(c)) fail();
    }
    void word(std::string_view rest) {
        if (text_.substr(at_, rest.size()) != rest) fail();
        at_ += rest.size();
    }

    Json value(int depth) {
        if (depth > most_depth || ++values_ > most_values)
            throw FileError(std::string("JSON is at most ") + std::to_string(most_depth) +
                            " deep and of " + std::to_string(most_values) + " values in " + what_ +
                            "; this one is of more.");
        blanks();
        Json found;
        switch (next()) {
            case '{': object(found, depth); break;
            case '[': list(found, depth); break;
            case '"': found.kind = Json::Kind::text, found.text = string(); break;
            case 't': word("rue"), found.kind = Json::Kind::flag, found.flag = true; break;
            case 'f': word("alse"), found.kind = Json::Kind::flag; break;
            case 'n': word("ull"); break;
            default: --at_, number(found);
        }
        return found;
    }

    void object(Json& found, int depth) {
        found.kind = Json::Kind::object;
        std::unordered_set<std::string> seen;
        if (takes('}')) return;
        do {
            expect('"');
            std::string name = string();
            if (!seen.insert(name).second)
                throw FileError("A name stands once in " + std::string(what_) + "; '" +
                                name.substr(0, 80) + "' stands there twice.");
            expect(':');
            found.names.push_back(std::move(name));
            found.items.push_back(value(depth + 1));
        } while (takes(','));
        expect('}');
    }

    void list(Json& found, int depth) {
        found.kind = Json::Kind::list;
        if (takes(']')) return;
        do found.items.push_back(value(depth + 1));
        while (takes(','));
        expect(']');
    }

    unsigned hexadecimal() {
        unsigned code = 0;
        for (int i = 0; i < 4; ++i) {
            const char c = next();
            code <<= 4;
            if (c >= '0' && c <= '9') code |= unsigned(c - '0');
            else if (c >= 'a' && c <= 'f') code |= unsigned(c - 'a' + 10);
            else if (c >= 'A' && c <= 'F') code |= unsigned(c - 'A' + 10);
            else fail();
        }
        return code;
    }

    static void append(std::string& to, unsigned code) {
        if (code < 0x80) {
            to += char(code);
        } else if (code < 0x800) {
            to += char(0xc0 | code >> 6), to += char(0x80 | (code & 63));
        } else if (code < 0x10000) {
            to += char(0xe0 | code >> 12), to += char(0x80 | (code >> 6 & 63));
            to += char(0x80 | (code & 63));
        } else {
            to += char(0xf0 | code >> 18), to += char(0x80 | (code >> 12 & 63));
            to += char(0x80 | (code >> 6 & 63)), to += char(0x80 | (code & 63));
        }
    }

    std::string string() {
        std::string found;
        for (char c = next(); c != '"'; c = next()) {
            if (static_cast<unsigned char>(c) < 32) fail();
            if (c != '\\') {
                found += c;
                continue;
            }
            switch (c = next()) {
                case '"': case '\\': case '/': found += c; break;
                case 'b': found += '\b'; break;
                case 'f': found += '\f'; break;
                case 'n': found += '\n'; break;
                case 'r': found += '\r'; break;
                case 't': found += '\t'; break;
                case 'u': {
                    unsigned code = hexadecimal();
                    if (code >= 0xd800 && code < 0xdc00) {  // the first of a pair
                        word("\\u");
                        const unsigned low = hexadecimal();
                        if (low < 0xdc00 || low > 0xdfff) fail();
                        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                    }
                    append(found, code);
                    break;
                }
                default: fail();
            }
        }
        return found;
    }

    void digits() {
        if (!more() || text_[at_] < '0' || text_[at_] > '9') fail();
        while (more() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    }

    void number(Json& found) {
        const size_t start = at_;
        found.kind = Json::Kind::number, found.whole = true;
        if (more() && text_[at_] == '-') ++at_;
        const size_t first = at_;
        digits();
        if (text_[first] == '0' && at_ > first + 1) fail();
        if (more() && text_[at_] == '.') ++at_, found.whole = false, digits();
        if (more() && (text_[at_] == 'e' || text_[at_] == 'E')) {
            ++at_, found.whole = false;
            if (more() && (text_[at_] == '+' || text_[at_] == '-')) ++at_;
            digits();
        }
        found.whole = found.whole && at_ - start <= 18;
        std::istringstream from(std::string(text_.substr(start, at_ - start)));
        from.imbue(std::locale::classic());  // whatever the host's is
        if (found.whole) {
            from >> found.integer;
            found.number = double(found.integer);
        } else if (!(from >> found.number) || !std::isfinite(found.number)) {
            fail();
        }
    }

    std::string_view text_;
    const char* what_;
    size_t at_ = 0;
    int64_t values_ = 0;
};

}  // namespace

const Json* Json::find(std::string_view name) const {
    for (size_t i = 0; i < names.size(); ++i)
        if (names[i] == name) return &items[i];
    return nullptr;
}

Json parse_json(std::string_view text, const char* what) { return Parser(text, what).all(); }

}  // namespace lnrnn
