// Layer and RMS normalisation of rows of G gates, and its derivative.
//
// v' = (v - mean) scale, and with gain and shift v' gain + shift.  Gates of one group share mean
// and scale; a gate in no group keeps mean 0 and scale 1, so that callers need not ask.  A few
// rows are computed together, stage by stage, so that none waits for its own sums.
#pragma once

#include <cmath>

#include "functions.h"

namespace lnrnn::LNRNN_ISA {

constexpr int together = 4;  // rows, at most

// Columns that share a mean and a variance: gates, and the runs of neighbours that they make.
struct Group {
    int gates = 0, gate[max_gates];
    int runs = 0;
    struct {
        int64_t first, length;
    } run[max_gates];
    int64_t columns = 0;

    // within the gates [from, to); a group is never partly so
    bool within(int from, int to) const { return gate[0] >= from && gate[0] < to; }
};

template <class T>
struct Site {
    const T *gain, *shift;  // (G H); gain null: no norm here; shift null: nothing is added
    T *dgain, *dshift;      // sums over rows, in a backward pass; null with their weights
    int groups = 0;
    Group group[max_gates];

    Site() = default;
    Site(const Groups& which, int64_t H, const T* gain, const T* shift, T* dgain, T* dshift)
        : gain(gain), shift(shift), dgain(gain ? dgain : nullptr), dshift(shift ? dshift : nullptr) {
        if (!gain) return;
        for (int g = 0; g < max_gates; ++g) {
            if (which.of[g] < 0) continue;
            if (which.of[g] >= groups) groups = int(which.of[g]) + 1;
            Group& it = group[which.of[g]];
            const bool joins = it.gates > 0 && it.gate[it.gates - 1] == g - 1;
            it.gate[it.gates++] = g;
            it.columns += H;
            if (joins)
                it.run[it.runs - 1].length += H;
            else
                it.run[it.runs++] = {g * H, H};
        }
    }
};

template <class T>
struct Statistics {
    T mean[max_gates] = {0, 0, 0, 0};
    T scale[max_gates] = {1, 1, 1, 1};
    T ratio[max_gates] = {0, 0, 0, 0};  // of the derivative of scale: 1 with epsilon in the root
};

// scale = 1 / (deviation) from the sum of squared deviations of n numbers.
template <class T>
inline void finish(const Spec& spec, T epsilon, T squares, int64_t n, T& scale, T& ratio) {
    const T variance = squares / T(n - spec.ddof);
    if (spec.epsilon_at_root) {
        const T root = std::sqrt(variance);
        scale = T(1) / (root + epsilon);
        ratio = root > T(0) ? T(1) / (scale * root) : T(0);
    } else {
        scale = T(1) / std::sqrt(variance + epsilon);
        ratio = T(1);
    }
}

// The sum of f(column, part) over a group.
template <class T, class F>
inline Vec<T> total_of(const Group& group, F f) {
    Vec<T> sum{};
    for (int i = 0; i < group.runs; ++i) {
        const int64_t first = group.run[i].first;
        sum += total<T>(group.run[i].length,
                        [&](int64_t j, auto part) { return f(first + j, part); });
    }
    return sum;
}

// The statistics of the groups within the gates [from, to) of n rows; two passes.  `row(i)` is a
// row, `at(i)` where its statistics go.
template <class T, class R, class S>
inline void statistics(const Spec& spec, T epsilon, const Site<T>& site, int from, int to, int n,
                       R row, S at) {
    for (int k = 0; k < site.groups; ++k) {
        const Group& group = site.group[k];
        if (!group.within(from, to)) continue;
        Vec<T> sums[together];
        T mean[together] = {};
        if (!spec.rms) {
            for (int i = 0; i < n; ++i) {
                const T* v = row(i);
                sums[i] = total_of<T>(group, [&](int64_t j, auto part) { return load(v + j, part); });
            }
            for (int i = 0; i < n; ++i) mean[i] = sum<T>(sums[i]) / T(group.columns);
        }
        for (int i = 0; i < n; ++i) {
            const T* v = row(i);
            const T centre = mean[i];
            sums[i] = total_of<T>(group, [&](int64_t j, auto part) {
                const Vec<T> d = within<T>(load(v + j, part) - centre, part);
                return d * d;
            });
        }
        for (int i = 0; i < n; ++i) {
            T scale, ratio;
            finish<T>(spec, epsilon, sum<T>(sums[i]), group.columns, scale, ratio);
            Statistics<T>& st = at(i);
            for (int g = 0; g < group.gates; ++g) {
                const int gate = group.gate[g];
                st.mean[gate] = mean[i], st.scale[gate] = scale, st.ratio[gate] = ratio;
            }
        }
    }
}

// v' gain + shift of a vector at column i of the row, whose gate is g.
template <class T, class P>
inline Vec<T> affine(const Site<T>& site, const Statistics<T>& st, Vec<T> v, int g, int64_t i,
                     P part) {
    if (site.gain) v = (v - st.mean[g]) * st.scale[g] * load(site.gain + i, part);
    return site.shift ? v + load(site.shift + i, part) : v;
}

// The derivative of a norm for one row: from the gradient of its normed, scaled and shifted form,
// whose gate g is at dy[g], to that of v, which may take its place.
template <class T>
struct NormBack {
    const Statistics<T>* st;
    const T* v;
    const T* dy[max_gates];
    T* dv;
};

// N rows of which the sums stay in registers.
template <class T, int N>
inline void norm_back_of(const Spec& spec, const Site<T>& site, const NormBack<T>* row, int64_t H,
                         int from, int to) {
    Vec<T> plain[max_gates][N], along[max_gates][N];  // by gate
    for (int g = from; g < to; ++g) {
        Vec<T> s[N] = {}, a[N] = {};
        const T *v[N], *dy[N];
        T mean[N], scale[N];
        for (int i = 0; i < N; ++i) {
            v[i] = row[i].v + g * H, dy[i] = row[i].dy[g];
            mean[i] = row[i].st->mean[g], scale[i] = row[i].st->scale[g];
        }
        const T* gain = site.gain + g * H;
        T* dgain = site.dgain + g * H;
        T* dshift = site.dshift ? site.dshift + g * H : nullptr;
        each<T>(H, [&](int64_t j, auto part) {
            const Vec<T> factor = load(gain + j, part);
            Vec<T> to_gain = load(dgain + j, part), to_shift{};
#pragma GCC unroll 4
            for (int i = 0; i < N; ++i) {
                const Vec<T> d = load(dy[i] + j, part);
                const Vec<T> u = (load(v[i] + j, part) - mean[i]) * scale[i];
                const Vec<T> t = d * factor;
                to_gain += d * u;
                to_shift += d;
                s[i] += t;
                a[i] += t * u;
            }
            store(dgain + j, to_gain, part);
            if (dshift) store(dshift + j, load(dshift + j, part) + to_shift, part);
        });
        for (int i = 0; i < N; ++i) plain[g][i] = s[i], along[g][i] = a[i];
    }
    T shift[N][max_gates], slope[N][max_gates];
    for (int i = 0; i < N; ++i)
        for (int g = from; g < to; ++g) shift[i][g] = slope[i][g] = T(0);
    for (int k = 0; k < site.groups; ++k) {
        const Group& group = site.group[k];
        if (!group.within(from, to)) continue;
        for (int i = 0; i < N; ++i) {
            Vec<T> s{}, a{};
            for (int g = 0; g < group.gates; ++g)
                s += plain[group.gate[g]][i], a += along[group.gate[g]][i];
            const T mean = spec.rms ? T(0) : sum<T>(s) / T(group.columns);
            const T part = sum<T>(a) / T(group.columns - spec.ddof);
            for (int g = 0; g < group.gates; ++g) {
                const int gate = group.gate[g];
                shift[i][gate] = mean, slope[i][gate] = part * row[i].st->ratio[gate];
            }
        }
    }
    for (int i = 0; i < N; ++i)
        for (int g = from; g < to; ++g) {
            const T mean = row[i].st->mean[g], scale = row[i].st->scale[g];
            const T down = shift[i][g], tilt = slope[i][g];
            const T *gain = site.gain + g * H, *v = row[i].v + g * H, *dy = row[i].dy[g];
            T* dv = row[i].dv + g * H;
            each<T>(H, [&](int64_t j, auto part) {
                const Vec<T> u = (load(v + j, part) - mean) * scale;
                const Vec<T> t = load(dy + j, part) * load(gain + j, part);
                store(dv + j, (t - down - u * tilt) * scale, part);
            });
        }
}

// The derivative of a site for the gates [from, to) of n rows.
template <class T>
inline void norm_back(const Spec& spec, const Site<T>& site, int n, const NormBack<T>* row,
                      int64_t H, int from, int to) {
    if (site.gain) {
        int i = 0;
        for (; i + 2 <= n; i += 2) norm_back_of<T, 2>(spec, site, row + i, H, from, to);
        if (i < n) norm_back_of<T, 1>(spec, site, row + i, H, from, to);
        return;
    }
    for (int i = 0; i < n; ++i)
        for (int g = from; g < to; ++g) {
            const T* dy = row[i].dy[g];
            T *dv = row[i].dv + g * H, *dshift = site.dshift ? site.dshift + g * H : nullptr;
            if (dv != dy) memcpy(dv, dy, H * sizeof(T));
            if (dshift)
                each<T>(H, [&](int64_t j, auto part) {
                    store(dshift + j, load(dshift + j, part) + load(dy + j, part), part);
                });
        }
}

}  // namespace lnrnn::LNRNN_ISA
