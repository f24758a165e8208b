// Layer and RMS normalisation of rows of G gates, and its derivative.
//
// v' = (v - mean) scale, and with gain and shift v' gain + shift.  Gates of one group share mean
// and scale; a gate in no group keeps mean 0 and scale 1, so that callers need not ask.  A few
// rows are computed together, stage by stage, so that none waits for its own sums.
#pragma once

#include <cmath>

#include "functions.h"
#include "job.h"

namespace lnrnn::LNRNN_ISA {

constexpr int together = 4;  // rows whose sums are under way at the same time, at most

// What the sums over a part of the units of a group are, of one row.
template <class T>
struct Partial {
    T first, second;
};

// Which units a worker computes.  By itself these are all.  Else they are some of the parts that all
// units are cut into, and sums over units are joined in the order of the parts, whoever computed
// them: a worker writes its own on a board, all meet, and each reads those of all.
template <class T>
struct Share {
    int64_t first, last;              // units
    int parts = 1, from = 0, to = 1;  // of all units; those of this worker
    int64_t H = 0, panels = 0, width = 0;  // all units, of which a part is some panels of a width
    Meeting* team = nullptr;
    int size = 1;
    Partial<T>* board = nullptr;  // (2, parts, slots): one is read while the next is written
    int64_t slots = 0;
    int turn = 0;

    explicit Share(int64_t H) : first(0), last(H) {}

    // the parts [from, to) of units in panels of a width
    Share(int64_t H, int parts, int from, int to, int64_t panels, int64_t width)
        : parts(parts), from(from), to(to), H(H), panels(panels), width(width) {
        first = unit(from), last = unit(to);
    }

    bool alone() const { return parts == 1; }

    // the first unit of a part
    int64_t unit(int part) const {
        const int64_t at = panels * part / parts * width;
        return at < H ? at : H;
    }

    Partial<T>& on_board(int part, int64_t slot) {
        return board[(turn * parts + part) * slots + slot];
    }

    // all have written; until the next meeting the board is there to be read
    void meet() { team->meet(size); }
    void turn_over() { turn ^= 1; }
};

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

    // call f with the groups within the gates [from, to)
    template <class F>
    void each_group(int from, int to, F f) const {
        for (int k = 0; k < groups; ++k)
            if (group[k].within(from, to)) f(group[k]);
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
    if (n == 1 && !spec.rms && spec.ddof == 0) {
        // one number less its mean is zero at any scale, and rounding in its derivative is zero at this one
        scale = ratio = 0;
        return;
    }
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

// The sum of f(column, part) over the units [first, last) of the gates of a group.
template <class T, class F>
inline Vec<T> total_of(const Group& group, int64_t H, int64_t first, int64_t last, F f) {
    Vec<T> sum{};
    for (int i = 0; i < group.gates; ++i) {
        const int64_t at = group.gate[i] * H + first;
        sum += total<T>(last - first, [&](int64_t j, auto part) { return f(at + j, part); });
    }
    return sum;
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

// What statistics are of: the groups of a site within the gates [from, to) of rows; `row(i)` is row
// i, and `at(i)` where its statistics go.
template <class T, class R, class A>
struct Measured {
    const Site<T>& site;
    int from, to;
    R row;
    A at;

    template <class F>
    void each_group(F f) const { site.each_group(from, to, f); }

    void put(const Group& group, int64_t i, T mean, T scale, T ratio) const {
        Statistics<T>& st = at(i);
        for (int g = 0; g < group.gates; ++g) {
            const int gate = group.gate[g];
            st.mean[gate] = mean, st.scale[gate] = scale, st.ratio[gate] = ratio;
        }
    }
};

// In two passes: `sums(i, f)` is the sum of f over the columns of a group of row i, `count` how many
// they are; `put(i, mean, squares)` takes what was found.
template <class T, class M, class S, class P>
inline void two_passes(const Spec& spec, const M& it, int64_t count, int n, S sums_of, P put) {
    for (int start = 0; start < n; start += together) {
        const int rows = n - start < together ? n - start : together;
        Vec<T> sums[together];
        T mean[together] = {};
        if (!spec.rms) {
            for (int i = 0; i < rows; ++i) {
                const T* v = it.row(start + i);
                sums[i] = sums_of([&](int64_t j, auto part) { return load(v + j, part); });
            }
            for (int i = 0; i < rows; ++i) mean[i] = sum<T>(sums[i]) / T(count);
        }
        for (int i = 0; i < rows; ++i) {
            const T* v = it.row(start + i);
            const T centre = mean[i];
            sums[i] = sums_of([&](int64_t j, auto part) {
                const Vec<T> d = within<T>(load(v + j, part) - centre, part);
                return d * d;
            });
        }
        for (int i = 0; i < rows; ++i) put(start + i, mean[i], sum<T>(sums[i]));
    }
}

// Statistics of whole rows.
template <class T, class M>
inline void measure(const Spec& spec, T epsilon, int n, const M& it) {
    it.each_group([&](const Group& group) {
        two_passes<T>(
            spec, it, group.columns, n, [&](auto f) { return total_of<T>(group, f); },
            [&](int i, T mean, T squares) {
                T scale, ratio;
                finish<T>(spec, epsilon, squares, group.columns, scale, ratio);
                it.put(group, i, mean, scale, ratio);
            });
    });
}

// Means and squared deviations over each own part, on the board from a slot on; the slot behind.
template <class T, class M>
inline int64_t write_statistics(const Spec& spec, Share<T>& share, int n, const M& it, int64_t slot) {
    it.each_group([&](const Group& group) {
        for (int p = share.from; p < share.to; ++p) {
            const int64_t first = share.unit(p), last = share.unit(p + 1);
            if (first == last) continue;
            two_passes<T>(
                spec, it, group.gates * (last - first), n,
                [&](auto f) { return total_of<T>(group, share.H, first, last, f); },
                [&](int i, T mean, T squares) { share.on_board(p, slot + i) = {mean, squares}; });
        }
        slot += n;
    });
    return slot;
}

// Those of all parts, joined (Chan, Golub and LeVeque).
template <class T, class M>
inline int64_t read_statistics(const Spec& spec, T epsilon, Share<T>& share, int n, const M& it,
                               int64_t slot) {
    it.each_group([&](const Group& group) {
        for (int i = 0; i < n; ++i) {
            T mean = 0, squares = 0;
            int64_t count = 0;
            for (int p = 0; p < share.parts; ++p) {
                const int64_t more = group.gates * (share.unit(p + 1) - share.unit(p));
                if (more == 0) continue;
                const Partial<T> part = share.on_board(p, slot + i);
                const T apart = part.first - mean, weight = T(more) / T(count + more);
                mean += apart * weight;
                squares += part.second + apart * apart * weight * T(count);
                count += more;
            }
            T scale, ratio;
            finish<T>(spec, epsilon, squares, group.columns, scale, ratio);
            it.put(group, i, mean, scale, ratio);
        }
        slot += n;
    });
    return slot;
}

// Statistics of n rows, in one meeting where other workers have the other units.
template <class T, class... M>
inline void statistics(const Spec& spec, T epsilon, Share<T>& share, int n, const M&... measured) {
    if (share.alone()) {
        (measure<T>(spec, epsilon, n, measured), ...);
        return;
    }
    int64_t slot = 0;
    ((slot = write_statistics<T>(spec, share, n, measured, slot)), ...);
    if (slot == 0) return;
    share.meet();
    slot = 0;
    ((slot = read_statistics<T>(spec, epsilon, share, n, measured, slot)), ...);
    share.turn_over();
}

// v' gain + shift of a vector at column i of the row, whose gate is g.
template <class T, class P>
inline Vec<T> affine(const Site<T>& site, const Statistics<T>& st, Vec<T> v, int g, int64_t i,
                     P part) {
    if (site.gain) v = (v - st.mean[g]) * st.scale[g] * load(site.gain + i, part);
    return site.shift ? v + load(site.shift + i, part) : v;
}

// A row of numbers that takes a gradient as it is.
template <class T>
struct RowOf {
    T* at;

    void put(int64_t i, Vec<T> d, auto part) const {
        store(at + i, d, part);
    }
    // whether what is at d needs not be put
    bool holds(const T* d, int64_t i) const { return d == at + i; }
};

// The derivative of a norm for one row: from the gradient of its normed, scaled and shifted form,
// whose gate g is at dy[g], to that of v, which may take its place.
template <class T, class To = RowOf<T>>
struct NormBack {
    const Statistics<T>* st;
    const T* v;
    const T* dy[max_gates];
    To dv;
};

// What a derivative is of: the gates [from, to) of rows at a site; `row(i)` is that of row i.
template <class T, class R>
struct Returned {
    const Site<T>& site;
    int from, to;
    R row;

    template <class F>
    void each_group(F f) const { site.each_group(from, to, f); }
};

// Sums of the gradient of v' and of its product with v', by gate, over the units [first, last) of N
// rows; gradients of gain and shift are added up.
template <class T, int N>
struct BackSums {
    Vec<T> plain[max_gates][N], along[max_gates][N];

    template <class Row>
    [[gnu::always_inline]] BackSums(const Site<T>& site, const Row* row, int64_t H, int from, int to,
                                    int64_t first, int64_t last) {
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
            each<T>(first, last, [&](int64_t j, auto part) {
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
    }

    // both sums over a group, of row i
    Partial<T> of(const Group& group, int i) const {
        Vec<T> s{}, a{};
        for (int g = 0; g < group.gates; ++g)
            s += plain[group.gate[g]][i], a += along[group.gate[g]][i];
        return {sum<T>(s), sum<T>(a)};
    }
};

// What a group's sums take from the gradient of each of its gates.
template <class T>
struct Taken {
    T down[max_gates] = {}, tilt[max_gates] = {};

    void put(const Spec& spec, const Group& group, Partial<T> sums, const Statistics<T>& st) {
        const T mean = spec.rms ? T(0) : sums.first / T(group.columns);
        const T part = sums.second / T(group.columns - spec.ddof);
        for (int g = 0; g < group.gates; ++g) {
            const int gate = group.gate[g];
            down[gate] = mean, tilt[gate] = part * st.ratio[gate];
        }
    }
};

// The gradients of v of one row, for the units [first, last).
template <class T, class Row>
[[gnu::always_inline]] inline void apply_back(const Site<T>& site, const Row& row,
                                              const Taken<T>& taken, int64_t H, int from, int to,
                                              int64_t first, int64_t last) {
    for (int g = from; g < to; ++g) {
        const T mean = row.st->mean[g], scale = row.st->scale[g];
        const T down = taken.down[g], tilt = taken.tilt[g];
        const T *gain = site.gain + g * H, *v = row.v + g * H, *dy = row.dy[g];
        each<T>(first, last, [&](int64_t j, auto part) {
            const Vec<T> u = (load(v + j, part) - mean) * scale;
            const Vec<T> t = load(dy + j, part) * load(gain + j, part);
            row.dv.put(g * H + j, (t - down - u * tilt) * scale, part);
        });
    }
}

// Call f with the number of rows, two or one, and the first of them.
template <class F>
inline void in_pairs(int n, F f) {
    int i = 0;
    for (; i + 2 <= n; i += 2) f.template operator()<2>(i);
    if (i < n) f.template operator()<1>(i);
}

// The derivatives of N whole rows.
template <class T, int N, class Row>
inline void back_whole_of(const Spec& spec, const Site<T>& site, const Row* row, int64_t H, int from,
                          int to) {
    const BackSums<T, N> sums(site, row, H, from, to, 0, H);
    Taken<T> taken[N];
    site.each_group(from, to, [&](const Group& group) {
        for (int i = 0; i < N; ++i) taken[i].put(spec, group, sums.of(group, i), *row[i].st);
    });
    for (int i = 0; i < N; ++i) apply_back(site, row[i], taken[i], H, from, to, 0, H);
}

template <class T, class R>
inline void back_whole(const Spec& spec, int64_t H, int n, const R& it) {
    in_pairs(n, [&]<int N>(int start) {
        decltype(it.row(0)) row[N];
        for (int i = 0; i < N; ++i) row[i] = it.row(start + i);
        back_whole_of<T, N>(spec, it.site, row, H, it.from, it.to);
    });
}

// The sums over each own part, on the board from a slot on; the slot behind.
template <class T, class R>
inline int64_t write_back(int64_t H, Share<T>& share, int n, const R& it, int64_t slot) {
    if (!it.site.gain) return slot;
    int groups = 0;
    it.each_group([&](const Group&) { ++groups; });
    for (int p = share.from; p < share.to; ++p)
        in_pairs(n, [&]<int N>(int start) {
            decltype(it.row(0)) row[N];
            for (int i = 0; i < N; ++i) row[i] = it.row(start + i);
            const BackSums<T, N> sums(it.site, row, H, it.from, it.to, share.unit(p),
                                      share.unit(p + 1));
            int64_t at = slot + start;
            it.each_group([&](const Group& group) {
                for (int i = 0; i < N; ++i) share.on_board(p, at + i) = sums.of(group, i);
                at += n;
            });
        });
    return slot + groups * n;
}

// The derivatives of own units, from the sums of all parts.
template <class T, class R>
inline int64_t read_back(const Spec& spec, int64_t H, Share<T>& share, int n, const R& it,
                         int64_t slot) {
    if (!it.site.gain) {
        back_plain<T>(H, share, n, it);
        return slot;
    }
    int groups = 0;
    it.each_group([&](const Group&) { ++groups; });
    for (int i = 0; i < n; ++i) {
        const auto row = it.row(i);
        Taken<T> taken;
        int64_t at = slot + i;
        it.each_group([&](const Group& group) {
            Partial<T> sums{0, 0};
            for (int p = 0; p < share.parts; ++p) {
                const Partial<T> more = share.on_board(p, at);
                sums.first += more.first, sums.second += more.second;
            }
            taken.put(spec, group, sums, *row.st);
            at += n;
        });
        apply_back(it.site, row, taken, H, it.from, it.to, share.first, share.last);
    }
    return slot + groups * n;
}

// Where no norm is: the gradient of v is that of v'.
template <class T, class R>
inline void back_plain(int64_t H, const Share<T>& share, int n, const R& it) {
    const Site<T>& site = it.site;
    for (int i = 0; i < n; ++i) {
        const auto row = it.row(i);
        for (int g = it.from; g < it.to; ++g) {
            const T* dy = row.dy[g];
            T* dshift = site.dshift ? site.dshift + g * H : nullptr;
            if (row.dv.holds(dy, g * H) && !dshift) continue;
            each<T>(share.first, share.last, [&](int64_t j, auto part) {
                const Vec<T> d = load(dy + j, part);
                row.dv.put(g * H + j, d, part);
                if (dshift) store(dshift + j, load(dshift + j, part) + d, part);
            });
        }
    }
}

// The derivatives of sites for n rows, in one meeting where other workers have the other units.
template <class T, class... R>
inline void norm_back(const Spec& spec, int64_t H, Share<T>& share, int n, const R&... returned) {
    // in their order: a gradient that one writes may be in the place of what those before it read
    if (share.alone()) {
        ((returned.site.gain ? back_whole<T>(spec, H, n, returned)
                             : back_plain<T>(H, share, n, returned)), ...);
        return;
    }
    int64_t slot = 0;
    ((slot = write_back<T>(H, share, n, returned, slot)), ...);
    const bool any = slot > 0;
    if (any) share.meet();
    slot = 0;
    ((slot = read_back<T>(spec, H, share, n, returned, slot)), ...);
    if (any) share.turn_over();
}

}  // namespace lnrnn::LNRNN_ISA
