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
    int64_t H;
    Share<T>& share;
    Site<T> x, h, sum, c;
    // gains (or ones) at x and h, what is added to the sum of both parts, and to h alone where r
    // multiplies it: (G H) each, so that the loops over columns need not ask what is there
    T *gain_x, *gain_h, *shift, *shift_h;

    int gates() const { return int(spec.gates); }
    bool normed() const { return x.gain || h.gain; }
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
    T *dh, *dc;      // (H) gradients of the new states, then of the old ones
    T* ds;           // (G H) gradient of h U

    T* p;       // (G H) pre-activations, then the activated gates
    T* raw;     // (G H) the argument of a sum norm
    T* d;       // (G H) gradients of the pre-activations
    T* hn;      // (H) the recurrent part of n where r multiplies it
    T* dhn;     // (H) its gradient
    T* cell;    // (H) the new c before its norm
    T* shown;   // (H) psi of the cell, where the cell's norm comes after it
    T* dy;      // (H) gradient of the normed cell
    T* direct;  // (H) gradient of c beside the norm
    T *rest_h, *rest_c;  // (H) gradients that pass zoneout straight to the old states
    Statistics<T> at_x, at_h, at_sum, at_c;

    static int64_t size(int64_t G, int64_t H) { return (3 * G + 8) * H; }

    Row(T* memory, int64_t G, int64_t H) {
        p = memory, raw = p + G * H, d = raw + G * H, hn = d + G * H;
        dhn = hn + H, cell = dhn + H, shown = cell + H, dy = shown + H, direct = dy + H;
        rest_h = direct + H, rest_c = rest_h + H;
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
        Vec<T> v = load(d + j, part);
        v = v > limit ? splat<T>(limit) : v;
        store(d + j, v < -limit ? splat<T>(-limit) : v, part);
    });
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
// that too.
template <class T>
inline void prepare(const Context<T>& k, Rows<T>& rows, int from, int to) {
    statistics<T>(k.spec, k.epsilon, k.share, rows.n,
                  measured(k.x, rows, 0, from == 0 ? k.gates() : 0,
                           [](const Row<T>& w) { return w.x; }, &Row<T>::at_x),
                  measured(k.h, rows, from, to, [](const Row<T>& w) { return w.s; },
                           &Row<T>::at_h));
    if (!k.sum.gain) return;
    while (to > from && k.spec.apart(to - 1)) --to;
    for (Row<T>* w : rows)
        for (int g = from; g < to; ++g)
            each_unit(k, [&](int64_t j, auto part) {
                store(w->raw + g * k.H + j, preactivation<Parts::normed>(k, *w, g, j, part), part);
            });
    sum_norm(k, rows, from, to);
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

// c' = f c + i g, h' = o psi(c'), with the cell norm between as `cell_norm` says.
template <class T, bool standard>
struct Lstm {
    using F = Functions<standard>;
    static constexpr bool has_c = true, may_gate = false;

    static void gates(const Context<T>& k, Rows<T>& rows) {
        prepare(k, rows, 0, k.gates());
        with_parts(k, [&]<Parts parts>() {
            for (Row<T>* w : rows) {
                if (k.spec.coupled())
                    activate_gates<parts, true>(k, *w);
                else
                    activate_gates<parts, false>(k, *w);
            }
        });
        const CellNorm mode = k.spec.cell_norm;
        if (mode == CellNorm::after_tanh)
            for (Row<T>* w : rows)
                each_unit(k, [&](int64_t j, auto part) {
                    store(w->shown + j, F::template psi<T>(k.spec, load(w->cell + j, part)), part);
                });
        if (mode != CellNorm::none)
            statistics<T>(k.spec, k.epsilon, k.share, rows.n,
                          measured(k.c, rows, 0, 1,
                                   [&](const Row<T>& w) { return normed(k.spec, w); },
                                   &Row<T>::at_c));
    }

    static void emit(const Context<T>& k, const Row<T>& w, T* h, T* c) {
        const CellNorm mode = k.spec.cell_norm;
        const bool carried = mode == CellNorm::carry || mode == CellNorm::carry_only;
        const T* o = w.p + (k.spec.gates - 1) * k.H;
        each_unit(k, [&](int64_t j, auto part) {
            const Vec<T> cell = load(w.cell + j, part);
            store(c + j, carried ? affine(k.c, w.at_c, cell, 0, j, part) : cell, part);
            Vec<T> y = shown(k, w, j, part);
            if (mode == CellNorm::after_tanh) y = affine(k.c, w.at_c, y, 0, j, part);
            store(h + j, load(o + j, part) * y, part);
        });
    }

    static void back(const Context<T>& k, Rows<T>& rows) {
        for (Row<T>* w : rows) back_output(k, *w);
        if (k.spec.cell_norm != CellNorm::none) {
            norm_back<T>(k.spec, k.H, k.share, rows.n, returned(k.c, 0, 1, [&](int i) {
                             Row<T>& w = *rows.at[i];
                             return NormBack<T>{&w.at_c, normed(k.spec, w), {w.dy}, w.dy};
                         }));
            if (k.clip > 0)
                for (Row<T>* w : rows) bound(w->dy, k.share.first, k.share.last, k.clip);
        }
        for (Row<T>* w : rows) {
            if (k.spec.coupled())
                back_gates<true>(k, *w);
            else
                back_gates<false>(k, *w);
        }
        sum_norm_back(k, rows, 0, k.gates());
    }

private:
    // the argument of the cell's norm
    static const T* normed(const Spec& spec, const Row<T>& w) {
        return spec.cell_norm == CellNorm::after_tanh ? w.shown : w.cell;
    }

    // psi of the cell that the output sees
    template <class P>
    static Vec<T> shown(const Context<T>& k, const Row<T>& w, int64_t j, P part) {
        const CellNorm mode = k.spec.cell_norm;
        if (mode == CellNorm::after_tanh) return load(w.shown + j, part);
        Vec<T> v = load(w.cell + j, part);
        if (mode == CellNorm::output || mode == CellNorm::carry)
            v = affine(k.c, w.at_c, v, 0, j, part);
        return F::template psi<T>(k.spec, v);
    }

    template <Parts parts, bool coupled>
    static void activate_gates(const Context<T>& k, Row<T>& w) {
        constexpr int at_f = coupled ? 0 : 1;
        const int64_t H = k.H;
        T *i = w.p, *f = w.p + at_f * H, *g = f + H, *o = g + H;
        each_unit(k, [&](int64_t j, auto part) {
            const Vec<T> forget = F::template sigma<T>(
                k.spec, preactivation<parts>(k, w, at_f, j, part));
            Vec<T> input = T(1) - forget;
            if constexpr (!coupled) {
                input = F::template sigma<T>(k.spec, preactivation<parts>(k, w, 0, j, part));
                store(i + j, input, part);
            }
            const Vec<T> candidate = F::template phi<T>(
                k.spec, preactivation<parts>(k, w, at_f + 1, j, part));
            const Vec<T> output = F::template sigma<T>(
                k.spec, preactivation<parts>(k, w, at_f + 2, j, part));
            store(f + j, forget, part);
            store(g + j, candidate, part);
            store(o + j, output, part);
            const Vec<T> used = candidate * factor<T>(w.from.candidate, j, part);
            store(w.cell + j, forget * load(w.from.c + j, part) + input * used, part);
        });
    }

    // the gradients of o, and of the cell: through its norm (dy) and beside it
    static void back_output(const Context<T>& k, Row<T>& w) {
        const int64_t oo = (k.spec.gates - 1) * k.H;
        const CellNorm mode = k.spec.cell_norm;
        each_unit(k, [&](int64_t j, auto part) {
            const Vec<T> d = load(w.dh + j, part), carried = load(w.dc + j, part);
            const Vec<T> o = load(w.p + oo + j, part), y = shown(k, w, j, part);
            Vec<T> seen = y, through = d * o, beside = carried;
            if (mode == CellNorm::after_tanh) {
                seen = affine(k.c, w.at_c, y, 0, j, part);
            } else {
                const Vec<T> inner = through * F::template psi_slope<T>(k.spec, y);
                switch (mode) {
                    case CellNorm::none: beside = inner + carried; break;
                    case CellNorm::carry: through = inner + carried, beside = Vec<T>{}; break;
                    case CellNorm::carry_only: through = carried, beside = inner; break;
                    default: through = inner;
                }
            }
            store(w.d + oo + j, d * seen * F::template sigma_slope<T>(k.spec, o), part);
            store(w.dy + j, through, part);
            store(w.direct + j, beside, part);
        });
        clear(k, w.dh);
    }

    template <bool coupled>
    static void back_gates(const Context<T>& k, Row<T>& w) {
        const int64_t H = k.H, of = coupled ? 0 : H, og = of + H;
        const CellNorm mode = k.spec.cell_norm;
        each_unit(k, [&](int64_t j, auto part) {
            Vec<T> du = load(w.direct + j, part);
            if (mode == CellNorm::after_tanh)
                du += load(w.dy + j, part) *
                      F::template psi_slope<T>(k.spec, load(w.shown + j, part));
            else if (mode != CellNorm::none)
                du += load(w.dy + j, part);
            const Vec<T> f = load(w.p + of + j, part), g = load(w.p + og + j, part);
            const Vec<T> mask = factor<T>(w.from.candidate, j, part);
            Vec<T> df = du * load(w.from.c + j, part), i = T(1) - f;
            const Vec<T> di = du * g * mask;
            if constexpr (coupled) {
                df -= di;
            } else {
                i = load(w.p + j, part);
                store(w.d + j, di * F::template sigma_slope<T>(k.spec, i), part);
            }
            store(w.d + of + j, df * F::template sigma_slope<T>(k.spec, f), part);
            store(w.d + og + j, du * i * mask * F::template phi_slope<T>(k.spec, g), part);
            store(w.dc + j, du * f, part);
        });
    }
};

// h' = z h + (1 - z) n, with n as `reset` says.
template <class T, bool standard>
struct Gru {
    using F = Functions<standard>;
    static constexpr bool has_c = false, may_gate = true;

    static void gates(const Context<T>& k, Rows<T>& rows) {
        prepare(k, rows, 0, 3);
        early(k, rows);
        late(k, rows);
    }

    // r and z
    static void early(const Context<T>& k, Rows<T>& rows) {
        with_parts(k, [&]<Parts parts>() {
            for (Row<T>* w : rows)
                for (int g = 0; g < 2; ++g)
                    each_unit(k, [&](int64_t j, auto part) {
                        const Vec<T> v = preactivation<parts>(k, *w, g, j, part);
                        store(w->p + g * k.H + j, F::template sigma<T>(k.spec, v), part);
                    });
        });
    }

    // n
    static void late(const Context<T>& k, Rows<T>& rows) {
        const Reset reset = k.spec.reset;
        const int64_t at_n = 2 * k.H;
        with_parts(k, [&]<Parts parts>() {
            for (Row<T>* w : rows)
                each_unit(k, [&](int64_t j, auto part) {
                    constexpr Parts own = parts == Parts::plain ? Parts::plain : Parts::normed;
                    const int64_t i = at_n + j;
                    Vec<T> v;
                    if (reset == Reset::before) {
                        v = preactivation<parts>(k, *w, 2, j, part);
                    } else if (reset == Reset::whole) {
                        const Vec<T> whole = preactivation<parts>(k, *w, 2, j, part);
                        store(w->hn + j, whole, part);  // what r multiplies
                        v = whole * load(w->p + j, part);
                    } else {
                        const Vec<T> h =
                            part_h<own>(k, *w, 2, i, part) + load(k.shift_h + i, part);
                        store(w->hn + j, h, part);
                        v = part_x<own>(k, *w, 2, i, part) + load(k.shift + i, part) +
                            load(w->p + j, part) * h;
                    }
                    if (reset == Reset::inside && k.sum.gain)
                        store(w->raw + i, v, part);
                    else
                        store(w->p + i, F::template phi<T>(k.spec, v), part);
                });
        });
        if (reset != Reset::inside || !k.sum.gain) return;
        sum_norm(k, rows, 2, 3);
        for (Row<T>* w : rows)
            each_unit(k, [&](int64_t j, auto part) {
                T* n = w->p + at_n + j;
                store(n, F::template phi<T>(k.spec, load(n, part)), part);
            });
    }

    static void emit(const Context<T>& k, const Row<T>& w, T* h, T*) {
        const T *z = w.p + k.H, *n = w.p + 2 * k.H;
        each_unit(k, [&](int64_t j, auto part) {
            const Vec<T> old = load(w.from.h + j, part), share = load(z + j, part);
            const Vec<T> used = load(n + j, part) * factor<T>(w.from.candidate, j, part);
            store(h + j, k.spec.keep ? used + share * (old - used) : old + share * (used - old),
                  part);
        });
    }

    static void back(const Context<T>& k, Rows<T>& rows) {
        back_late(k, rows);
        const int64_t H = k.H;
        const bool whole = k.spec.reset == Reset::whole;
        for (Row<T>* w : rows) {
            T* dn = w->d + 2 * H;
            T* dpart = whole ? dn : w->dhn;
            each_unit(k, [&](int64_t j, auto part) {
                const Vec<T> r = load(w->p + j, part), d = load(dn + j, part);
                store(w->d + j,
                      d * load(w->hn + j, part) * F::template sigma_slope<T>(k.spec, r), part);
                store(dpart + j, d * r, part);
            });
        }
        sum_norm_back(k, rows, 0, whole ? 3 : 2);
    }

    // gradients of z, of n before the product with r, and of h straight (in place of dh)
    static void back_late(const Context<T>& k, Rows<T>& rows) {
        const int64_t H = k.H;
        for (Row<T>* w : rows) {
            const T *z = w->p + H, *n = w->p + 2 * H;
            each_unit(k, [&](int64_t j, auto part) {
                const Vec<T> d = load(w->dh + j, part), share = load(z + j, part);
                const Vec<T> value = load(n + j, part);
                const Vec<T> mask = factor<T>(w->from.candidate, j, part);
                const Vec<T> kept = k.spec.keep ? share : T(1) - share;
                Vec<T> dkept = d * (load(w->from.h + j, part) - value * mask);
                if (!k.spec.keep) dkept = -dkept;
                store(w->d + H + j, dkept * F::template sigma_slope<T>(k.spec, share), part);
                store(w->d + 2 * H + j,
                      d * (T(1) - kept) * mask * F::template phi_slope<T>(k.spec, value), part);
                store(w->dh + j, d * kept, part);
            });
        }
        if (k.spec.reset == Reset::inside || k.spec.reset == Reset::before)
            sum_norm_back(k, rows, 2, 3);
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
                store(w->d + j,
                      d * load(entered + j, part) * F::template sigma_slope<T>(k.spec, r), part);
                store(dh + at + j, d * r, part);
            });
        }
        sum_norm_back(k, rows, 0, 2);
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
