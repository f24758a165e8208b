// The cells: one row at one step, forward and backward.
//
// A backward pass computes the forward values of a row again from x W and h U, which is cheaper
// than to write and read them: the row is in the first-level cache.  So `gates` fills a `Row`, and
// then either `emit` gives the new states or `back` the gradients.
#pragma once

#include "norm.h"

namespace lnrnn::LNRNN_ISA {

// A cell with the weights of its norms.
template <class T>
struct Context {
    const Spec& spec;
    double epsilon;
    int64_t H;
    Site<T> x, h, sum, c;

    int gates() const { return int(spec.gates); }
};

// What is known of one row: the forward values that a backward pass needs, and its gradients.
template <class T>
struct Row {
    T* p;       // (G H) pre-activations, then the activated gates
    T* raw;     // (G H) the argument of a sum norm
    T* d;       // (G H) gradients of the pre-activations
    T* hn;      // (H) the recurrent part of n where r multiplies it
    T* dhn;     // (H) its gradient
    T* cell;    // (H) the new c before its norm
    T* shown;   // (H) psi of the cell that the output sees
    T* dy;      // (H) gradient of the normed cell
    T* direct;  // (H) gradient of c beside the norm
    Statistics<T> at_x, at_h, at_sum, at_c;

    static int64_t size(int64_t G, int64_t H) { return (3 * G + 6) * H; }

    Row(T* memory, int64_t G, int64_t H) {
        p = memory, raw = p + G * H, d = raw + G * H, hn = d + G * H;
        dhn = hn + H, cell = dhn + H, shown = cell + H, dy = shown + H, direct = dy + H;
    }
};

// The states that a row starts from, and the factor on its candidate (or null).
template <class T>
struct Before {
    const T *h, *c, *candidate;
};

// The norm of the summed pre-activations of the gates [from, to), in place.
template <class T>
inline void sum_norm(const Context<T>& k, Row<T>& w, int from, int to) {
    if (!k.sum.gain || from == to) return;
    const int64_t H = k.H;
    memcpy(w.raw + from * H, w.p + from * H, (to - from) * H * sizeof(T));
    const Statistics<T> st = statistics<T>(k.spec, k.epsilon, k.sum.groups, w.raw, H, from, to);
    for (int g = from; g < to; ++g) {
        w.at_sum.mean[g] = st.mean[g], w.at_sum.scale[g] = st.scale[g];
        w.at_sum.ratio[g] = st.ratio[g];
        each<T>(H, [&](int64_t j, auto part) {
            const int64_t i = g * H + j;
            store(w.p + i, affine(k.sum, w.at_sum, load(w.raw + i, part), g, i, part), part);
        });
    }
}

// Pre-activations of the gates [from, to) from x W and h U.
template <class T>
inline void preactivate(const Context<T>& k, const T* x, const T* s, Row<T>& w, int from, int to) {
    const int64_t H = k.H;
    if (k.h.gain) {
        const Statistics<T> st = statistics<T>(k.spec, k.epsilon, k.h.groups, s, H, from, to);
        for (int g = from; g < to; ++g)
            w.at_h.mean[g] = st.mean[g], w.at_h.scale[g] = st.scale[g],
            w.at_h.ratio[g] = st.ratio[g];
    }
    int joined = to;
    for (int g = from; g < to; ++g) {
        if (k.spec.apart(g)) {
            joined = g;
            each<T>(H, [&](int64_t j, auto part) {
                const int64_t i = g * H + j;
                store(w.p + i, affine(k.x, w.at_x, load(x + i, part), g, i, part), part);
                store(w.hn + j, affine(k.h, w.at_h, load(s + i, part), g, i, part), part);
            });
        } else {
            each<T>(H, [&](int64_t j, auto part) {
                const int64_t i = g * H + j;
                store(w.p + i,
                      affine(k.x, w.at_x, load(x + i, part), g, i, part) +
                          affine(k.h, w.at_h, load(s + i, part), g, i, part),
                      part);
            });
        }
    }
    sum_norm(k, w, from, joined);
}

template <class T>
inline void sum_norm_back(const Context<T>& k, Row<T>& w, int from, int to) {
    if (!k.sum.gain || from == to) return;
    const T* dy[max_gates];
    for (int g = from; g < to; ++g) dy[g] = w.d + g * k.H;
    norm_back<T>(k.spec, k.sum, w.at_sum, w.raw, dy, w.d, k.H, from, to);
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

    static void gates(const Context<T>& k, Row<T>& w, const Before<T>&) {
        each<T>(k.H, [&](int64_t j, auto part) {
            store(w.p + j, F::template phi<T>(k.spec, load(w.p + j, part)), part);
        });
    }

    static void emit(const Context<T>& k, Row<T>& w, const Before<T>&, T* h, T*) {
        memcpy(h, w.p, k.H * sizeof(T));
    }

    // dh is overwritten by the part that goes straight to the old h
    static void back(const Context<T>& k, Row<T>& w, const Before<T>&, T* dh, T*) {
        each<T>(k.H, [&](int64_t j, auto part) {
            const Vec<T> d = load(dh + j, part);
            store(w.d + j, d * F::template phi_slope<T>(k.spec, load(w.p + j, part)), part);
            store(dh + j, Vec<T>{}, part);
        });
        sum_norm_back(k, w, 0, 1);
    }
};

// c' = f c + i g, h' = o psi(c'), with the cell norm between as `cell_norm` says.
template <class T, bool standard>
struct Lstm {
    using F = Functions<standard>;
    static constexpr bool has_c = true, may_gate = false;

    static void gates(const Context<T>& k, Row<T>& w, const Before<T>& from) {
        const Spec& spec = k.spec;
        const int64_t H = k.H;
        T* i = w.p;
        T* f = spec.coupled() ? w.p : w.p + H;
        T *g = f + H, *o = g + H;
        each<T>(H, [&](int64_t j, auto part) {
            const Vec<T> forget = F::template sigma<T>(spec, load(f + j, part));
            Vec<T> input;
            if (spec.coupled()) {
                input = T(1) - forget;
            } else {
                input = F::template sigma<T>(spec, load(i + j, part));
                store(i + j, input, part);
            }
            const Vec<T> candidate = F::template phi<T>(spec, load(g + j, part));
            store(f + j, forget, part);
            store(g + j, candidate, part);
            store(o + j, F::template sigma<T>(spec, load(o + j, part)), part);
            const Vec<T> used = candidate * factor<T>(from.candidate, j, part);
            const Vec<T> cell = forget * load(from.c + j, part) + input * used;
            store(w.cell + j, cell, part);
            if (spec.cell_norm == CellNorm::after_tanh)
                store(w.shown + j, F::template psi<T>(spec, cell), part);
        });
        if (spec.cell_norm != CellNorm::none)
            w.at_c = statistics<T>(spec, k.epsilon, k.c.groups, normed(spec, w), H, 0, 1);
        if (spec.cell_norm == CellNorm::after_tanh) return;
        const bool seen =
            spec.cell_norm == CellNorm::output || spec.cell_norm == CellNorm::carry;
        each<T>(H, [&](int64_t j, auto part) {
            Vec<T> v = load(w.cell + j, part);
            if (seen) v = affine(k.c, w.at_c, v, 0, j, part);
            store(w.shown + j, F::template psi<T>(spec, v), part);
        });
    }

    static void emit(const Context<T>& k, Row<T>& w, const Before<T>&, T* h, T* c) {
        const Spec& spec = k.spec;
        const T* o = w.p + (spec.gates - 1) * k.H;
        const bool carried =
            spec.cell_norm == CellNorm::carry || spec.cell_norm == CellNorm::carry_only;
        each<T>(k.H, [&](int64_t j, auto part) {
            Vec<T> cell = load(w.cell + j, part), shown = load(w.shown + j, part);
            if (carried) cell = affine(k.c, w.at_c, cell, 0, j, part);
            if (spec.cell_norm == CellNorm::after_tanh)
                shown = affine(k.c, w.at_c, shown, 0, j, part);
            store(c + j, cell, part);
            store(h + j, load(o + j, part) * shown, part);
        });
    }

    static void back(const Context<T>& k, Row<T>& w, const Before<T>& from, T* dh, T* dc) {
        const Spec& spec = k.spec;
        const int64_t H = k.H;
        const CellNorm mode = spec.cell_norm;
        const int64_t of = spec.coupled() ? 0 : H, og = of + H, oo = og + H;
        // the output, and the gradient of the cell: through its norm (dy) and beside it
        each<T>(H, [&](int64_t j, auto part) {
            const Vec<T> d = load(dh + j, part), carried = load(dc + j, part);
            const Vec<T> o = load(w.p + oo + j, part), y = load(w.shown + j, part);
            Vec<T> seen = y, through = d * o, beside = carried;
            if (mode == CellNorm::after_tanh) {
                seen = affine(k.c, w.at_c, y, 0, j, part);
            } else {
                const Vec<T> inner = through * F::template psi_slope<T>(spec, y);
                switch (mode) {
                    case CellNorm::none: beside = inner + carried; break;
                    case CellNorm::carry: through = inner + carried, beside = Vec<T>{}; break;
                    case CellNorm::carry_only: through = carried, beside = inner; break;
                    default: through = inner;
                }
            }
            store(w.d + oo + j, d * seen * F::template sigma_slope<T>(spec, o), part);
            store(w.dy + j, through, part);
            store(w.direct + j, beside, part);
            store(dh + j, Vec<T>{}, part);
        });
        if (mode != CellNorm::none) {
            const T* dy[] = {w.dy};
            norm_back<T>(spec, k.c, w.at_c, normed(spec, w), dy, w.dy, H, 0, 1);
        }
        each<T>(H, [&](int64_t j, auto part) {
            Vec<T> du = load(w.direct + j, part);
            if (mode == CellNorm::after_tanh)
                du += load(w.dy + j, part) *
                      F::template psi_slope<T>(spec, load(w.shown + j, part));
            else if (mode != CellNorm::none)
                du += load(w.dy + j, part);
            const Vec<T> f = load(w.p + of + j, part), g = load(w.p + og + j, part);
            const Vec<T> mask = factor<T>(from.candidate, j, part);
            Vec<T> df = du * load(from.c + j, part), i = T(1) - f;
            const Vec<T> di = du * g * mask;
            if (spec.coupled()) {
                df -= di;
            } else {
                i = load(w.p + j, part);
                store(w.d + j, di * F::template sigma_slope<T>(spec, i), part);
            }
            store(w.d + of + j, df * F::template sigma_slope<T>(spec, f), part);
            store(w.d + og + j, du * i * mask * F::template phi_slope<T>(spec, g), part);
            store(dc + j, du * f, part);
        });
        sum_norm_back(k, w, 0, k.gates());
    }

    static const T* normed(const Spec& spec, const Row<T>& w) {
        return spec.cell_norm == CellNorm::after_tanh ? w.shown : w.cell;
    }
};

// h' = z h + (1 - z) n, with n as `reset` says.
template <class T, bool standard>
struct Gru {
    using F = Functions<standard>;
    static constexpr bool has_c = false, may_gate = true;

    static void gates(const Context<T>& k, Row<T>& w, const Before<T>&) {
        early(k, w);
        late(k, w);
    }

    // r and z
    static void early(const Context<T>& k, Row<T>& w) {
        each<T>(2 * k.H, [&](int64_t j, auto part) {
            store(w.p + j, F::template sigma<T>(k.spec, load(w.p + j, part)), part);
        });
    }

    // n, of the pre-activation that r has not yet multiplied
    static void late(const Context<T>& k, Row<T>& w) {
        const int64_t H = k.H;
        const Reset reset = k.spec.reset;
        T *r = w.p, *n = w.p + 2 * H;
        each<T>(H, [&](int64_t j, auto part) {
            Vec<T> v = load(n + j, part);
            if (reset == Reset::whole) {
                store(w.hn + j, v, part);  // what r multiplies
                v = v * load(r + j, part);
            } else if (reset != Reset::before) {
                v = v + load(r + j, part) * load(w.hn + j, part);
            }
            store(n + j, v, part);
        });
        if (reset == Reset::inside) sum_norm(k, w, 2, 3);
        each<T>(H, [&](int64_t j, auto part) {
            store(n + j, F::template phi<T>(k.spec, load(n + j, part)), part);
        });
    }

    static void emit(const Context<T>& k, Row<T>& w, const Before<T>& from, T* h, T*) {
        const T *z = w.p + k.H, *n = w.p + 2 * k.H;
        each<T>(k.H, [&](int64_t j, auto part) {
            const Vec<T> old = load(from.h + j, part), share = load(z + j, part);
            const Vec<T> used = load(n + j, part) * factor<T>(from.candidate, j, part);
            store(h + j, k.spec.keep ? used + share * (old - used) : old + share * (used - old),
                  part);
        });
    }

    static void back(const Context<T>& k, Row<T>& w, const Before<T>& from, T* dh, T*) {
        back_late(k, w, from, dh);
        const int64_t H = k.H;
        const bool whole = k.spec.reset == Reset::whole;
        T* dn = w.d + 2 * H;
        each<T>(H, [&](int64_t j, auto part) {
            const Vec<T> r = load(w.p + j, part), d = load(dn + j, part);
            store(w.d + j, d * load(w.hn + j, part) * F::template sigma_slope<T>(k.spec, r), part);
            store(whole ? dn + j : w.dhn + j, d * r, part);
        });
        sum_norm_back(k, w, 0, whole ? 3 : 2);
    }

    // gradients of z, of n before the product with r, and of h straight (in place of dh)
    static void back_late(const Context<T>& k, Row<T>& w, const Before<T>& from, T* dh) {
        const int64_t H = k.H;
        const T *z = w.p + H, *n = w.p + 2 * H;
        each<T>(H, [&](int64_t j, auto part) {
            const Vec<T> d = load(dh + j, part), share = load(z + j, part);
            const Vec<T> value = load(n + j, part), mask = factor<T>(from.candidate, j, part);
            const Vec<T> kept = k.spec.keep ? share : T(1) - share;
            Vec<T> dkept = d * (load(from.h + j, part) - value * mask);
            if (!k.spec.keep) dkept = -dkept;
            store(w.d + H + j, dkept * F::template sigma_slope<T>(k.spec, share), part);
            store(w.d + 2 * H + j,
                  d * (T(1) - kept) * mask * F::template phi_slope<T>(k.spec, value), part);
            store(dh + j, d * kept, part);
        });
        if (k.spec.reset == Reset::inside || k.spec.reset == Reset::before)
            sum_norm_back(k, w, 2, 3);
    }

    // of two products: r's gradient from that of q = r h, which also goes to h
    static void back_early(const Context<T>& k, Row<T>& w, const T* h, const T* dq, T* dh_in) {
        each<T>(k.H, [&](int64_t j, auto part) {
            const Vec<T> r = load(w.p + j, part), d = load(dq + j, part);
            store(w.d + j, d * load(h + j, part) * F::template sigma_slope<T>(k.spec, r), part);
            store(dh_in + j, d * r, part);
        });
        sum_norm_back(k, w, 0, 2);
    }
};

}  // namespace lnrnn::LNRNN_ISA
