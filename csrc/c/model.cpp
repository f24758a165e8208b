#include "model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <set>

namespace lnrnn {

namespace {

using Numbers = std::vector<float>;
using Kind = Json::Kind;

constexpr int64_t most_size = 1 << 24;

std::string quoted(const std::string& text) { return "'" + text.substr(0, 80) + "'"; }

struct Norm {
    std::string site, gates;
    bool gain = true, bias = true;
};

// The fields of a variant, where they are not at their defaults; what the core does not compute is
// refused.
class Fields {
public:
    Fields(const std::string& path, const Json& given) : path_(path), given_(given) {
        if (!given.is(Kind::object)) fail("is a JSON object; this one is not");
    }

    [[noreturn]] void fail(const std::string& what) const {
        throw FileError("The variant of the layer " + quoted(path_) + " " + what + ".");
    }

    bool flag(const char* name, bool otherwise = false) {
        const Json* it = take(name);
        if (it && !it->is(Kind::flag)) fail(std::string("has true or false as ") + name);
        return it ? it->flag : otherwise;
    }

    double number(const char* name, double otherwise) {
        const Json* it = take(name);
        if (it && !it->is(Kind::number)) fail(std::string("has a number as ") + name);
        return it ? it->number : otherwise;
    }

    // a bound on magnitudes; 0 where there is none
    double bound(const char* name) {
        const double found = number(name, 0);
        if (given_.find(name) && !(found > 0)) fail(std::string("has a positive number as ") + name);
        return found;
    }

    // the place of a word among those that there are
    template <class E>
    E word(const char* name, std::initializer_list<const char*> words, E otherwise) {
        const Json* it = take(name);
        if (!it) return otherwise;
        int64_t i = 0;
        for (const char* word : words) {
            if (it->is(Kind::text) && it->text == word) return E(i);
            ++i;
        }
        fail(std::string("has ") + name + "=" +
             (it->is(Kind::text) ? quoted(it->text) : "something else than a word") +
             ", which a stream does not compute");
    }

    std::vector<Norm> norms() {
        std::vector<Norm> found;
        const Json* list = take("norms");
        if (list && !list->is(Kind::list)) fail("has a list as norms");
        for (const Json& it : list ? list->items : std::vector<Json>()) {
            Fields norm(path_, it);
            const Json *site = norm.take("site"), *gates = norm.take("gates");
            if (!site || !site->is(Kind::text) || (gates && !gates->is(Kind::text)))
                fail("has norms with a site and gates");
            found.push_back({site->text, gates ? gates->text : "", norm.flag("gain", true),
                             norm.flag("bias", true)});
            norm.end();
        }
        return found;
    }

    // all that was given has been taken
    void end() const {
        for (const std::string& name : given_.names)
            if (!taken_.count(name))
                fail("has " + quoted(name) + ", which a stream does not compute");
    }

private:
    const Json* take(const char* name) {
        taken_.insert(name);
        return given_.find(name);
    }

    const std::string& path_;
    const Json& given_;
    std::set<std::string> taken_;
};

struct Variant {
    std::string gates;
    std::vector<Norm> norms;
    Spec spec{};
    double epsilon;
    bool gain_c, shift_c, bias_x, bias_h, bias, tied, projection_bias = false;
    double forget, update;
    Clips<float> clips = {};

    Variant(const std::string& path, const Json& given) {
        Fields f(path, given);
        if (!given.find("cell")) f.fail("has a cell");
        const int64_t cell = f.word("cell", {"simple", "lstm", "gru", "indrnn", "ligru"}, int64_t(0));
        spec.diagonal = cell == 3;
        spec.cell = cell == 3 ? Cell::simple : cell == 4 ? Cell::gru : Cell(cell);
        const bool lstm = spec.is(Cell::lstm), gru = spec.is(Cell::gru);
        gates = lstm ? "ifgo" : cell == 4 ? "zn" : gru ? "rzn" : "n";
        const auto functions = {"tanh",         "sigmoid",             "relu",
                                "hard_sigmoid", "keras2_hard_sigmoid", "linear"};
        spec.phi = f.word("activation", functions, Activation::tanh);
        spec.sigma = spec.psi = Activation::tanh;
        if (lstm || gru) spec.sigma = f.word("recurrent_activation", functions, Activation::sigmoid);
        spec.keep = 1;
        if (lstm) {
            spec.psi = f.word("output_activation", functions, Activation::tanh);
            spec.cell_norm = f.word("cell_norm", {"none", "output", "carry", "carry_only", "after_tanh"},
                                    CellNorm::none);
            if (f.flag("coupled")) gates = "fgo";
            spec.capped = f.flag("capped");
            spec.peephole = f.word("peephole", {"none", "after", "inside"}, Peephole::none);
            spec.peephole_in_cell = f.word("output_peephole", {"gate", "cell"}, int64_t(0));
            spec.clip_at = f.word("cell_clip_at", {"before_norm", "after_norm", "incoming", "carried"},
                                  ClipAt::before_norm);
            spec.projection = f.flag("projection");
            projection_bias = f.flag("projection_bias");
            clips.hidden = float(f.bound("hidden_clip"));
            clips.projection = float(f.bound("projection_clip"));
        } else if (gru) {
            spec.keep = f.word("update", {"new", "keep"}, int64_t(1));
            if (cell == 4) {
                spec.reset = Reset::none;
            } else {
                spec.reset = f.word("reset", {"after", "inside", "before", "whole"}, Reset::after);
                if (f.flag("coupled")) gates = "zn";
            }
        }
        if (lstm || cell == 2) clips.cell = float(f.bound("cell_clip"));
        spec.hidden_norm = f.flag("hidden_norm");
        spec.gates = int64_t(gates.size());
        gain_c = lstm && f.flag("cell_norm_gain", true);
        shift_c = lstm && f.flag("cell_norm_bias", true);
        forget = lstm ? f.number("forget_bias", 0) : 0;
        update = gru ? f.number("update_bias", 0) : 0;
        bias_x = f.flag("bias_x"), bias_h = f.flag("bias_h");
        bias = f.flag("bias"), tied = f.flag("tied_bias");
        if (tied && (bias_x || !bias)) f.fail("has tied_bias without bias, or beside bias_x");
        spec.rms = f.word("norm", {"layer", "rms"}, int64_t(0));
        epsilon = f.number("epsilon", 1e-5);
        if (!(epsilon >= 0)) f.fail("has an epsilon of 0 or more");
        spec.epsilon_at_root = f.word("epsilon_at", {"variance", "deviation"}, int64_t(0));
        const double ddof = f.number("ddof", 0);
        if (ddof != 0 && (ddof != 1 || spec.rms)) f.fail("has a ddof of 0, or 1 of a layer norm");
        spec.ddof = int64_t(ddof);
        norms = f.norms();
        f.end();
        for (Groups* groups : {&spec.x, &spec.h, &spec.sum}) std::fill_n(groups->of, max_gates, -1);
        for (Norm& norm : norms) add(norm, f);
        check_gates(f);
        if (lstm) check_lstm(f);
    }

    // the group of a gate at a site, or -1
    int64_t group(const std::string& site, char gate) const {
        const Groups& groups = site == "x" ? spec.x : site == "h" ? spec.h : spec.sum;
        return groups.of[gates.find(gate)];
    }

    bool normed(const std::string& site) const {
        return std::any_of(norms.begin(), norms.end(),
                           [&](const Norm& norm) { return norm.site == site; });
    }

private:
    void add(Norm& norm, const Fields& f) {
        if (norm.gates.empty()) norm.gates = gates;
        if (norm.site == "pre") {
            std::string all = norm.gates, own = gates;
            std::sort(all.begin(), all.end()), std::sort(own.begin(), own.end());
            const bool inner = bias_x || bias_h, others = norms.size() > 1 || all != own;
            if (others || inner || spec.diagonal || spec.two_products())
                f.fail("has a norm of [x, h] of all gates, alone, and no bias within");
            spec.pre = 1;
            return;
        }
        Groups* groups = norm.site == "x"     ? &spec.x
                         : norm.site == "h"   ? &spec.h
                         : norm.site == "sum" ? &spec.sum
                                              : nullptr;
        if (!groups)
            f.fail("has a norm at the site " + quoted(norm.site) + ", which a stream does not compute");
        const int64_t index = 1 + *std::max_element(groups->of, groups->of + max_gates);
        for (char gate : norm.gates) {
            const size_t at = gates.find(gate);
            if (at == std::string::npos || groups->of[at] >= 0)
                f.fail("has norms that name each of the gates " + gates + " once at a site");
            groups->of[at] = index;
        }
    }

    void check_gates(const Fields& f) const {
        for (char gate : gates)
            if (group("sum", gate) >= 0 && (group("x", gate) >= 0 || group("h", gate) >= 0))
                f.fail("has norms of a gate on the sum or on its parts, not on both");
        if (spec.diagonal)
            for (const Norm& norm : norms)
                if (norm.site != "x") f.fail("has norms of the input only, as an indrnn");
        if (!spec.is(Cell::gru)) return;
        const int64_t n = spec.gates - 1;
        const bool fits = spec.reset == Reset::after    ? spec.sum.of[n] < 0
                          : spec.reset == Reset::inside ? alone(spec.sum, n)
                          : spec.reset == Reset::before ? (spec.sum.of[n] < 0 || alone(spec.sum, n)) &&
                                                              (spec.h.of[n] < 0 || alone(spec.h, n))
                                                        : true;
        if (!fits) f.fail("has a reset that its norms do not allow");
    }

    void check_lstm(const Fields& f) const {
        bool summed = true;
        for (char gate : gates) summed = summed && group("sum", gate) >= 0;
        if (spec.capped && spec.coupled()) f.fail("has an input gate to bound, or is coupled, not both");
        if (clips.cell > 0 && spec.clip_at == ClipAt::after_norm && spec.cell_norm != CellNorm::carry)
            f.fail("has a cell_clip after a norm that is carried");
        if (spec.peephole == Peephole::inside && !(summed && alone(spec.sum, spec.gates - 1)))
            f.fail("has peepholes within norms of the sum of each gate, that of o alone");
        if (spec.peephole_in_cell && spec.peephole != Peephole::after)
            f.fail("has an output_peephole in the cell with peepholes after the norms");
        if (!spec.projection && (projection_bias || clips.projection > 0))
            f.fail("has a projection_bias and a projection_clip with a projection");
    }

    // whether a gate has a norm at a site, and shares it with none
    bool alone(const Groups& groups, int64_t gate) const {
        bool found = groups.of[gate] >= 0;
        for (int64_t g = 0; g < spec.gates; ++g)
            found = found && (g == gate || groups.of[g] != groups.of[gate]);
        return found;
    }
};

// The weights of one layer, and what the sites add to their gates.
class Weighing {
public:
    Weighing(const File& file, const std::string& path, const Variant& variant, const Sizes& n,
             std::deque<Numbers>& owned, std::set<std::string>& used)
        : file_(file), path_(path), v_(variant), H_(n.H), wide_(variant.spec.gates * n.H), owned_(owned),
          used_(used) {
        const Spec& spec = v_.spec;
        weights.kernel = keep(take("kernel", {n.I, wide_}));
        weights.recurrent = keep(spec.diagonal ? take("recurrent_scale", {H_})
                                               : take("recurrent_kernel", {n.R, wide_}));
        const Numbers bias_x = optional("bias_x", v_.bias_x), bias_h = optional("bias_h", v_.bias_h);
        const Numbers bias = optional("bias", v_.bias);
        weights.bias_x = keep(v_.tied ? bias : bias_x);
        weights.bias_h = keep(bias_h);
        Numbers apart, summed;
        divide(outer(bias), apart, summed);
        weights.gain_x = keep(gain("x")), weights.shift_x = keep(sum(shift("x"), apart));
        weights.gain_h = keep(gain("h")), weights.shift_h = keep(shift("h"));
        weights.gain_sum = keep(gain("sum")), weights.shift_sum = keep(sum(shift("sum"), summed));
        if (file_.tensors().count(path_ + ".initial_h")) {
            initial_h = keep(take("initial_h", {n.R}));
            if (spec.is(Cell::lstm)) initial_c = keep(take("initial_c", {H_}));
        }
        if (spec.cell_norm != CellNorm::none) {
            weights.gain_c = keep(v_.gain_c ? take("cell_norm_gain", {H_}) : Numbers(H_, 1.0f));
            if (v_.shift_c) weights.shift_c = keep(take("cell_norm_bias", {H_}));
        }
        if (spec.peephole != Peephole::none)
            weights.peephole = keep(take("peephole", {(spec.coupled() ? 2 : 3) * H_}));
        if (spec.pre) {
            const int64_t joint = n.I + n.R;
            const Norm& norm = v_.norms.front();
            weights.gain_pre = keep(norm.gain ? take("pre_norm_gain", {joint}) : Numbers(joint, 1.0f));
            if (norm.bias) weights.shift_pre = keep(take("pre_norm_bias", {joint}));
        }
        if (spec.hidden_norm) {
            weights.gain_hidden = keep(take("hidden_norm_gain", {n.R}));
            weights.shift_hidden = keep(take("hidden_norm_bias", {n.R}));
        }
        if (spec.projection) {
            weights.projection = keep(take("projection_kernel", {H_, n.R}));
            if (v_.projection_bias) weights.projection_bias = keep(take("projection_bias", {n.R}));
        }
    }

    Weights<float> weights = {};
    const float *initial_h = nullptr, *initial_c = nullptr;

private:
    Numbers take(const std::string& name, const std::vector<int64_t>& shape) {
        const std::string full = path_ + "." + name;
        const auto found = file_.tensors().find(full);
        if (found == file_.tensors().end() || found->second.shape != shape)
            throw FileError("The weight " + quoted(name) + " of the layer " + quoted(path_) +
                            " has the shape that its variant and sizes give it; in the file it " +
                            (found == file_.tensors().end() ? "is missing." : "has another."));
        used_.insert(full);
        Numbers numbers = File::numbers(full, found->second);
        for (float value : numbers)
            if (!std::isfinite(value))
                throw FileError("Weights are finite in float32; " + quoted(full) +
                                " has some that are not.");
        return numbers;
    }

    Numbers optional(const char* name, bool there) {
        return there ? take(name, {wide_}) : Numbers();
    }

    const float* keep(Numbers numbers) {
        if (numbers.empty()) return nullptr;
        owned_.push_back(std::move(numbers));
        return owned_.back().data();
    }

    // a vector over all gates of what norms at a site have for some; empty for none
    Numbers spread(const std::string& site, bool Norm::*which, const char* name, float fill) {
        std::string having;
        for (char gate : v_.gates)
            for (const Norm& norm : v_.norms)
                if (norm.site == site && norm.*which && norm.gates.find(gate) != std::string::npos)
                    having += gate;
        if (having.empty()) return {};
        const Numbers given = take(site + "_norm_" + name, {int64_t(having.size()) * H_});
        Numbers all(wide_, fill);
        for (size_t i = 0; i < having.size(); ++i)
            std::copy_n(given.begin() + i * H_, H_, all.begin() + v_.gates.find(having[i]) * H_);
        return all;
    }

    // the core takes a site without a gain for one without a norm
    Numbers gain(const std::string& site) {
        Numbers found = spread(site, &Norm::gain, "gain", 1);
        return found.empty() && v_.normed(site) ? Numbers(wide_, 1.0f) : found;
    }

    Numbers shift(const std::string& site) { return spread(site, &Norm::bias, "bias", 0); }

    // what is added to each gate after its norms
    Numbers outer(const Numbers& bias) const {
        if (v_.forget == 0 && v_.update == 0) return bias;
        Numbers constants(wide_);
        for (int64_t i = 0; i < wide_; ++i) {
            const char gate = v_.gates[i / H_];
            constants[i] = gate == 'f' ? float(v_.forget) : gate == 'z' ? float(v_.update) : 0;
        }
        return sum(constants, bias);
    }

    // into the part of the gates that no sum norm covers, and of those that one does
    void divide(const Numbers& outer, Numbers& apart, Numbers& summed) const {
        if (outer.empty()) return;
        if (!v_.normed("sum")) {
            apart = outer;
            return;
        }
        apart = summed = Numbers(wide_);
        for (int64_t i = 0; i < wide_; ++i)
            (v_.group("sum", v_.gates[i / H_]) >= 0 ? summed : apart)[i] = outer[i];
    }

    static Numbers sum(Numbers a, const Numbers& b) {
        if (a.empty() || b.empty()) return a.empty() ? b : a;
        for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
        return a;
    }

    const File& file_;
    const std::string& path_;
    const Variant& v_;
    const int64_t H_, wide_;
    std::deque<Numbers>& owned_;
    std::set<std::string>& used_;
};

void check_names(const Json& given, std::initializer_list<const char*> names, const std::string& what) {
    bool all = given.is(Kind::object) && given.names.size() == names.size();
    for (const char* name : names) all = all && given.find(name);
    if (!all) throw FileError("The fields of " + what + " are those of version 1; these are not.");
}

bool is_reverse(const std::string& path) {
    const std::string end = "reverse";
    return path.size() >= end.size() && path.compare(path.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

Model::Model(const File& file) {
    const std::string* text = file.text("lnrnn");
    if (!text)
        throw FileError("A file of recurrent layers has the metadata 'lnrnn'; this one is plain "
                        "safetensors: write it by lnrnn.save or lnrnn convert.");
    const Json about = parse_json(*text, "the metadata 'lnrnn'");
    check_names(about, {"version", "requires", "layers", "notes"}, "the description");
    const Json &version = *about.find("version"), &needed = *about.find("requires");
    if (!version.whole || version.integer != 1 || !needed.is(Kind::list) || !needed.items.empty())
        throw FileError("This program reads version 1 of the format without further features; the "
                        "file has another: use a newer lnrnn.");
    const Json& layers = *about.find("layers");
    if (!layers.is(Kind::object) || layers.items.empty())
        throw FileError("The layers of the description are a JSON object of one layer or more; "
                        "these are not.");
    std::set<std::string> used;
    for (size_t i = 0; i < layers.items.size(); ++i) {
        const std::string& path = layers.names[i];
        const Json& layer = layers.items[i];
        if (is_reverse(path))
            throw FileError("The reverse direction begins at the end of a sequence, which a stream "
                            "never sees; got the layer " + quoted(path) +
                            ": use layers of one direction.");
        check_names(layer, {"variant", "sizes", "zoneout", "origin"}, "the layer " + quoted(path));
        const Variant variant(path, *layer.find("variant"));
        const Json &sizes = *layer.find("sizes"), &zoneout = *layer.find("zoneout");
        bool fits = sizes.is(Kind::list) && sizes.items.size() == 3;
        for (const Json& n : sizes.items) fits = fits && n.whole && n.integer > 0 && n.integer < most_size;
        if (!fits || (!variant.spec.projection && sizes.items[1].integer != sizes.items[2].integer))
            throw FileError("The sizes of a layer are inputs, units and the width of h, which without "
                            "a projection is that of the units; those of " + quoted(path) +
                            " are not.");
        bool rates = zoneout.is(Kind::list) && zoneout.items.size() == 2;
        for (const Json& n : zoneout.items)
            rates = rates && n.is(Kind::number) && n.number >= 0 && n.number < 1;
        if (!rates)
            throw FileError("The zoneout of a layer is two probabilities below 1; that of " +
                            quoted(path) + " is not.");
        const Sizes n = {0, 0, sizes.items[0].integer, sizes.items[1].integer,
                         sizes.items[2].integer};
        const Weighing weighing(file, path, variant, n, owned_, used);
        layers_.push_back({variant.spec, variant.epsilon, n.I, n.H, n.R,
                           1 - zoneout.items[0].number, 1 - zoneout.items[1].number, variant.clips,
                           weighing.weights, weighing.initial_h, weighing.initial_c});
    }
    for (const auto& [name, tensor] : file.tensors())
        if (!used.count(name) && name.find(".original.") == std::string::npos)
            throw FileError("Each tensor belongs to a layer of the description; " + quoted(name) +
                            " does not.");
}

}  // namespace lnrnn
