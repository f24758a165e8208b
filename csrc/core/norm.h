// Layer and RMS normalisation of one row of G gates, and its derivative.
//
// v' = (v - mean) scale, and with gain and shift v' gain + shift.  Gates of one group share mean
// and scale; a gate in no group keeps mean 0 and scale 1, so that callers need not ask.
#pragma once

#include "functions.h"

namespace lnrnn::LNRNN_ISA {

template <class T>
struct Site {
    Groups groups;
    const T *gain, *shift;  // (G H); gain null: no norm here; shift null: nothing is added
    T *dgain, *dshift;      // sums over rows, in a backward pass; null with their weights

    bool normed(int g) const { return groups.of[g] >= 0; }
};

template <class T>
struct Statistics {
    T mean[max_gates] = {0, 0, 0, 0};
    T scale[max_gates] = {1, 1, 1, 1};
    T ratio[max_gates] = {0, 0, 0, 0};  // of the derivative of scale: 1 with epsilon in the root
};

// Sums over the columns of each group of a site, lane by lane until they are asked for.
template <class T>
struct GroupSums {
    Vec<T> lanes[max_gates] = {};
    int gates[max_gates] = {};
    T of[max_gates];

    void add(int64_t group, Vec<T> value) {
        lanes[group] += value;
        gates[group] += 1;
    }

    void finish() {
        for (int i = 0; i < max_gates; ++i)
            if (gates[i]) of[i] = sum<T>(lanes[i]);
    }
};

// scale = 1 / (deviation) from the sum of squared deviations of n numbers.
template <class T>
inline void finish(const Spec& spec, double epsilon, T squares, int64_t n, T& scale, T& ratio) {
    const T variance = squares / T(n - spec.ddof);
    if (spec.epsilon_at_root) {
        const T root = __builtin_sqrt(variance);
        scale = T(1) / (root + T(epsilon));
        ratio = root > T(0) ? T(1) / (scale * root) : T(0);
    } else {
        scale = T(1) / __builtin_sqrt(variance + T(epsilon));
        ratio = T(1);
    }
}

// The statistics of the gates [from, to) of v; two passes.
template <class T>
inline Statistics<T> statistics(const Spec& spec, double epsilon, const Groups& groups,
                                const T* v, int64_t H, int from, int to) {
    Statistics<T> st;
    GroupSums<T> sums, squares;
    auto normed = [&](int g) { return groups.of[g] >= 0; };
    if (!spec.rms) {
        for (int g = from; g < to; ++g) {
            if (!normed(g)) continue;
            sums.add(groups.of[g], total<T>(H, [&](int64_t j, auto part) {
                         return load(v + g * H + j, part);
                     }));
        }
        sums.finish();
        for (int g = from; g < to; ++g)
            if (normed(g))
                st.mean[g] = sums.of[groups.of[g]] / T(sums.gates[groups.of[g]] * H);
    }
    for (int g = from; g < to; ++g) {
        if (!normed(g)) continue;
        const T mean = st.mean[g];
        squares.add(groups.of[g], total<T>(H, [&](int64_t j, auto part) {
                        const Vec<T> d = within<T>(load(v + g * H + j, part) - mean, part);
                        return d * d;
                    }));
    }
    squares.finish();
    for (int g = from; g < to; ++g)
        if (normed(g)) {
            const int64_t group = groups.of[g];
            finish<T>(spec, epsilon, squares.of[group], squares.gates[group] * H, st.scale[g],
                      st.ratio[g]);
        }
    return st;
}

// v' gain + shift of a vector at column i of the row, whose gate is g.
template <class T, class P>
inline Vec<T> affine(const Site<T>& site, const Statistics<T>& st, Vec<T> v, int g, int64_t i,
                     P part) {
    if (site.gain) v = (v - st.mean[g]) * st.scale[g] * load(site.gain + i, part);
    return site.shift ? v + load(site.shift + i, part) : v;
}

// The gradient dv of the gates [from, to) of a row from that of its normed, scaled and shifted
// form, whose gate g is at dy[g].  dv may be dy.
template <class T>
inline void norm_back(const Spec& spec, const Site<T>& site, const Statistics<T>& st, const T* v,
                      const T* const* dy, T* dv, int64_t H, int from, int to) {
    if (!site.gain) {
        for (int g = from; g < to; ++g)
            each<T>(H, [&](int64_t j, auto part) {
                const Vec<T> d = load(dy[g] + j, part);
                if (site.dshift) {
                    T* dshift = site.dshift + g * H + j;
                    store(dshift, load(dshift, part) + d, part);
                }
                store(dv + g * H + j, d, part);
            });
        return;
    }
    GroupSums<T> plain, along;
    for (int g = from; g < to; ++g) {
        const T mean = st.mean[g], scale = st.scale[g];
        const T* gain = site.gain + g * H;
        T* dgain = site.dgain + g * H;
        T* dshift = site.dshift ? site.dshift + g * H : nullptr;
        Vec<T> s{}, a{};
        each<T>(H, [&](int64_t j, auto part) {
            const Vec<T> d = load(dy[g] + j, part);
            const Vec<T> u = (load(v + g * H + j, part) - mean) * scale;
            const Vec<T> t = d * load(gain + j, part);
            store(dgain + j, load(dgain + j, part) + d * u, part);
            if (dshift) store(dshift + j, load(dshift + j, part) + d, part);
            s += t;
            a += t * u;
        });
        if (site.normed(g)) {
            plain.add(site.groups.of[g], s);
            along.add(site.groups.of[g], a);
        }
    }
    plain.finish();
    along.finish();
    for (int g = from; g < to; ++g) {
        T shift = 0, slope = 0, mean = st.mean[g], scale = st.scale[g];
        if (site.normed(g)) {
            const int64_t group = site.groups.of[g], n = plain.gates[group] * H;
            shift = spec.rms ? T(0) : plain.of[group] / T(n);
            slope = along.of[group] / T(n - spec.ddof) * st.ratio[g];
        }
        const T* gain = site.gain + g * H;
        each<T>(H, [&](int64_t j, auto part) {
            const Vec<T> u = (load(v + g * H + j, part) - mean) * scale;
            const Vec<T> t = load(dy[g] + j, part) * load(gain + j, part);
            store(dv + g * H + j, (t - shift - u * slope) * scale, part);
        });
    }
}

}  // namespace lnrnn::LNRNN_ISA
