// The cells: a few rows at one step, forward and backward.
//
// A backward pass computes the forward values of a row again from x W and h U, which is cheaper
// than to write and read them: the row is in the first-level cache.  So `gates` fills rows, and
// then either `emit` gives the new states or `back` the gradients.
#pragma once

#include "norm.h"

namespace lnrnn::LNRNN_ISA {

// A cell with the weights of its norms.
template <class T>
struct Context {
    const Spec& spec;
    T epsilon, clip;  // clip: bound on the derivatives that return at every step, 0 for none
    Clips<T> clips;
    int64_t H;
    Share<T>& share;
    Site<T> x, h, sum, c;
    // weights of the peepholes of i, f and o, and sums of their gradients; null without them
    const T* peephole[3];
    T* dpeephole[3];
    // gains (or ones) at x and h, what is added to the sum of both parts, and to h alone where r
    // multiplies it: (G H) each, so that the loops over columns need not ask what is there
    T *gain_x, *gain_h, *shift, *shift_h;

    int gates() const { return int(spec.gates); }
    bool normed() const { return x.gain || h.gain; }
    bool clips_cell(ClipAt at) const { return clips.cell > 0 && spec.clip_at == at; }
    // whether the carried cell, and psi of what the output sees, are rows of their own
    bool staged() const {
        return spec.peephole != Peephole::none || clips_cell(ClipAt::after_norm) ||
               clips_cell(ClipAt::carried);
    }
};

// The states that a row starts from, and the factor on its candidate (or null).
template <class T>
struct Before {
    const T *h, *c, *candidate;
};

// One row at one step: where it stands in the batch, its inputs, its forward values and gradients.
template <class T>
struct Row {
    int64_t index;
    const T *x, *s;  // (G H) its x W and h U
    Before<T> from;
    const T* held_c; // (H) the old c as zoneout holds it, before it is clipped
    T *dh, *dc;      // gradients of the cell's output and the new c, then of the old states
    const uint16_t *soon_x, *soon_s;  // (G H) rows of numbers of two bytes that a step to come reads or
                                      // writes as its x W and h U; null: none


    T* p;       // (G H) pre-activations, then the activated gates
    T* raw;     // (G H) the argument of a sum norm
    T* d;       // (G H) gradients of the pre-activations
    T* hn;      // (H) the recurrent part of n where r multiplies it
    T* dhn;     // (H) its gradient
    T* cell;    // (H) the new c before its norm
    T* whole;   // (H) the same before it is clipped
    T* clipped; // (H) the old c within its bound
    T* carried; // (H) the new c as it is carried, where the cell is staged
    T* shown;   // (H) psi of the cell, where its norm comes after it or the cell is staged
    T* output;  // (H) what a projection or the norm of h takes
    T* raw_h;   // (R) the projected output, within no bound yet
    T* dout;    // (H) gradient of the output that was projected
    T* dy;      // (H) gradient of the normed cell
    T* direct;  // (H) gradient of c beside the norm
    T *rest_h, *rest_c;  // (R), (H) gradients that pass zoneout straight to the old states
    Statistics<T> at_x, at_h, at_sum, at_c, at_hidden;

    static int64_t size(int64_t G, int64_t H, int64_t R) { return (3 * G + 13) * H + 2 * R; }

    Row(T* memory, int64_t G, int64_t H, int64_t R) {
        for (T** it : {&p, &raw, &d}) *it = memory, memory += G * H;
        for (T** it : {&hn, &dhn, &cell, &shown, &dy, &direct, &rest_c, &whole, &clipped, &carried,
                       &output, &dout})
            *it = memory, memory += H;
        for (T** it : {&rest_h, &raw_h}) *it = memory, memory += R;
    }
};

// The rows that are computed together, stage by stage.
template <class T>
struct Rows {
    Row<T>** at;
    int n = 0;

    Row<T>** begin() { return at; }
    Row<T>** end() { return at + n; }
};

// Call f(j, part) for the units of this worker.
template <class T, class F>
inline void each_unit(const Context<T>& k, F f) {
    each<T>(k.share.first, k.share.last, f);
}

template <class T>
inline void clear(const Context<T>& k, T* row) {
    each_unit(k, [&](int64_t j, auto part) { store(row + j, Vec<T>{}, part); });
}

// The numbers [first, last) of d within [-limit, limit].
template <class T>
inline void bound(T* d, int64_t first, int64_t last, T limit) {
    each<T>(first, last, [&](int64_t j, auto part) {
        store(d + j, clamped<T>(load(d + j, part), limit), part);
    });
}

// The derivative d of `clamped` at v.
template <class T>
inline Vec<T> within_bound(Vec<T> v, Vec<T> d, T limit) {
    return ((v >= -limit) & (v <= limit)) ? d : Vec<T>{};
}

// How the parts of a pre-activation come: plain sums; normed, which is right for all; or summed
// and normed already, in Row::p.
enum class Parts { plain, normed, summed };

template <Parts parts, class T, class P>
inline Vec<T> part_x(const Context<T>& k, const Row<T>& w, int g, int64_t i, P part) {
    const Vec<T> v = load(w.x + i, part);
    if constexpr (parts == Parts::plain) return v;
    else return (v - w.at_x.mean[g]) * w.at_x.scale[g] * load(k.gain_x + i, part);
}

template <Parts parts, class T, class P>
inline Vec<T> part_h(const Context<T>& k, const Row<T>& w, int g, int64_t i, P part) {
    const Vec<T> v = load(w.s + i, part);
    if constexpr (parts == Parts::plain) return v;
    else return (v - w.at_h.mean[g]) * w.at_h.scale[g] * load(k.gain_h + i, part);
}

// The pre-activation of gate g at column j.
template <Parts parts, class T, class P>
inline Vec<T> preactivation(const Context<T>& k, const Row<T>& w, int g, int64_t j, P part) {
    const int64_t i = g * k.H + j;
    // asked for a little at a time: while many lines are on their way, others have to wait
    if (w.soon_x) __builtin_prefetch(w.soon_x + i);
    if (w.soon_s) __builtin_prefetch(w.soon_s + i);
    if constexpr (parts == Parts::summed)
        return load(w.p + i, part);
    else
        return part_x<parts>(k, w, g, i, part) + part_h<parts>(k, w, g, i, part) +
               load(k.shift + i, part);
}

// Call f with the parts of this cell as a template argument.
template <class T, class F>
inline void with_parts(const Context<T>& k, F f) {
    if (k.sum.gain) f.template operator()<Parts::summed>();
    else if (k.normed()) f.template operator()<Parts::normed>();
    else f.template operator()<Parts::plain>();
}

// What statistics of a site are of, in the gates [from, to) of rows.
template <class T, class F>
inline auto measured(const Site<T>& site, const Rows<T>& rows, int from, int to, F row,
                     Statistics<T> Row<T>::* at) {
    auto of_row = [&rows, row](int i) -> const T* { return row(*rows.at[i]); };
    auto where = [&rows, at](int i) -> Statistics<T>& { return rows.at[i]->*at; };
    return Measured<T, decltype(of_row), decltype(where)>{site, from, to, of_row, where};
}

// From Row::raw, the norm of the sum of the gates [from, to), to Row::p.
template <class T>
inline void sum_norm(const Context<T>& k, Rows<T>& rows, int from, int to) {
    statistics<T>(k.spec, k.epsilon, k.share, rows.n,
                  measured(k.sum, rows, from, to, [](const Row<T>& w) { return w.raw; },
                           &Row<T>::at_sum));
    for (Row<T>* w : rows)
        for (int g = from; g < to; ++g)
            each_unit(k, [&](int64_t j, auto part) {
                const int64_t i = g * k.H + j;
                store(w->p + i, affine(k.sum, w->at_sum, load(w->raw + i, part), g, i, part), part);
            });
}

// Statistics of h U of the gates [from, to), with the first of x W, and where their sum is normed
// that too, with what `add` adds to a row of it.
template <class T, class F>
inline void prepare(const Context<T>& k, Rows<T>& rows, int from, int to, F add) {
    statistics<T>(k.spec, k.epsilon, k.share, rows.n,
                  measured(k.x, rows, 0, from == 0 ? k.gates() : 0,
                           [](const Row<T>& w) { return w.x; }, &Row<T>::at_x),
                  measured(k.h, rows, from, to, [](const Row<T>& w) { return w.s; },
                           &Row<T>::at_h));
    if (!k.sum.gain) return;
    while (to > from && k.spec.late(to - 1)) --to;
    for (Row<T>* w : rows) {
        for (int g = from; g < to; ++g)
            each_unit(k, [&](int64_t j, auto part) {
                store(w->raw + g * k.H + j, preactivation<Parts::normed>(k, *w, g, j, part), part);
            });
        add(*w);
    }
    sum_norm(k, rows, from, to);
}

template <class T>
inline void prepare(const Context<T>& k, Rows<T>& rows, int from, int to) {
    prepare(k, rows, from, to, [](Row<T>&) {});
}

// What the derivative of a site is of, in the gates [from, to) of rows: `row` makes a NormBack.
template <class T, class F>
inline Returned<T, F> returned(const Site<T>& site, int from, int to, F row) {
    return {site, from, to, row};
}

template <class T>
inline void sum_norm_back(const Context<T>& k, Rows<T>& rows, int from, int to) {
    if (!k.sum.gain || from == to) return;
    norm_back<T>(k.spec, k.H, k.share, rows.n, returned(k.sum, from, to, [&](int i) {
                     Row<T>& w = *rows.at[i];
                     NormBack<T> back{&w.at_sum, w.raw, {}, w.d};
                     for (int g = from; g < to; ++g) back.dy[g] = w.d + g * k.H;
                     return back;
                 }));
}

template <bool standard>
struct Functions {
    template <class T>
    static Vec<T> sigma(const Spec& spec, Vec<T> v) {
        if constexpr (standard) return sigmoid<T>(v);
        else return activate<T>(spec.sigma, v);
    }
    template <class T>
    static Vec<T> phi(const Spec& spec, Vec<T> v) {
        if constexpr (standard) return tanh<T>(v);
        else return activate<T>(spec.phi, v);
    }
    template <class T>
    static Vec<T> psi(const Spec& spec, Vec<T> v) {
        if constexpr (standard) return tanh<T>(v);
        else return activate<T>(spec.psi, v);
    }
    template <class T>
    static Vec<T> sigma_slope(const Spec& spec, Vec<T> y) {
        return slope<T>(standard ? Activation::sigmoid : spec.sigma, y);
    }
    template <class T>
    static Vec<T> phi_slope(const Spec& spec, Vec<T> y) {
        return slope<T>(standard ? Activation::tanh : spec.phi, y);
    }
    template <class T>
    static Vec<T> psi_slope(const Spec& spec, Vec<T> y) {
        return slope<T>(standard ? Activation::tanh : spec.psi, y);
    }
};

template <class T, class P>
inline Vec<T> factor(const T* candidate, int64_t j, P part) {
    return candidate ? load(candidate + j, part) : splat<T>(1);
}

// h' = phi(p)
template <class T, bool standard>
struct Simple {
    using F = Functions<standard>;
    static constexpr bool has_c = false, may_gate = false;

    static void gates(const Context<T>& k, Rows<T>& rows) {
        prepare(k, rows, 0, 1);
        with_parts(k, [&]<Parts parts>() {
            for (Row<T>* w : rows)
                each_unit(k, [&](int64_t j, auto part) {
                    const Vec<T> v = preactivation<parts>(k, *w, 0, j, part);
                    store(w->p + j, F::template phi<T>(k.spec, v), part);
                });
        });
    }

    static void emit(const Context<T>& k, const Row<T>& w, T* h, T*) {
        each_unit(k, [&](int64_t j, auto part) { store(h + j, load(w.p + j, part), part); });
    }

    // dh is overwritten by the part that goes straight to the old h
    static void back(const Context<T>& k, Rows<T>& rows) {
        for (Row<T>* w : rows) {
            each_unit(k, [&](int64_t j, auto part) {
                const Vec<T> y = load(w->p + j, part);
                store(w->d + j, load(w->dh + j, part) * F::template phi_slope<T>(k.spec, y), part);
            });
            clear(k, w->dh);
        }
        sum_norm_back(k, rows, 0, 1);
    }
};

// Where the input gate comes from: a product of its own, 1 - f, or the lesser of both.
enum class Input { own, coupled, capped };

// c' = f c + i g, h' = o psi(c'), with the cell norm between as `cell_norm` says.
template <class T, bool standard>
struct Lstm {
    using F = Functions<standard>;
    static constexpr bool has_c = true, may_gate = false;

    static void gates(const Context<T>& k, Rows<T>& rows) {
        const Spec& spec = k.spec;
        const CellNorm mode = spec.cell_norm;
        prepare(k, rows, 0, k.gates(), [&](Row<T>& w) {
            if (spec.peephole == Peephole::inside) add_peepholes(k, w, w.raw);
        });
        if (spec.peephole != Peephole::none || spec.capped) {
            activate_from_rows(k, rows);
        } else {
            with_parts(k, [&]<Parts parts>() {
                for (Row<T>* w : rows) {
                    if (spec.coupled())
                        activate_gates<parts, Input::coupled>(k, *w);
                    else
                        activate_gates<parts, Input::own>(k, *w);
                }
            });
        }
        if (k.clips_cell(ClipAt::before_norm))
            for (Row<T>* w : rows)
                each_unit(k, [&](int64_t j, auto part) {
                    const Vec<T> v = load(w->cell + j, part);
                    store(w->whole + j, v, part);
                    store(w->cell + j, clamped<T>(v, k.clips.cell), part);
                });
        if (k.staged()) {
            stage(k, rows);
            return;
        }
        if (mode == CellNorm::after_tanh)
            for (Row<T>* w : rows)
                each_unit(k, [&](int64_t j, auto part) {
                    store(w->shown + j, F::template psi<T>(k.spec, load(w->cell + j, part)), part);
                });
        if (mode != CellNorm::none) cell_statistics(k, rows);
    }

    static void emit(const Context<T>& k, const Row<T>& w, T* h, T* c) {
        const CellNorm mode = k.spec.cell_norm;
        const bool staged = k.staged(), normed = !staged && carries_norm(k.spec);
        const T* o = w.p + (k.spec.gates - 1) * k.H;
        const T* from = staged ? w.carried : w.cell;
        each_unit(k, [&](int64_t j, auto part) {
            const Vec<T> cell = load(from + j, part);
            store(c + j, normed ? affine(k.c, w.at_c, cell, 0, j, part) : cell, part);
            Vec<T> y = shown(k, w, staged, j, part);
            if (mode == CellNorm::after_tanh) y = affine(k.c, w.at_c, y, 0, j, part);
            store(h + j, load(o + j, part) * y, part);
        });
    }

    static void back(const Context<T>& k, Rows<T>& rows) {
        const Spec& spec = k.spec;
        const bool inside = spec.peephole == Peephole::inside;
        for (Row<T>* w : rows) back_output(k, *w);
        if (k.staged())
            back_stage(k, rows);
        else if (spec.cell_norm != CellNorm::none)
            cell_norm_back(k, rows);
        if (k.clips_cell(ClipAt::before_norm))
            for (Row<T>* w : rows)
                each_unit(k, [&](int64_t j, auto part) {
                    const Vec<T> d = cell_gradient(k, *w, j, part);
                    store(w->direct + j,
                          within_bound<T>(load(w->whole + j, part), d, k.clips.cell), part);
                    store(w->dy + j, Vec<T>{}, part);
                });
        for (Row<T>* w : rows) {
            if (spec.coupled())
                back_gates<Input::coupled>(k, *w);
            else if (spec.capped)
                back_gates<Input::capped>(k, *w);
            else
                back_gates<Input::own>(k, *w);
        }
        if (spec.peephole == Peephole::after)
            for (Row<T>* w : rows) back_peepholes(k, *w);
        sum_norm_back(k, rows, 0, k.gates() - inside);
        if (inside)
            for (Row<T>* w : rows) back_peepholes(k, *w);
        if (k.clips_cell(ClipAt::incoming))
            for (Row<T>* w : rows)
                each_unit(k, [&](int64_t j, auto part) {
                    store(w->dc + j,
                          within_bound<T>(load(w->held_c + j, part), load(w->dc + j, part),
                                          k.clips.cell),
                          part);
                });
    }

private:
    static bool carries_norm(const Spec& spec) {
        return spec.cell_norm == CellNorm::carry || spec.cell_norm == CellNorm::carry_only;
    }
    static bool shows_norm(const Spec& spec) {
        return spec.cell_norm == CellNorm::carry || spec.cell_norm == CellNorm::output;
    }

    // the argument of the cell's norm
    static const T* normed(const Spec& spec, const Row<T>& w) {
        return spec.cell_norm == CellNorm::after_tanh ? w.shown : w.cell;
    }

    static void cell_statistics(const Context<T>& k, Rows<T>& rows) {
        statistics<T>(k.spec, k.epsilon, k.share, rows.n,
                      measured(k.c, rows, 0, 1,
                               [&](const Row<T>& w) { return normed(k.spec, w); },
                               &Row<T>::at_c));
    }

    // from Row::dy, the gradient of the normed cell, to that of its argument, in the same place
    static void cell_norm_back(const Context<T>& k, Rows<T>& rows) {
        norm_back<T>(k.spec, k.H, k.share, rows.n, returned(k.c, 0, 1, [&](int i) {
                         Row<T>& w = *rows.at[i];
                         return NormBack<T>{&w.at_c, normed(k.spec, w), {w.dy}, w.dy};
                     }));
        if (k.clip > 0)
            for (Row<T>* w : rows) bound(w->dy, k.share.first, k.share.last, k.clip);
    }

    // psi of the cell that the output sees
    template <class P>
    static Vec<T> shown(const Context<T>& k, const Row<T>& w, bool staged, int64_t j, P part) {
        if (staged || k.spec.cell_norm == CellNorm::after_tanh) return load(w.shown + j, part);
        Vec<T> v = load(w.cell + j, part);
        if (shows_norm(k.spec)) v = affine(k.c, w.at_c, v, 0, j, part);
        return F::template psi<T>(k.spec, v);
    }

    // the peepholes of i and f, to rows of gates
    static void add_peepholes(const Context<T>& k, const Row<T>& w, T* gates) {
        const int first = k.spec.coupled() ? 1 : 0;  // of i and f
        for (int g = first; g < 2; ++g)
            add_peephole(k, k.peephole[g], w.from.c, gates + (g - first) * k.H);
    }

    static void add_peephole(const Context<T>& k, const T* weight, const T* cell, T* gate) {
        each_unit(k, [&](int64_t j, auto part) {
            store(gate + j, load(gate + j, part) + load(weight + j, part) * load(cell + j, part),
                  part);
        });
    }

    // gates of which more than the parts x and h is to be known, by way of Row::p
    static void activate_from_rows(const Context<T>& k, Rows<T>& rows) {
        const Spec& spec = k.spec;
        const bool waits = spec.peephole != Peephole::none && !spec.peephole_in_cell;
        auto activate = [&]<Input input>(Row<T>& w) {
            if (waits)
                activate_gates<Parts::summed, input, true>(k, w);
            else
                activate_gates<Parts::summed, input>(k, w);
        };
        with_parts(k, [&]<Parts parts>() {
            for (Row<T>* w : rows) {
                if constexpr (parts != Parts::summed)
                    for (int g = 0; g < k.gates(); ++g)
                        each_unit(k, [&](int64_t j, auto part) {
                            store(w->p + g * k.H + j, preactivation<parts>(k, *w, g, j, part), part);
                        });
                if (spec.peephole == Peephole::after) add_peepholes(k, *w, w->p);
                if (spec.coupled())
                    activate.template operator()<Input::coupled>(*w);
                else if (spec.capped)
                    activate.template operator()<Input::capped>(*w);
                else
                    activate.template operator()<Input::own>(*w);
            }
        });
    }

    // `waits`: o sees the new cell
    template <Parts parts, Input from, bool waits = false>
    static void activate_gates(const Context<T>& k, Row<T>& w) {
        constexpr bool coupled = from == Input::coupled;
        constexpr int at_f = coupled ? 0 : 1;
        const int64_t H = k.H;
        T *i = w.p, *f = w.p + at_f * H, *g = f + H, *o = g + H;
        each_unit(k, [&](int64_t j, auto part) {
            const Vec<T> forget = F::template sigma<T>(
                k.spec, preactivation<parts>(k, w, at_f, j, part));
            Vec<T> input = T(1) - forget;
            if constexpr (!coupled) {
                const Vec<T> own =
                    F::template sigma<T>(k.spec, preactivation<parts>(k, w, 0, j, part));
                store(i + j, own, part);
                if constexpr (from == Input::capped)
                    input = own > input ? input : own;
                else
                    input = own;
            }
            const Vec<T> candidate = F::template phi<T>(
                k.spec, preactivation<parts>(k, w, at_f + 1, j, part));
            if constexpr (!waits)
                store(o + j,
                      F::template sigma<T>(k.spec,
                                           preactivation<parts>(k, w, at_f + 2, j, part)),
                      part);
            store(f + j, forget, part);
            store(g + j, candidate, part);
            const Vec<T> used = candidate * factor<T>(w.from.candidate, j, part);
            store(w.cell + j, forget * load(w.from.c + j, part) + input * used, part);
        });
    }

    // from Row::cell to what is carried and shown, and the output gate if it waits for that
    static void stage(const Context<T>& k, Rows<T>& rows) {
        const Spec& spec = k.spec;
        const CellNorm mode = spec.cell_norm;
        const bool carries = carries_norm(spec), shows = shows_norm(spec);
        const bool norms = mode != CellNorm::none && mode != CellNorm::after_tanh;
        const bool both = k.clips_cell(ClipAt::after_norm), one = k.clips_cell(ClipAt::carried);
        const bool peeps = spec.peephole != Peephole::none;
        const T* weight = peeps ? k.peephole[2] : nullptr;
        if (norms) cell_statistics(k, rows);
        for (Row<T>* w : rows)
            each_unit(k, [&](int64_t j, auto part) {
                const Vec<T> cell = load(w->cell + j, part);
                const Vec<T> normed = norms ? affine(k.c, w->at_c, cell, 0, j, part) : cell;
                Vec<T> carried = carries ? normed : cell, seen = shows ? normed : cell;
                if (both || one) carried = clamped<T>(carried, k.clips.cell);
                if (both) seen = carried;
                if (spec.peephole_in_cell) seen += load(weight + j, part) * carried;
                store(w->carried + j, carried, part);
                store(w->shown + j, F::template psi<T>(spec, seen), part);
            });
        if (mode == CellNorm::after_tanh) cell_statistics(k, rows);
        if (!peeps || spec.peephole_in_cell) return;
        const int at_o = k.gates() - 1;
        for (Row<T>* w : rows) {
            const bool inside = spec.peephole == Peephole::inside;
            T* gate = (inside ? w->raw : w->p) + at_o * k.H;
            if (inside)
                each_unit(k, [&](int64_t j, auto part) {
                    store(gate + j, preactivation<Parts::normed>(k, *w, at_o, j, part), part);
                });
            add_peephole(k, weight, w->carried, gate);
        }
        if (spec.peephole == Peephole::inside) sum_norm(k, rows, at_o, at_o + 1);
        for (Row<T>* w : rows)
            each_unit(k, [&](int64_t j, auto part) {
                T* o = w->p + at_o * k.H + j;
                store(o, F::template sigma<T>(spec, load(o, part)), part);
            });
    }

    // the gradients of o, and of the cell: through its norm (dy) and beside it; of a staged cell
    // that of psi's argument, or of what is normed behind psi (dy)
    static void back_output(const Context<T>& k, Row<T>& w) {
        const int64_t oo = (k.spec.gates - 1) * k.H;
        const CellNorm mode = k.spec.cell_norm;
        const bool staged = k.staged();
        each_unit(k, [&](int64_t j, auto part) {
            const Vec<T> d = load(w.dh + j, part), carried = load(w.dc + j, part);
            const Vec<T> o = load(w.p + oo + j, part), y = shown(k, w, staged, j, part);
            Vec<T> seen = y, through = d * o, beside = carried;
            if (mode == CellNorm::after_tanh) {
                seen = affine(k.c, w.at_c, y, 0, j, part);
            } else {
                through = through * F::template psi_slope<T>(k.spec, y);
                if (!staged) divide(mode, through, beside);
            }
            store(w.d + oo + j, d * seen * F::template sigma_slope<T>(k.spec, o), part);
            store(w.dy + j, through, part);
            store(w.direct + j, beside, part);
        });
        clear(k, w.dh);
    }

    // from the gradients of the cell that is shown and of that which is carried, to that which comes
    // through the cell's norm and that beside it
    static void divide(CellNorm mode, Vec<T>& through, Vec<T>& beside) {
        const Vec<T> shown = through, carried = beside;
        switch (mode) {
            case CellNorm::none: beside = shown + carried; break;
            case CellNorm::carry: through = shown + carried, beside = Vec<T>{}; break;
            case CellNorm::carry_only: through = carried, beside = shown; break;
            default: break;
        }
    }

    // what `stage` did, back
    static void back_stage(const Context<T>& k, Rows<T>& rows) {
        const Spec& spec = k.spec;
        const CellNorm mode = spec.cell_norm;
        const bool carries = carries_norm(spec), peeps = spec.peephole != Peephole::none;
        const bool both = k.clips_cell(ClipAt::after_norm), one = k.clips_cell(ClipAt::carried);
        const int at_o = k.gates() - 1;
        if (mode == CellNorm::after_tanh) {
            cell_norm_back(k, rows);
            for (Row<T>* w : rows)
                each_unit(k, [&](int64_t j, auto part) {
                    const Vec<T> slope = F::template psi_slope<T>(spec, load(w->shown + j, part));
                    store(w->dy + j, load(w->dy + j, part) * slope, part);
                });
        }
        if (spec.peephole == Peephole::inside) sum_norm_back(k, rows, at_o, at_o + 1);
        for (Row<T>* w : rows) {
            if (peeps)
                back_peephole(k, 2, spec.peephole_in_cell ? w->dy : w->d + at_o * k.H, w->carried,
                              w->direct);
            each_unit(k, [&](int64_t j, auto part) {
                Vec<T> through = load(w->dy + j, part), beside = load(w->direct + j, part);
                Vec<T> bounded = load(w->cell + j, part);
                if (carries) bounded = affine(k.c, w->at_c, bounded, 0, j, part);
                if (one) beside = within_bound<T>(bounded, beside, k.clips.cell);
                // psi stands between the norm of `after_tanh` and the cell
                divide(mode == CellNorm::after_tanh ? CellNorm::none : mode, through, beside);
                if (both) through = within_bound<T>(bounded, through, k.clips.cell);
                store(w->dy + j, mode == CellNorm::after_tanh ? Vec<T>{} : through, part);
                store(w->direct + j, beside, part);
            });
        }
        if (mode != CellNorm::none && mode != CellNorm::after_tanh) cell_norm_back(k, rows);
    }

    // the peepholes of i and f, from the gradients of their gates to that of the old c
    static void back_peepholes(const Context<T>& k, Row<T>& w) {
        const int first = k.spec.coupled() ? 1 : 0;
        for (int g = first; g < 2; ++g)
            back_peephole(k, g, w.d + (g - first) * k.H, w.from.c, w.dc);
    }

    // from the gradient d of a gate: to the weight of its peephole, and added to that of the cell
    static void back_peephole(const Context<T>& k, int which, const T* d, const T* cell, T* dcell) {
        const T* weight = k.peephole[which];
        T* sums = k.dpeephole[which];
        each_unit(k, [&](int64_t j, auto part) {
            Vec<T> v = load(d + j, part);
            if (k.clip > 0) v = clamped<T>(v, k.clip);
            store(sums + j, load(sums + j, part) + v * load(cell + j, part), part);
            store(dcell + j, load(dcell + j, part) + v * load(weight + j, part), part);
        });
    }

    // the gradient of f c + i g
    template <class P>
    static Vec<T> cell_gradient(const Context<T>& k, const Row<T>& w, int64_t j, P part) {
        const CellNorm mode = k.spec.cell_norm;
        Vec<T> d = load(w.direct + j, part);
        if (mode == CellNorm::after_tanh)
            d += load(w.dy + j, part) *
                 F::template psi_slope<T>(k.spec, load(w.shown + j, part));
        else if (mode != CellNorm::none)
            d += load(w.dy + j, part);
        return d;
    }

    template <Input from>
    static void back_gates(const Context<T>& k, Row<T>& w) {
        constexpr bool coupled = from == Input::coupled;
        const int64_t H = k.H, of = coupled ? 0 : H, og = of + H;
        each_unit(k, [&](int64_t j, auto part) {
            const Vec<T> du = cell_gradient(k, w, j, part);
            const Vec<T> f = load(w.p + of + j, part), g = load(w.p + og + j, part);
            const Vec<T> mask = factor<T>(w.from.candidate, j, part);
            Vec<T> df = du * load(w.from.c + j, part), i = T(1) - f;
            Vec<T> di = du * g * mask;
            if constexpr (coupled) {
                df -= di;
            } else {
                const Vec<T> own = load(w.p + j, part);
                if constexpr (from == Input::capped) {
                    const auto over = own > i;
                    i = over ? i : own;
                    df -= over ? di : Vec<T>{};
                    di = over ? Vec<T>{} : di;
                } else {
                    i = own;
                }
                store(w.d + j, di * F::template sigma_slope<T>(k.spec, own), part);
            }
            store(w.d + of + j, df * F::template sigma_slope<T>(k.spec, f), part);
            store(w.d + og + j, du * i * mask * F::template phi_slope<T>(k.spec, g), part);
            store(w.dc + j, du * f, part);
        });
    }
};

// h' = z h + (1 - z) n, with n as `reset` says.  z and n are the last gates; r is the first, which
// of a coupled cell is z itself.
template <class T, bool standard>
struct Gru {
    using F = Functions<standard>;
    static constexpr bool has_c = false, may_gate = true;

    static void gates(const Context<T>& k, Rows<T>& rows) {
        prepare(k, rows, 0, k.gates());
        early(k, rows);
        late(k, rows);
    }

    // r and z
    static void early(const Context<T>& k, Rows<T>& rows) {
        with_parts(k, [&]<Parts parts>() {
            for (Row<T>* w : rows)
                for (int g = 0; g < k.gates() - 1; ++g)
                    each_unit(k, [&](int64_t j, auto part) {
                        const Vec<T> v = preactivation<parts>(k, *w, g, j, part);
                        store(w->p + g * k.H + j, F::template sigma<T>(k.spec, v), part);
                    });
        });
    }

    // n
    static void late(const Context<T>& k, Rows<T>& rows) {
        const Reset reset = k.spec.reset;
        const int gate = k.gates() - 1;
        const int64_t at_n = gate * k.H;
        with_parts(k, [&]<Parts parts>() {
            for (Row<T>* w : rows)
                each_unit(k, [&](int64_t j, auto part) {
                    constexpr Parts own = parts == Parts::plain ? Parts::plain : Parts::normed;
                    const int64_t i = at_n + j;
                    Vec<T> v;
                    if (reset == Reset::before || reset == Reset::none) {
                        v = preactivation<parts>(k, *w, gate, j, part);
                    } else if (reset == Reset::whole) {
                        const Vec<T> whole = preactivation<parts>(k, *w, gate, j, part);
                        store(w->hn + j, whole, part);  // what r multiplies
                        v = whole * load(w->p + j, part);
                    } else {
                        const Vec<T> h =
                            part_h<own>(k, *w, gate, i, part) + load(k.shift_h + i, part);
                        store(w->hn + j, h, part);
                        v = part_x<own>(k, *w, gate, i, part) + load(k.shift + i, part) +
                            load(w->p + j, part) * h;
                    }
                    if (reset == Reset::inside && k.sum.gain)
                        store(w->raw + i, v, part);
                    else
                        store(w->p + i, F::template phi<T>(k.spec, v), part);
                });
        });
        if (reset != Reset::inside || !k.sum.gain) return;
        sum_norm(k, rows, gate, gate + 1);
        for (Row<T>* w : rows)
            each_unit(k, [&](int64_t j, auto part) {
                T* n = w->p + at_n + j;
                store(n, F::template phi<T>(k.spec, load(n, part)), part);
            });
    }

    static void emit(const Context<T>& k, const Row<T>& w, T* h, T*) {
        each_unit(k, [&](int64_t j, auto part) { store(h + j, updated(k, w, j, part), part); });
        if (k.clips.cell > 0) bound(h, k.share.first, k.share.last, k.clips.cell);
    }

    static void back(const Context<T>& k, Rows<T>& rows) {
        back_late(k, rows);
        const int64_t H = k.H;
        const Reset reset = k.spec.reset;
        const bool whole = reset == Reset::whole || reset == Reset::none;
        if (reset != Reset::none)
            for (Row<T>* w : rows) {
                T* dn = w->d + (k.gates() - 1) * H;
                T* dpart = whole ? dn : w->dhn;
                each_unit(k, [&](int64_t j, auto part) {
                    const Vec<T> r = load(w->p + j, part), d = load(dn + j, part);
                    add_reset(k, *w, j, part, d * load(w->hn + j, part));
                    store(dpart + j, d * r, part);
                });
            }
        sum_norm_back(k, rows, 0, k.gates() - !whole);
    }

    // gradients of z, of n before the product with r, and of h straight (in place of dh)
    static void back_late(const Context<T>& k, Rows<T>& rows) {
        const int64_t at_z = (k.gates() - 2) * k.H, at_n = at_z + k.H;
        for (Row<T>* w : rows) {
            const T *z = w->p + at_z, *n = w->p + at_n;
            if (k.clips.cell > 0) back_clip(k, *w);
            each_unit(k, [&](int64_t j, auto part) {
                const Vec<T> d = load(w->dh + j, part), share = load(z + j, part);
                const Vec<T> value = load(n + j, part);
                const Vec<T> mask = factor<T>(w->from.candidate, j, part);
                const Vec<T> kept = k.spec.keep ? share : T(1) - share;
                Vec<T> dkept = d * (load(w->from.h + j, part) - value * mask);
                if (!k.spec.keep) dkept = -dkept;
                store(w->d + at_z + j, dkept * F::template sigma_slope<T>(k.spec, share), part);
                store(w->d + at_n + j,
                      d * (T(1) - kept) * mask * F::template phi_slope<T>(k.spec, value), part);
                store(w->dh + j, d * kept, part);
            });
        }
        if (k.spec.reset == Reset::inside || k.spec.reset == Reset::before)
            sum_norm_back(k, rows, k.gates() - 1, k.gates());
    }

    // of two products: r's gradient from that of q = r h, which also goes to h; rows of h are `pitch`
    // apart
    template <class O>
    static void back_early(const Context<T>& k, Rows<T>& rows, const O* h, int64_t pitch,
                           const T* dq, T* dh) {
        for (Row<T>* w : rows) {
            const int64_t at = w->index * k.H;
            const O* entered = h + w->index * pitch;
            each_unit(k, [&](int64_t j, auto part) {
                const Vec<T> r = load(w->p + j, part), d = load(dq + at + j, part);
                add_reset(k, *w, j, part, d * load(entered + j, part));
                store(dh + at + j, d * r, part);
            });
        }
        sum_norm_back(k, rows, 0, k.gates() - 1);
    }

private:
    // z h + (1 - z) n at column j
    template <class P>
    static Vec<T> updated(const Context<T>& k, const Row<T>& w, int64_t j, P part) {
        const T *z = w.p + (k.gates() - 2) * k.H, *n = z + k.H;
        const Vec<T> old = load(w.from.h + j, part), share = load(z + j, part);
        const Vec<T> used = load(n + j, part) * factor<T>(w.from.candidate, j, part);
        return k.spec.keep ? used + share * (old - used) : old + share * (used - old);
    }

    // the gradient of r at column j, which may be z as well
    template <class P>
    static void add_reset(const Context<T>& k, const Row<T>& w, int64_t j, P part, Vec<T> dr) {
        dr *= F::template sigma_slope<T>(k.spec, load(w.p + j, part));
        if (k.spec.coupled()) dr += load(w.d + j, part);
        store(w.d + j, dr, part);
    }

    // the gradient of the new h within its bound
    static void back_clip(const Context<T>& k, const Row<T>& w) {
        each_unit(k, [&](int64_t j, auto part) {
            const Vec<T> v = updated(k, w, j, part), d = load(w.dh + j, part);
            store(w.dh + j, within_bound<T>(v, d, k.clips.cell), part);
        });
    }
};

// Call f with the type of the cell that a spec describes.
template <class T, class F>
inline auto with_cell(const Spec& spec, F f) {
    const bool standard = spec.phi == Activation::tanh &&
                          (spec.is(Cell::simple) || spec.sigma == Activation::sigmoid) &&
                          (!spec.is(Cell::lstm) || spec.psi == Activation::tanh);
    switch (spec.cell) {
        case Cell::simple:
            return standard ? f.template operator()<Simple<T, true>>()
                            : f.template operator()<Simple<T, false>>();
        case Cell::lstm:
            return standard ? f.template operator()<Lstm<T, true>>()
                            : f.template operator()<Lstm<T, false>>();
        default:
            return standard ? f.template operator()<Gru<T, true>>()
                            : f.template operator()<Gru<T, false>>();
    }
}

}  // namespace lnrnn::LNRNN_ISA
