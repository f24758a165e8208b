// The loop over time for the rows of one worker, forward and backward.
#pragma once

#include <algorithm>
#include <array>

#include "cells.h"
#include "job.h"
#include "parts.h"
#include "product.h"

namespace lnrnn::LNRNN_ISA {

// What a call computes with (T), what its long arrays are in memory (S), and what the operands of
// its products are rounded to (R).
template <class T_, class S_, class R_>
struct Types {
    using T = T_;
    using S = S_;
    using R = R_;
};

template <class T>
inline const T* noise_at(const Noise<T>& noise, int64_t t, int64_t b, int64_t H) {
    return noise.at ? noise.at + t * noise.stride + b * H : nullptr;
}

// new = old + take (new - old), in the units [first, last) of a row of noise
template <class T>
inline void zone_out(const T* mask, T value, int64_t first, int64_t last, const T* old, T* now) {
    each<T>(first, last, [&](int64_t j, auto part) {
        const Vec<T> share = mask ? load(mask + j, part) : splat<T>(value);
        const Vec<T> o = load(old + j, part);
        store(now + j, o + share * (load(now + j, part) - o), part);
    });
}

// d = take d, and the rest of d, which goes straight to the old state
template <class T>
inline void zone_out_back(const T* mask, T value, int64_t first, int64_t last, T* d, T* rest) {
    each<T>(first, last, [&](int64_t j, auto part) {
        const Vec<T> share = mask ? load(mask + j, part) : splat<T>(value);
        const Vec<T> whole = load(d + j, part);
        store(d + j, share * whole, part);
        store(rest + j, whole - share * whole, part);
    });
}

// The rows of a few steps are projected, and their gradients summed, in one product.
// Tiles multiply so fast that x W of a chunk has to stay in the second-level cache; a backward pass reads
// and writes the sums of dW and dU in every chunk, which is large where its share of the `all` rows is small.
template <class R>
constexpr int64_t chunk_rows(bool back, int64_t all) {
    if (!by_tiles<R>) return 256;
    return back ? std::clamp<int64_t>(all / 8, 256, 2 * chunk_depth) : 128;
}
// Rows that workers who divide the units take through the stages of a step in one go.
constexpr int64_t most_rows_between_meetings = 16;

template <class P, class C>
class Sequence {
    using T = typename P::T;
    using S = typename P::S;
    using R = typename P::R;
    using O = typename Operands<R>::O;
    using E = typename Operands<R>::E;
    // whether operands are copies, and whether long arrays are
    static constexpr bool rounds = !std::is_same_v<R, T>, narrow = !std::is_same_v<S, T>;

public:
    Sequence(const Job<T, S>& job, const Worker<T>& me)
        : job_(job),
          me_(me),
          I_(job.n.I),
          H_(job.n.H),
          R_(job.n.R),
          wide_(job.wide()),
          rows_(me.rows()),
          most_(chunk_rows<R>(job.grad.kernel, job.n.T * rows_)),
          chunk_(std::clamp<int64_t>(most_ / std::max<int64_t>(rows_, 1), 1, job.n.T)),
          gates_(int(job.spec.gates)),
          early_(int(job.early_gates())),
          two_(job.spec.two_products()),
          pre_(job.spec.pre),
          projects_(job.spec.projection),
          apart_(gradients_differ(job) || (rounds && two_)),
          pitch_x_(pitch_of<R>(I_)),
          x_is_operand_(pitch_x_ == I_ && reinterpret_cast<uintptr_t>(job.in.x) % sizeof(E) == 0),
          pitch_h_(pitch_of<R>(R_)),
          pitch_m_(pitch_of<R>(H_)),
          late_(Operands<R>::padding(early_ * H_)),
          pitch_d_(pitch_of<R>(late_ + (two_ ? Operands<R>::padding(R_) : 0))),
          by_units_(me.parts > 1),
          share_(by_units_ ? Share<T>(H_, me.parts, me.parts * me.rank / me.size,
                                      me.parts * (me.rank + 1) / me.size, panels<E>(H_),
                                      panel_width<E>)
                           : Share<T>(H_)),
          first_(share_.first),
          last_(share_.last),
          last_h_(by_units_ ? last_ : R_),
          k_{job.spec, T(job.epsilon), T(job.clip), job.clips, H_, share_, {}, {}, {}, {}, {}, {},
             nullptr, nullptr, nullptr, nullptr} {
        const SumsLayout at(wide_, job.n);
        Memory own{me.memory}, shared{me.shared};
        // of what is of all units each worker has a copy, or its part of one
        Memory& common = by_units_ ? shared : own;
        sums_ = common.take<T>(at.size);
        zeros_ = own.take<T>(std::max(H_, R_));
        k_.gain_x = own.take<T>(wide_);
        k_.gain_h = own.take<T>(wide_);
        k_.shift = own.take<T>(wide_);
        k_.shift_h = own.take<T>(wide_);
        row_list_ = own.take<Row<T>>(kept_rows());
        row_pointers_ = own.take<Row<T>*>(kept_rows());
        row_memory_ = common.take<T>(Row<T>::size(gates_, H_, R_) * kept_rows());
        // of all rows of a chunk; a worker with fewer rows may have longer chunks
        const int64_t most = std::min(job.n.T * rows_, std::max(most_, rows_));
        constexpr int64_t spare = spare_rows<R>;
        // what products of a chunk take in a backward pass, and those of a step in a forward one; what is
        // there for the former alone
        const bool back = job.grad.kernel;
        const int64_t many = back ? most : rows_, entering = std::max(many, by_units_ ? 2 * rows_ : 0);
        auto later = [&](int64_t n) { return back ? n : 0; };
        entering_ = common.take<O>((entering + spare) * pitch_h_);
        gated_ = common.take<O>(two_ ? (many + spare) * pitch_h_ : 0);
        h_ring_ = common.take<T>(2 * rows_ * R_);
        c_ring_ = common.take<T>(2 * rows_ * H_);
        dh_ = common.take<T>(later(rows_ * R_));
        dc_ = common.take<T>(later(rows_ * H_));
        joint_ = common.take<T>(pre_ ? rows_ * (I_ + R_) : 0);
        at_joint_ = common.take<Statistics<T>>(pre_ ? rows_ : 0);
        seen_rows_ = common.take<int64_t>(pre_ ? rows_ : 0);
        normed_x_ = common.take<O>(pre_ ? (many + spare) * pitch_x_ : 0);
        outputs_ = common.take<O>(projects_ ? (many + spare) * pitch_m_ : 0);
        doutputs_ = common.take<O>(projects_ ? later((most + spare) * pitch_h_) : 0);
        through_gate_ = common.take<T>(two_ ? later(rows_ * H_) : 0);
        scaled_ = common.take<T>(job.spec.diagonal ? later(rows_ * H_) : 0);
        // as they are: u h is no product, but the gradient of its u needs them
        const int64_t gradients = !rounds ? most : job.spec.diagonal ? rows_ : 0;
        dhu_ = common.take<T>(later(gradients * wide_));
        dxw_ = apart_ && !rounds ? common.take<T>(later(gradients * wide_)) : dhu_;
        if constexpr (rounds) {
            const int64_t operands = later((most + spare) * pitch_d_);
            dhu_operands_ = common.take<O>(operands);
            dxw_operands_ = apart_ ? common.take<O>(operands) : dhu_operands_;
        }
        dx_ = common.take<T>(narrow ? later(most * I_) : 0);
        wide_x_ = common.take<T>(narrow ? later(kept_rows() * wide_) : 0);
        wide_hu_ = common.take<T>(narrow ? later(kept_rows() * wide_) : 0);
        // all rows in one chunk are summed where the result is to be
        const bool sums_apart = by_tiles<R> && (rows_ < job.n.B || chunk_ < job.n.T);
        auto matrix = [&](const T* wanted, int64_t M, int64_t first, int64_t columns, int64_t row,
                          bool turned, T* c) -> Matrix {
            Matrix it = turned ? Matrix{columns, M, M, turned, c, nullptr}
                               : Matrix{M, columns, row, turned, c, nullptr};
            if (c) it.at += turned ? first * M : first;
            if (wanted && sums_apart) it.tiles = shared.take<T>(tiles_of<R>(it.M, it.N));
            return it;
        };
        const Gradients<T, S>& g = job.grad;
        dkernel_ = matrix(g.kernel, I_, 0, wide_, wide_, job.kernel_turned, me.dkernel);
        const T* full = job.spec.diagonal ? nullptr : g.recurrent;
        dfirst_ = matrix(full, R_, 0, early_ * H_, wide_, job.recurrent_turned, me.drecurrent);
        dsecond_ = matrix(two_ ? full : nullptr, R_, early_ * H_, two_ ? H_ : 0, wide_,
                          job.recurrent_turned, me.drecurrent);
        dprojection_ = matrix(g.projection, H_, 0, R_, R_, false, me.dprojection);
        outer_memory_ = own.take<E>(later(outer_memory<E>(most)));
        memory_ = own.used;
        share_.team = me.team, share_.size = me.size;
        // statistics at two sites in each gate, one line of the cache for each part and more
        share_.slots = up(2 * max_gates * kept_rows(), 8) * 8;
        share_.board = shared.take<Partial<T>>(by_units_ ? 2 * share_.parts * share_.slots : 0);
        xw_ = shared.take<T>(job.out.xw && (back || !narrow) ? 0 : most * wide_);
        hu_ring_ = shared.take<T>(2 * rows_ * wide_);
        dq_ring_ = shared.take<T>(later(4 * rows_ * R_));
        djoint_ring_ = shared.take<T>(pre_ ? later(2 * rows_ * (I_ + R_)) : 0);
        raw_ring_ = shared.take<T>(projects_ ? 2 * rows_ * R_ : 0);
        dout_ring_ = shared.take<T>(projects_ ? later(2 * rows_ * H_) : 0);
        x_operands_ = shared.take<O>(rounds && !pre_ ? (most + spare) * pitch_x_ : 0);
        shared_ = shared.used;
        if (!me.memory) return;  // asked for the sizes only

        memset(zeros_, 0, std::max(H_, R_) * sizeof(T));
        if (writes_common()) {
            memset(sums_, 0, at.size * sizeof(T));
            // what rows are padded with, and the r h of masked rows
            auto padded = [](int64_t n) { return Operands<R>::padding(n) > n; };
            if (padded(R_) || pre_) memset(entering_, 0, entering * pitch_h_ * sizeof(O));
            if (pre_) memset(normed_x_, 0, many * pitch_x_ * sizeof(O));
            if (projects_) {
                memset(outputs_, 0, many * pitch_m_ * sizeof(O));
                memset(doutputs_, 0, later(most * pitch_h_ * sizeof(O)));
            }
            if (two_) memset(gated_, 0, many * pitch_h_ * sizeof(O));
            if (back && (padded(wide_) || padded(early_ * H_))) {
                memset(dhu_operands_, 0, most * pitch_d_ * sizeof(O));
                if (apart_) memset(dxw_operands_, 0, most * pitch_d_ * sizeof(O));
            }
        }
        for (int64_t r = 0; r < kept_rows(); ++r)
            row_list_[r] = Row<T>(row_memory_ + r * Row<T>::size(gates_, H_, R_), gates_, H_, R_);
        const Weights<T>& w = job.weights;
        auto site = [&](const Groups& groups, const T* gain, const T* shift, int64_t dgain,
                        int64_t dshift, int64_t width = 0) {
            return Site<T>(groups, width ? width : H_, gain, shift, sums_ + dgain, sums_ + dshift);
        };
        const Groups one = {{0, -1, -1, -1}};
        k_.x = site(job.spec.x, w.gain_x, w.shift_x, at.gain_x, at.shift_x);
        k_.h = site(job.spec.h, w.gain_h, w.shift_h, at.gain_h, at.shift_h);
        k_.sum = site(job.spec.sum, w.gain_sum, w.shift_sum, at.gain_sum, at.shift_sum);
        k_.c = site(one, w.gain_c, w.shift_c, at.gain_c, at.shift_c);
        at_hidden_ = site(one, w.gain_hidden, w.shift_hidden, at.gain_hidden, at.shift_hidden, R_);
        joint_site_ = site(one, w.gain_pre, w.shift_pre, at.gain_pre, at.shift_pre, I_ + R_);
        recurrent_sums_ = sums_ + at.recurrent;
        projection_bias_sums_ = w.projection_bias ? sums_ + at.projection_bias : nullptr;
        if (w.peephole)
            for (int g = job.spec.coupled(), i = 0; g < 3; ++g, ++i) {
                k_.peephole[g] = w.peephole + i * H_;
                k_.dpeephole[g] = sums_ + at.peephole + i * H_;
            }
        bias_x_sums_ = w.bias_x ? sums_ + at.bias_x : nullptr;
        bias_h_sums_ = w.bias_h ? sums_ + at.bias_h : nullptr;
        for (int64_t i = 0; i < wide_; ++i) {
            const T x = w.shift_x ? w.shift_x[i] : T(0), h = w.shift_h ? w.shift_h[i] : T(0);
            k_.gain_x[i] = w.gain_x ? w.gain_x[i] : T(1);
            k_.gain_h[i] = w.gain_h ? w.gain_h[i] : T(1);
            k_.shift[i] = job.spec.apart(int(i / H_)) ? x : x + h;
            k_.shift_h[i] = h;
        }
        if (by_units_) me_.team->meet(me_.size);
    }

    int64_t memory() const { return memory_; }
    int64_t shared() const { return shared_; }

    void forward() {
        T* all_h = writes_results() && !copies_h() ? computed(job_.out.h) : nullptr;
        T* all_c = writes_results() ? job_.out.c : nullptr;
        for (int64_t t = 0; t < job_.n.T; ++t) {
            if (t % chunk_ == 0 && !pre_) project_chunk(t);
            const T* h = before(job_.in.h0, all_h, h_ring_, t, R_);
            const T* c = C::has_c ? before(job_.in.c0, all_c, c_ring_, t, H_) : nullptr;
            T *new_h = now(all_h, h_ring_, t, R_), *new_c = now(all_c, c_ring_, t, H_);
            // others may still read those of the step before
            O* entering = entering_ + (by_units_ ? (t & 1) * rows_ * pitch_h_ : 0);
            if (job_.spec.diagonal) {
                scale_hidden(h, t);
            } else {
                const O* entered = entering;
                if (pre_) {
                    norm_joint(h, t, normed_x_, entering);
                    meet_before_inputs();
                    project_inputs(t, 1, rows_of<const O>(normed_x_, pitch_x_));
                } else {
                    entered = alters() ? enter(h, t, entering) : as_operands(h);
                }
                project(entered, t, gated_);
            }
            for (int64_t r = 0; r < rows_; ++r) {
                if (!masked(t, r)) continue;
                copy_hidden(h + r * R_, new_h + r * R_);
                if (C::has_c) copy_units(c + r * H_, new_c + r * H_);
            }
            each_rows(t, [&](Rows<T>& rows) {
                place(rows, t, h, c);
                recompute(rows);
                for (Row<T>* w : rows) {
                    const int64_t r = w->index;
                    T* row_c = new_c + r * H_;
                    C::emit(k_, *w, puts_out() ? new_h + r * R_ : w->output, row_c);
                    if (C::has_c && acts(job_.in.take_c))
                        zone_out(noise_at(job_.in.take_c, t, me_.first + r, H_),
                                 job_.in.take_c.value, first_, last_, w->held_c, row_c);
                    if (projects_) to_projection(*w, outputs_);
                }
                if (!projects_) put_out(t, rows, new_h);
            });
            if (projects_) {
                project_outputs(t, outputs_);
                each_rows(t, [&](Rows<T>& rows) { put_out(t, rows, new_h); });
            }
            if (copies_h() && writes_results())
                for (int64_t r = 0; r < rows_; ++r)
                    copy_hidden(new_h + r * R_, h_row(job_.out.h, t, r));
        }
        if (!writes_results()) return;
        const int64_t last = job_.n.T - 1;
        copy_hidden_rows(now(all_h, h_ring_, last, R_), job_.out.h_last + me_.first * R_);
        if (C::has_c) copy_rows(now(all_c, c_ring_, last, H_), job_.out.c_last + me_.first * H_);
    }

    void backward() {
        reads_kept_ = narrow;
        begin(dh_, job_.grad.dh_last, R_, last_h_);
        if (C::has_c) begin(dc_, job_.grad.dc_last, H_, last_);
        clear_reset_states(job_.grad.dreset_h, R_, last_h_);
        clear_reset_states(job_.grad.dreset_c, H_, last_);
        for (int64_t t = job_.n.T - 1; t >= 0; --t) {
            const int64_t in_chunk = t % chunk_ * rows_;
            if (!job_.out.xw && !pre_ && (t + 1 == job_.n.T || (t + 1) % chunk_ == 0))
                project_chunk(t - t % chunk_);
            const T* h = kept_h(t);
            const T* c = C::has_c ? before(job_.in.c0, job_.out.c, nullptr, t, H_) : nullptr;
            O* entered = entering_ + in_chunk * pitch_h_;
            O* gated = gated_ + in_chunk * pitch_h_;
            if (pre_) {
                O* x = normed_x_ + in_chunk * pitch_x_;
                norm_joint(h, t, x, entered);
                if (!job_.out.xw) {
                    meet_before_inputs();
                    project_inputs(t, 1, rows_of<const O>(x, pitch_x_));
                }
            } else if (!job_.spec.diagonal) {
                enter(h, t, entered);
            }
            if (!job_.out.hu) {
                if (job_.spec.diagonal) scale_hidden(h, t);
                else project(entered, t, gated);
            }
            begin_back(t);
            if (projects_) back_projection(t, h, c);
            each_rows(t, [&](Rows<T>& rows) {
                if (!projects_) place(rows, t, h, c);
                back_rows(t, rows);
            });
            T* dq = job_.spec.diagonal ? scaled_ : dq_ring_ + (t & 1) * 2 * rows_ * R_;
            if constexpr (C::may_gate)
                if (two_) back_gated(t, entered, dq + rows_ * R_);
            if (pre_)
                back_joint(t);
            else if (job_.spec.diagonal)
                scale_hidden_back(h, t, dq);
            else
                multiply(1, R_, early_ * H_, gradients_of(t, 0), job_.packed.first_back, nullptr,
                         rows_of(dq, R_));
            for (int64_t r = 0; r < rows_; ++r)
                if (!masked(t, r))
                    back_to_state(t, r, h, pre_ ? joint_ + r * (I_ + R_) + I_ : dq + r * R_);
            if (t % chunk_ == 0) back_to_inputs(t);
        }
        if (!writes_results()) return;
        copy_hidden_rows(dh_, job_.grad.dh0 + me_.first * R_);
        if (C::has_c) copy_rows(dc_, job_.grad.dc0 + me_.first * H_);
    }

    // The gradient of a matrix, or of its transpose: (M, N), a row `row` numbers from the next, and the
    // tiles in which it is summed, where it is.
    struct Matrix {
        int64_t M, N, row;
        bool turned;
        T *at, *tiles;
    };

    std::array<Matrix, 4> gradients() const { return {dkernel_, dfirst_, dsecond_, dprojection_}; }

private:
    // Where the gradients of a row's x W or h U go: to the sums of a bias, then within a bound to a row of
    // numbers, or of operands, or both.
    struct Return {
        T* bias;
        T bound;
        T* row;
        O* operands;

        void put(int64_t i, Vec<T> d, auto part) const {
            if (bias) store(bias + i, load(bias + i, part) + d, part);
            if (bound > 0) d = clamped<T>(d, bound);
            if constexpr (rounds)
                if (operands) store_operand<R>(operands + i, d, part);
            if (row) store(row + i, d, part);
        }
        bool holds(const T* d, int64_t i) const {
            return !bias && !(bound > 0) && !operands && (!row || row + i == d);
        }
    };

    // rows that go through the stages of a step at the same time, and those that are remembered
    int64_t rows_together() const {
        return by_units_ ? std::min(rows_, most_rows_between_meetings) : int64_t(together);
    }
    // products stand between the stages of a step
    bool in_stages() const { return two_ || projects_; }
    int64_t kept_rows() const { return in_stages() ? rows_ : rows_together(); }
    // whether this worker is the one that writes what is alike for all, or its part of results
    bool writes_common() const { return me_.leads() || !by_units_; }
    bool writes_results() const { return me_.leads() || by_units_; }
    int64_t at(int64_t t, int64_t r) const { return t * job_.n.B + me_.first + r; }
    bool masked(int64_t t, int64_t r) const { return job_.in.mask && !job_.in.mask[at(t, r)]; }
    bool fresh(int64_t t, int64_t r) const { return job_.in.reset && job_.in.reset[at(t, r)]; }
    bool alters() const {
        return rounds || job_.in.reset || job_.in.recurrent.at || job_.clips.hidden > 0;
    }
    // whether a cell's output is the new h as it is
    bool puts_out() const { return !projects_ && !job_.spec.hidden_norm; }
    // the states that a reset goes to
    const T* fresh_h(int64_t r) const {
        return job_.in.reset_h ? job_.in.reset_h + (me_.first + r) * R_ : zeros_;
    }
    const T* fresh_c(int64_t r) const {
        return job_.in.reset_c ? job_.in.reset_c + (me_.first + r) * H_ : zeros_;
    }

    // n numbers, of which one side may be narrow
    template <class A, class B>
    static void copy(int64_t n, const A* from, B* to) {
        each<T>(n, [&](int64_t j, auto part) { store(to + j, load(from + j, part), part); });
    }

    // call f(i, part) for the columns of own units in the gates [from, to)
    template <class F>
    void each_column(int from, int to, F f) const {
        if (!by_units_)
            each<T>(from * H_, to * H_, f);
        else
            for (int g = from; g < to; ++g) each<T>(g * H_ + first_, g * H_ + last_, f);
    }

    // own units of a row, or of all rows
    template <class A, class B>
    void copy_units(const A* from, B* to) const {
        each<T>(first_, last_, [&](int64_t j, auto part) {
            store(to + j, load(from + j, part), part);
        });
    }
    void copy_rows(const T* from, T* to) const {
        for (int64_t r = 0; r < rows_; ++r) copy_units(from + r * H_, to + r * H_);
    }

    // the same of h
    template <class A, class B>
    void copy_hidden(const A* from, B* to) const {
        each_hidden([&](int64_t j, auto part) { store(to + j, load(from + j, part), part); });
    }
    void copy_hidden_rows(const T* from, T* to) const {
        for (int64_t r = 0; r < rows_; ++r) copy_hidden(from + r * R_, to + r * R_);
    }
    template <class F>
    void each_hidden(F f) const { each<T>(first_, last_h_, f); }

    // an array to compute in, or none where it is narrow
    static T* computed(S* array) {
        if constexpr (narrow) return nullptr;
        else return array;
    }

    // rows that need no copy to be operands
    static const O* as_operands(const T* rows) {
        if constexpr (rounds) return nullptr;
        else return rows;
    }

    // whether x W and h U have gradients of their own
    static bool gradients_differ(const Job<T, S>& job) {
        const Spec& spec = job.spec;
        return job.weights.gain_x || job.weights.gain_h || spec.apart(int(spec.gates) - 1) ||
               job.clip > 0;
    }

    // call f for the rows of step t that no mask leaves out, a few at a time
    template <class F>
    void each_rows(int64_t t, F f) const {
        Rows<T> rows{row_pointers_};
        for (int64_t r = 0; r < rows_; ++r) {
            if (!masked(t, r)) {
                Row<T>& w = row_list_[in_stages() ? r : rows.n];
                w.index = r;
                rows.at[rows.n++] = &w;
            }
            if (rows.n == rows_together() || (r + 1 == rows_ && rows.n > 0)) {
                f(rows);
                rows.n = 0;
            }
        }
    }

    // where the rows of step t find what they read
    void place(Rows<T>& rows, int64_t t, const T* h, const T* c) const {
        const T *xw = inputs(t), *hu = projected(t);
        for (Row<T>* w : rows) {
            const int64_t r = w->index;
            w->x = xw + r * wide_;
            w->s = hu + r * wide_;
            w->soon_x = w->soon_s = nullptr;
            if constexpr (narrow) {
                const int64_t steps = pre_ ? 1 : chunk_;  // that are projected at a time
                w->soon_x = kept_row(job_.out.xw, reads_kept_ ? t - 1 : t + steps, r);
                w->soon_s = kept_row(job_.out.hu, reads_kept_ ? t - 1 : t + 1, r);
                const int64_t slot = w - row_list_;
                if (reads_kept_ && job_.out.xw)
                    w->x = widened(job_.out.xw + at(t, r) * wide_, job_.weights.bias_x,
                                   wide_x_ + slot * wide_);
                if (reads_kept_ && job_.out.hu)
                    w->s = widened(job_.out.hu + at(t, r) * wide_, job_.weights.bias_h,
                                   wide_hu_ + slot * wide_);
            }
            w->from = origin(h, c, t, r);
            w->held_c = w->from.c;
            if (k_.clips_cell(ClipAt::incoming)) {
                each_unit(k_, [&](int64_t j, auto part) {
                    store(w->clipped + j, clamped<T>(load(w->from.c + j, part), k_.clips.cell),
                          part);
                });
                w->from.c = w->clipped;
            }
            w->dh = dh_ + r * R_, w->dc = dc_ + r * H_;
        }
    }

    // what is kept of row r at step t, if that is a step
    const uint16_t* kept_row(const S* kept, int64_t t, int64_t r) const {
        static_assert(sizeof(S) == sizeof(uint16_t) || !narrow);
        if (!kept || t < 0 || t >= job_.n.T) return nullptr;
        return reinterpret_cast<const uint16_t*>(kept + at(t, r) * wide_);
    }

    // what was kept is without its bias, which rounding would take from
    const T* widened(const S* from, const T* bias, T* to) const {
        each_column(0, gates_, [&](int64_t i, auto part) {
            const Vec<T> v = load(from + i, part);
            store(to + i, bias ? v + load(bias + i, part) : v, part);
        });
        return to;
    }

    // the h before step t, of a forward pass that is over
    const T* kept_h(int64_t t) const {
        if (!copies_h()) return before(job_.in.h0, computed(job_.out.h), nullptr, t, R_);
        if (t == 0) return job_.in.h0 + me_.first * R_;
        for (int64_t r = 0; r < rows_; ++r)
            copy_hidden(h_row(job_.out.h, t - 1, r), h_ring_ + r * R_);
        return h_ring_;
    }

    // the states before step t, of a width: the initial ones, kept in `all`, or in a ring of two steps
    const T* before(const T* initial, const T* all, const T* ring, int64_t t, int64_t width) const {
        if (t == 0) return initial + me_.first * width;
        return all ? all + at(t - 1, 0) * width : ring + ((t - 1) & 1) * rows_ * width;
    }

    T* now(T* all, T* ring, int64_t t, int64_t width) const {
        return all ? all + at(t, 0) * width : ring_at(ring, t, width);
    }

    // rows of a width at step t of a ring of two steps: others may still read those of the one before
    T* ring_at(T* ring, int64_t t, int64_t width) const { return ring + (t & 1) * rows_ * width; }

    // where x W of step t is: kept in the output, or in memory of the team
    T* inputs(int64_t t) const {
        if (T* all = computed(job_.out.xw)) return all + at(t, 0) * wide_;
        return xw_ + t % chunk_ * rows_ * wide_;
    }

    // where h U of step t is, alike
    T* projected(int64_t t) const {
        T* all = computed(job_.out.hu);
        return all ? all + at(t, 0) * wide_ : hu_ring_ + (t & 1) * rows_ * wide_;
    }

    // the rows that enter the product of step t: those of h with resets and factors
    const O* enter(const T* h, int64_t t, O* to) const {
        for (int64_t r = 0; r < rows_; ++r) {
            const T* from = fresh(t, r) ? fresh_h(r) : h + r * R_;
            const T* mask = noise_at(job_.in.recurrent, t, me_.first + r, R_);
            O* row = to + r * pitch_h_;
            each_hidden([&](int64_t j, auto part) {
                // h enters as it is put out
                const Vec<T> v = clip_hidden(rounded<R>(load(from + j, part))) * factor<T>(mask, j, part);
                put_operand(row + j, v, part);
            });
        }
        return to;
    }

    Vec<T> clip_hidden(Vec<T> v) const {
        return k_.clips.hidden > 0 ? clamped<T>(v, k_.clips.hidden) : v;
    }

    // pre: the rows of x and of h, normed together, as operands; rows that a mask leaves out are zeros
    void norm_joint(const T* h, int64_t t, O* x_to, O* h_to) {
        const Stack<const S> x = x_rows(job_.in.x, t);
        const int64_t wide = I_ + R_;
        seen_ = 0;
        for (int64_t r = 0; r < rows_; ++r) {
            if (masked(t, r)) continue;
            T* row = joint_ + r * wide;
            seen_rows_[seen_++] = r;
            copy(I_, x.at(r), row);
            const T* from = fresh(t, r) ? fresh_h(r) : h + r * R_;
            const T* mask = noise_at(job_.in.recurrent, t, me_.first + r, R_);
            each_hidden([&](int64_t j, auto part) {
                store(row + I_ + j, clip_hidden(load(from + j, part)) * factor<T>(mask, j, part), part);
            });
        }
        auto row = [&](int64_t i) -> const T* { return joint_ + seen_rows_[i] * wide; };
        auto where = [&](int64_t i) -> Statistics<T>& { return at_joint_[seen_rows_[i]]; };
        statistics<T>(job_.spec, k_.epsilon, share_, seen_,
                      Measured<T, decltype(row), decltype(where)>{joint_site_, 0, 1, row, where});
        if (seen_ < rows_) {
            memset(x_to, 0, rows_ * pitch_x_ * sizeof(O));
            memset(h_to, 0, rows_ * pitch_h_ * sizeof(O));
        }
        for (int i = 0; i < seen_; ++i) {
            auto normed = [&](int64_t n, int64_t from, O* to) {
                each<T>(n, [&](int64_t j, auto part) {
                    const Vec<T> v = load(row(i) + from + j, part);
                    put_operand(to + j, affine(joint_site_, where(i), v, 0, from + j, part), part);
                });
            };
            normed(I_, 0, x_to + seen_rows_[i] * pitch_x_);
            normed(R_, I_, h_to + seen_rows_[i] * pitch_h_);
        }
    }

    // a vector as operands of a product
    static void put_operand(O* to, Vec<T> v, auto part) {
        if constexpr (rounds) store_operand<R>(to, v, part);
        else store(to, v, part);
    }

    // this worker's panels of a product with a matrix of N columns
    void my_panels(int64_t N, int64_t& first, int64_t& last) const {
        const int64_t n = panels<E>(N);
        first = n * me_.rank / me_.size, last = n * (me_.rank + 1) / me_.size;
    }

    // the rows of one step, `row` apart
    template <class A>
    Stack<A> rows_of(A* base, int64_t row) const {
        return dense(base, rows_, row);
    }

    // h is computed in memory of steps, and copied to where it is put out: rows that lie as far apart
    // as batch first would push one another out of the cache while a product reads them
    bool copies_h() const { return narrow || job_.h_batch_first; }

    // row r of step t of h, or of its gradient
    template <class A>
    A* h_row(A* base, int64_t t, int64_t r) const {
        const int64_t b = me_.first + r;
        return base + (job_.h_batch_first ? b * job_.n.T + t : t * job_.n.B + b) * R_;
    }

    // the rows of x, or of its gradient, from step t on
    template <class A>
    Stack<A> x_rows(A* base, int64_t t) const {
        const int64_t step = job_.batch_first ? I_ : job_.n.B * I_;
        const int64_t row = job_.batch_first ? job_.n.T * I_ : I_;
        return {base + t * step + me_.first * row, rows_, step, row};
    }

    // call f(gate, gates, first, last) for this worker's panels of a product with `width` columns for
    // each of `gates` gates: all gates at once, or its units of one after the other
    template <class F>
    void each_product(int gates, int64_t width, F f) const {
        int64_t first, last;
        if (by_units_) {
            const int64_t n = panels<E>(width);
            first = n * share_.from / share_.parts, last = n * share_.to / share_.parts;
            for (int g = 0; g < gates; ++g) f(g, 1, first, last);
        } else {
            my_panels(gates * width, first, last);
            f(0, gates, first, last);
        }
    }

    // C (M, gates width) = bias + A (M, K) P: this worker's part, and what is kept of it
    void multiply_own(int64_t M, int gates, int64_t width, int64_t K, Stack<const O> a,
                      const void* packed, const T* bias, Stack<T> c, Stack<S> kept) const {
        each_product(gates, width, [&](int gate, int count, int64_t first, int64_t last) {
            const int64_t at = gate * width, N = count * width;
            const void* p = static_cast<const char*>(packed) + gate * packed_size<R>(K, width);
            const T* start = bias ? bias + at : nullptr;
            product<R>(M, N, K, a, p, narrow ? nullptr : start, c.from(at), first, last);
            keep(M, N, c.from(at), kept.base ? kept.from(at) : kept, start, first, last);
        });
    }

    // the same for the rows of a step, where all meet: before it if A is of all, else behind it
    void multiply(int gates, int64_t width, int64_t K, Stack<const O> a, const void* packed,
                  const T* bias, Stack<T> c, S* kept = nullptr) const {
        if (by_units_) me_.team->meet(me_.size);
        multiply_own(rows_, gates, width, K, a, packed, bias, c, {kept, rows_, 0, wide_});
        if (!by_units_) me_.team->meet(me_.size);
    }

    // of narrow kinds: copy the panels [first, last) of sums to where they are kept, and add the bias
    static void keep(int64_t M, int64_t N, Stack<T> sums, Stack<S> to, const T* bias, int64_t first,
                     int64_t last) {
        if constexpr (narrow) {
            const int64_t at = first * panel_width<E>, end = std::min(last * panel_width<E>, N);
            if (!to.base && !bias) return;
            for (int64_t m = 0; m < M; ++m) {
                T* row = sums.at(m);
                S* kept = to.base ? to.at(m) : nullptr;
                each<T>(at, end, [&](int64_t j, auto part) {
                    const Vec<T> v = load(row + j, part);
                    if (kept) store(kept + j, v, part);
                    if (bias) store(row + j, v + load(bias + j, part), part);
                });
            }
        }
    }

    // x of the chunk that starts at step t as operands of products; all of the team write their rows
    Stack<const O> x_operands(int64_t t) const {
        if (pre_) return dense<const O>(normed_x_, steps_from(t) * rows_, pitch_x_);
        if constexpr (rounds) {
            if constexpr (std::is_same_v<O, S> && std::is_same_v<R, S> && !by_tiles<R>)
                if (x_is_operand_) return x_rows(job_.in.x, t);
            const int64_t rows = steps_from(t) * rows_;
            const Stack<const S> x = x_rows(job_.in.x, t);
            for (int64_t m = rows * me_.rank / me_.size; m < rows * (me_.rank + 1) / me_.size; ++m) {
                O* to = x_operands_ + m * pitch_x_;
                each<T>(I_, [&](int64_t j, auto part) {
                    store_operand<R>(to + j, load(x.at(m) + j, part), part);
                });
                memset(to + I_, 0, (Operands<R>::padding(I_) - I_) * sizeof(O));
            }
            me_.team->meet(me_.size);
            return dense<const O>(x_operands_, rows, pitch_x_);
        } else {
            return x_rows(job_.in.x, t);
        }
    }

    // the gradient of h U of step t from a gate on, as operands: of the gates before `early_`, or of
    // those from it on
    Stack<const O> gradients_of(int64_t t, int from) const {
        if constexpr (rounds)
            return dense<const O>(operands_of_dhu(t) + (from ? late_ : 0), rows_, pitch_d_);
        else
            return dense<const T>(dhu_row(t, 0) + from * H_, rows_, wide_);
    }

    O* operands_of_dhu(int64_t t) const { return dhu_operands_ + t % chunk_ * rows_ * pitch_d_; }

    int64_t steps_from(int64_t t) const { return std::min(chunk_, job_.n.T - t); }

    // x W + bias_x of some steps from step t on, whose operands are x
    void project_inputs(int64_t t, int64_t steps, Stack<const O> x) const {
        const bool in_place = !narrow && job_.out.xw;
        const int64_t rows = steps * rows_, step = job_.n.B * wide_;
        const Stack<T> to = {inputs(t), rows_, in_place ? step : rows_ * wide_, wide_};
        S* kept = narrow && job_.out.xw && !reads_kept_ ? job_.out.xw + at(t, 0) * wide_ : nullptr;
        multiply_own(rows, gates_, H_, I_, x, job_.packed.kernel, job_.weights.bias_x, to,
                     {kept, rows_, step, wide_});
        me_.team->meet(me_.size);
    }

    // the same of all steps of the chunk
    void project_chunk(int64_t t) const {
        meet_before_inputs();
        project_inputs(t, steps_from(t), x_operands(t));
    }

    // where x W is not kept in place: the one before it, and its operands, have been read by all
    void meet_before_inputs() const {
        if (narrow || !job_.out.xw) me_.team->meet(me_.size);
    }

    // C (rows, N) = bias + A (rows, K) P of the rows of a step, whose columns the team shares
    void multiply_rows(int64_t N, int64_t K, Stack<const O> a, const void* packed, const T* bias,
                       Stack<T> c) const {
        int64_t first, last;
        my_panels(N, first, last);
        product<R>(rows_, N, K, a, packed, bias, c, first, last);
        me_.team->meet(me_.size);
    }

    // gradients of x, W and U from those of x W and h U, for the chunk that starts at step t
    void back_to_inputs(int64_t t) const {
        const int64_t rows = steps_from(t) * rows_;
        const Stack<const O> x = x_operands(t);
        Stack<const O> dxw, dhu, late;
        if constexpr (rounds) {
            dxw = dense<const O>(dxw_operands_, rows, pitch_d_);
            dhu = dense<const O>(dhu_operands_, rows, pitch_d_), late = dhu.from(late_);
        } else {
            dxw = dense<const T>(dxw_, rows, wide_);
            dhu = dense<const T>(dhu_, rows, wide_), late = dhu.from(early_ * H_);
        }
        if (job_.grad.dx && !pre_) {
            int64_t first, last;
            my_panels(I_, first, last);
            const Stack<S> dx = x_rows(job_.grad.dx, t);
            if constexpr (narrow) {
                const Stack<T> sums = dense(dx_, rows, I_);
                product<R, T>(rows, I_, wide_, dxw, job_.packed.kernel_back, nullptr, sums, first,
                              last);
                keep(rows, I_, sums, dx, nullptr, first, last);
            } else {
                product<R, T>(rows, I_, wide_, dxw, job_.packed.kernel_back, nullptr, dx, first,
                              last);
            }
        }
        // the first chunk to come is the last one in time
        const bool add = t + chunk_ < job_.n.T;
        sum_outer(rows, x, dxw, add, dkernel_);
        if (!job_.spec.diagonal)
            sum_outer(rows, dense<const O>(entering_, rows, pitch_h_), dhu, add, dfirst_);
        if (two_) sum_outer(rows, dense<const O>(gated_, rows, pitch_h_), late, add, dsecond_);
        if (projects_)
            sum_outer(rows, dense<const O>(outputs_, rows, pitch_m_),
                      dense<const O>(doutputs_, rows, pitch_h_), add, dprojection_);
        // the operands of the next chunk take the place of these
        if (by_units_) me_.team->meet(me_.size);
    }

    // the gradient of a matrix: of what it multiplies, and of the gradient of their product
    void sum_outer(int64_t rows, Stack<const O> a, Stack<const O> d, bool add, const Matrix& to) const {
        if (to.turned) std::swap(a, d);
        int64_t first, last;
        my_panels(to.N, first, last);
        if constexpr (by_tiles<R>)
            outer_of_tiles<R>(rows, to.M, to.N, a, d, add, to.at, to.row, to.tiles, outer_memory_, first,
                              last);
        else
            outer<R>(rows, to.M, to.N, a, d, add, to.at, to.row, outer_memory_, first, last);
    }

    // h U + bias_h of step t; of two products also r, z, r h and the second
    void project(const O* entered, int64_t t, O* gated) const {
        const T* bias = job_.weights.bias_h;
        T* hu = projected(t);
        S* kept = job_.out.hu && !reads_kept_ ? job_.out.hu + at(t, 0) * wide_ : nullptr;
        multiply(early_, H_, R_, rows_of(entered, pitch_h_), job_.packed.first, bias,
                 rows_of(hu, wide_), kept);
        if constexpr (C::may_gate) {
            if (!two_) return;
            // the r h of a masked row stays what it was: a number, and not used
            each_rows(t, [&](Rows<T>& rows) {
                place(rows, t, nullptr, nullptr);
                prepare(k_, rows, 0, early_);
                C::early(k_, rows);
                for (const Row<T>* w : rows) {
                    const O* h = entered + w->index * pitch_h_;
                    O* to = gated + w->index * pitch_h_;
                    each_unit(k_, [&](int64_t j, auto part) {
                        const Vec<T> v = load(w->p + j, part) * load(h + j, part);
                        put_operand(to + j, v, part);
                    });
                }
            });
            const int64_t at = early_ * H_;
            multiply(1, H_, R_, rows_of<const O>(gated, pitch_h_), job_.packed.second,
                     bias ? bias + at : nullptr, rows_of(hu + at, wide_), kept ? kept + at : nullptr);
        }
    }

    // call f(j, part, v) for the own units of row r of h, with the numbers v that enter u h at step t
    template <class F>
    void each_entering(const T* h, int64_t t, int64_t r, F f) const {
        const T* from = fresh(t, r) ? fresh_h(r) : h + r * H_;
        const T* mask = noise_at(job_.in.recurrent, t, me_.first + r, H_);
        each_unit(k_, [&](int64_t j, auto part) {
            f(j, part, load(from + j, part) * factor<T>(mask, j, part));
        });
    }

    // u h + bias_h of step t; those who share all units share the rows
    void scale_hidden(const T* h, int64_t t) const {
        const T *u = job_.weights.recurrent, *bias = job_.weights.bias_h;
        S* kept = narrow && job_.out.hu && !reads_kept_ ? job_.out.hu + at(t, 0) * H_ : nullptr;
        const int rank = by_units_ ? 0 : me_.rank, size = by_units_ ? 1 : me_.size;
        for (int64_t r = rows_ * rank / size; r < rows_ * (rank + 1) / size; ++r) {
            T* to = projected(t) + r * H_;
            each_entering(h, t, r, [&](int64_t j, auto part, Vec<T> v) {
                v *= load(u + j, part);
                if (kept) store(kept + r * H_ + j, v, part);
                if (bias) v += load(bias + j, part);
                store(to + j, v, part);
            });
        }
        if (!by_units_) me_.team->meet(me_.size);
    }

    // its gradient, to that of h and to the sums of that of u
    void scale_hidden_back(const T* h, int64_t t, T* dq) const {
        const T* u = job_.weights.recurrent;
        // the gradients of x W, which a product of all units reads, are there
        if (by_units_) me_.team->meet(me_.size);
        for (int64_t r = 0; r < rows_; ++r) {
            if (masked(t, r)) continue;
            each_entering(h, t, r, [&](int64_t j, auto part, Vec<T> v) {
                const Vec<T> d = load(dhu_row(t, r) + j, part);
                store(dq + r * H_ + j, d * load(u + j, part), part);
                store(recurrent_sums_ + j, load(recurrent_sums_ + j, part) + d * v, part);
            });
        }
    }

    // the forward values
    void recompute(Rows<T>& rows) const {
        if constexpr (C::may_gate) {
            if (two_) {  // r and z are there
                prepare(k_, rows, early_, gates_);
                C::late(k_, rows);
                return;
            }
        }
        C::gates(k_, rows);
    }

    Before<T> origin(const T* h, const T* c, int64_t t, int64_t r) const {
        const T* candidate = noise_at(job_.in.candidate, t, me_.first + r, H_);
        if (fresh(t, r)) return {fresh_h(r), fresh_c(r), candidate};
        return {h ? h + r * R_ : nullptr, c ? c + r * H_ : nullptr, candidate};
    }

    void begin(T* d, const T* last, int64_t width, int64_t end) const {
        for (int64_t r = 0; r < rows_; ++r)
            each<T>(first_, end, [&](int64_t j, auto part) {
                const T* from = last ? last + (me_.first + r) * width : zeros_;
                store(d + r * width + j, load(from + j, part), part);
            });
    }

    // the gradient of this step's outputs, and zeros where a mask leaves a row out
    void begin_back(int64_t t) const {
        for (int64_t r = 0; r < rows_; ++r) {
            if (job_.grad.dh) add_hidden(dh_ + r * R_, h_row(job_.grad.dh, t, r));
            if (!masked(t, r)) continue;
            auto clear_columns = [&](int from, int to, Return d) {
                d.bias = nullptr;
                each_column(from, to, [&](int64_t i, auto part) { d.put(i, Vec<T>{}, part); });
            };
            clear_columns(0, gates_, return_x(t, r));
            clear_columns(0, early_, return_h(t, r, 0));
            clear_columns(early_, gates_, return_h(t, r, early_));
        }
    }

    // gradients of pre-activations and, unless r needs another product, of x W and h U
    void back_rows(int64_t t, Rows<T>& rows) {
        const bool zone_h = acts(job_.in.take_h), zone_c = C::has_c && acts(job_.in.take_c);
        for (Row<T>* w : rows) {
            const int64_t b = me_.first + w->index;
            // h U's gradient takes the place of the pre-activations' once that was used
            if (!two_ && !rounds) w->d = dhu_row(t, w->index);
            if (zone_h && !projects_) zone_out_hidden(t, *w);
            if (zone_c)
                zone_out_back(noise_at(job_.in.take_c, t, b, H_), job_.in.take_c.value, first_, last_,
                              w->dc, w->rest_c);
        }
        if (projects_) {
            for (Row<T>* w : rows) {
                copy_units(ring_at(dout_ring_, t, H_) + w->index * H_, w->dout);
                w->dh = w->dout;
            }
        } else {
            recompute(rows);
            if (job_.spec.hidden_norm) {
                for (Row<T>* w : rows) C::emit(k_, *w, w->output, w->carried);
                hidden_statistics(rows);
                hidden_norm_back(rows);
            }
        }
        if constexpr (C::may_gate) {
            if (two_) {
                C::back_late(k_, rows);
                norms_back(t, rows, 0, 0, early_, gates_);
            }
        }
        if (!two_) {
            C::back(k_, rows);
            norms_back(t, rows, 0, gates_, 0, gates_);
        }
        for (Row<T>* w : rows) {
            if (projects_) {  // nothing goes straight to the old h but what zoneout lets through
                w->dh = dh_ + w->index * R_;
                copy_hidden(zone_h ? w->rest_h : zeros_, w->dh);
            } else if (zone_h) {
                add_hidden(w->dh, w->rest_h);
            }
            if (zone_c) add_units(w->dc, w->rest_c);
        }
    }

    void zone_out_hidden(int64_t t, Row<T>& w) const {
        zone_out_back(noise_at(job_.in.take_h, t, me_.first + w.index, R_), job_.in.take_h.value,
                      first_, last_h_, w.dh, w.rest_h);
    }

    // what the norm of the new h is of
    const T* before_norm(const Row<T>& w) const { return projects_ ? w.raw_h : w.output; }

    void hidden_statistics(Rows<T>& rows) const {
        statistics<T>(job_.spec, k_.epsilon, share_, rows.n,
                      measured(at_hidden_, rows, 0, 1,
                               [&](const Row<T>& w) { return before_norm(w); }, &Row<T>::at_hidden));
    }

    // the gradient of the new h to that of what is normed, in its place
    void hidden_norm_back(Rows<T>& rows) const {
        norm_back<T>(job_.spec, R_, share_, rows.n, returned(at_hidden_, 0, 1, [&](int i) {
                         Row<T>& w = *rows.at[i];
                         return NormBack<T>{&w.at_hidden, before_norm(w), {w.dh}, w.dh};
                     }));
        if (k_.clip > 0)
            for (Row<T>* w : rows) bound(w->dh, first_, last_h_, k_.clip);
    }

    // from the cell's output, which may be projected by now, to the new h
    void put_out(int64_t t, Rows<T>& rows, T* new_h) const {
        if (projects_)
            for (Row<T>* w : rows) take_projected(t, *w);
        if (job_.spec.hidden_norm) hidden_statistics(rows);
        for (Row<T>* w : rows) {
            T* h = new_h + w->index * R_;
            if (job_.spec.hidden_norm)
                each_hidden([&](int64_t j, auto part) {
                    store(h + j,
                          affine(at_hidden_, w->at_hidden, load(before_norm(*w) + j, part), 0, j, part),
                          part);
                });
            else if (projects_)
                copy_hidden(w->raw_h, h);
            if (acts(job_.in.take_h))
                zone_out(noise_at(job_.in.take_h, t, me_.first + w->index, R_), job_.in.take_h.value,
                         first_, last_h_, w->from.h, h);
        }
    }

    // the output of a row as an operand of its projection
    void to_projection(const Row<T>& w, O* outputs) const {
        O* to = outputs + w.index * pitch_m_;
        each<T>(H_, [&](int64_t j, auto part) {
            put_operand(to + j, load(w.output + j, part), part);
        });
    }

    void project_outputs(int64_t t, const O* outputs) const {
        multiply_rows(R_, H_, rows_of(outputs, pitch_m_), job_.packed.projection,
                      job_.weights.projection_bias, rows_of(ring_at(raw_ring_, t, R_), R_));
    }

    // a row that was projected, within its bound
    void take_projected(int64_t t, Row<T>& w) const {
        copy_hidden(ring_at(raw_ring_, t, R_) + w.index * R_, w.raw_h);
        if (k_.clips.projection > 0) bound(w.raw_h, 0, R_, k_.clips.projection);
    }

    // the forward values of step t, and the gradient of what was projected
    void back_projection(int64_t t, const T* h, const T* c) {
        const int64_t in_chunk = t % chunk_ * rows_;
        O *outputs = outputs_ + in_chunk * pitch_m_, *doutputs = doutputs_ + in_chunk * pitch_h_;
        const bool again = k_.clips.projection > 0 || job_.spec.hidden_norm;
        for (int64_t r = 0; r < rows_; ++r)
            if (masked(t, r)) {
                memset(outputs + r * pitch_m_, 0, pitch_m_ * sizeof(O));
                memset(doutputs + r * pitch_h_, 0, pitch_h_ * sizeof(O));
            }
        each_rows(t, [&](Rows<T>& rows) {
            place(rows, t, h, c);
            recompute(rows);
            for (Row<T>* w : rows) {
                C::emit(k_, *w, w->output, w->carried);
                to_projection(*w, outputs);
            }
        });
        if (again) project_outputs(t, outputs);
        each_rows(t, [&](Rows<T>& rows) {
            for (Row<T>* w : rows) {
                if (acts(job_.in.take_h)) zone_out_hidden(t, *w);
                if (again) take_projected(t, *w);
            }
            if (job_.spec.hidden_norm) {
                hidden_statistics(rows);
                hidden_norm_back(rows);
            }
            for (Row<T>* w : rows) {
                const T* raw = ring_at(raw_ring_, t, R_) + w->index * R_;
                O* to = doutputs + w->index * pitch_h_;
                each_hidden([&](int64_t j, auto part) {
                    Vec<T> d = load(w->dh + j, part);
                    if (k_.clips.projection > 0)
                        d = within_bound<T>(load(raw + j, part), d, k_.clips.projection);
                    if (projection_bias_sums_)
                        store(projection_bias_sums_ + j, load(projection_bias_sums_ + j, part) + d,
                              part);
                    put_operand(to + j, d, part);
                });
            }
        });
        multiply_rows(H_, R_, rows_of<const O>(doutputs, pitch_h_), job_.packed.projection_back,
                      nullptr, rows_of(ring_at(dout_ring_, t, H_), H_));
    }

    // the gradients of x W and h U of step t, through the norm of [x, h], to those of x and of h: the
    // latter take the place of the rows
    void back_joint(int64_t t) const {
        const int64_t wide = I_ + R_;
        T* d = ring_at(djoint_ring_, t, wide);
        Stack<const O> dxw;
        if constexpr (rounds)
            dxw = rows_of<const O>(dxw_operands_ + t % chunk_ * rows_ * pitch_d_, pitch_d_);
        else
            dxw = rows_of<const T>(dxw_row(t, 0), wide_);
        int64_t first, last;
        my_panels(I_, first, last);
        product<R>(rows_, I_, wide_, dxw, job_.packed.kernel_back, static_cast<const T*>(nullptr),
                   rows_of(d, wide), first, last);
        multiply_rows(R_, early_ * H_, gradients_of(t, 0), job_.packed.first_back, nullptr,
                      rows_of(d + I_, wide));
        auto of_row = [&](int64_t i) {
            const int64_t r = seen_rows_[i];
            T* row = joint_ + r * wide;
            return NormBack<T>{&at_joint_[r], row, {d + r * wide}, row};
        };
        norm_back<T>(job_.spec, wide, share_, seen_, returned(joint_site_, 0, 1, of_row));
        if (!job_.grad.dx || !me_.leads()) return;
        const Stack<S> dx = x_rows(job_.grad.dx, t);
        for (int64_t r = 0; r < rows_; ++r) {
            if (masked(t, r)) memset(joint_ + r * wide, 0, I_ * sizeof(T));
            copy(I_, joint_ + r * wide, dx.at(r));
        }
    }

    // of two products: from the gradient of r h to those of r, z and all that is before them
    void back_gated(int64_t t, const O* entered, T* dq) {
        multiply(1, R_, H_, gradients_of(t, early_), job_.packed.second_back, nullptr,
                 rows_of(dq, R_));
        each_rows(t, [&](Rows<T>& rows) {
            C::back_early(k_, rows, entered, pitch_h_, dq, through_gate_);
            norms_back(t, rows, 0, gates_, 0, early_);
        });
    }

    // the gradient of the rows that entered the product, back to the states before the step
    void back_to_state(int64_t t, int64_t r, const T* h, const T* dq) const {
        T *dh = dh_ + r * R_, *dc = dc_ + r * H_;
        if (fresh(t, r) && !job_.grad.dreset_h) {
            each_hidden([&](int64_t j, auto part) { store(dh + j, Vec<T>{}, part); });
            clear(k_, dc);
            return;
        }
        const T* mask = noise_at(job_.in.recurrent, t, me_.first + r, R_);
        const T* before = fresh(t, r) ? fresh_h(r) : h + r * R_;
        const T* bounded = k_.clips.hidden > 0 ? before : nullptr;
        each_hidden([&](int64_t j, auto part) {
            Vec<T> d = load(dq + j, part);
            if (two_) d += load(through_gate_ + r * H_ + j, part);
            if (bounded) d = within_bound<T>(load(bounded + j, part), d, k_.clips.hidden);
            store(dh + j, load(dh + j, part) + d * factor<T>(mask, j, part), part);
        });
        if (!fresh(t, r)) return;
        move(dh, job_.grad.dreset_h + (me_.first + r) * R_, last_h_);
        if (C::has_c) move(dc, job_.grad.dreset_c + (me_.first + r) * H_, last_);
    }

    // add own units of a row to those of a result, and leave zeros
    void move(T* d, T* to, int64_t end) const {
        each<T>(first_, end, [&](int64_t j, auto part) {
            if (writes_results()) store(to + j, load(to + j, part) + load(d + j, part), part);
            store(d + j, Vec<T>{}, part);
        });
    }

    // zeros in the rows of a sum over resets
    void clear_reset_states(T* sums, int64_t width, int64_t end) const {
        if (sums && writes_results()) begin(sums + me_.first * width, nullptr, width, end);
    }

    // the gradient of a row's x W; where no norm tells them apart it is that of h U
    T* dxw_row(int64_t t, int64_t r) const { return dxw_ + (t % chunk_ * rows_ + r) * wide_; }
    // of h U; where operands are copies, of one step
    T* dhu_row(int64_t t, int64_t r) const {
        return dhu_ + ((rounds ? 0 : t % chunk_ * rows_) + r) * wide_;
    }

    Return return_x(int64_t t, int64_t r) const {
        // with one norm of both x W + h U is one product
        const T bound = pre_ ? k_.clip : T(0);
        if constexpr (rounds) {
            O* operands = apart_ ? dxw_operands_ + (t % chunk_ * rows_ + r) * pitch_d_ : nullptr;
            return {bias_x_sums_, bound, nullptr, operands};
        } else {
            return {bias_x_sums_, bound, dxw_row(t, r), nullptr};
        }
    }

    // the same of h U, in the gates from one on: see gradients_of
    Return return_h(int64_t t, int64_t r, int from) const {
        if constexpr (rounds) {
            O* operands = operands_of_dhu(t) + r * pitch_d_ + (from < early_ ? 0 : late_ - early_ * H_);
            return {bias_h_sums_, k_.clip, job_.spec.diagonal ? dhu_row(t, r) : nullptr, operands};
        } else {
            return {bias_h_sums_, k_.clip, dhu_row(t, r), nullptr};
        }
    }

    // the gradients of x W in the gates [from_x, to_x), and of h U in [from, to): through their norms,
    // into the biases, that of h U clipped
    void norms_back(int64_t t, Rows<T>& rows, int from_x, int to_x, int from, int to) const {
        auto of_x = [&](int i) {
            Row<T>& w = *rows.at[i];
            NormBack<T, Return> back{&w.at_x, w.x, {}, return_x(t, w.index)};
            for (int g = from_x; g < to_x; ++g) back.dy[g] = w.d + g * H_;
            return back;
        };
        auto of_h = [&](int i) {
            Row<T>& w = *rows.at[i];
            NormBack<T, Return> back{&w.at_h, w.s, {}, return_h(t, w.index, from)};
            for (int g = from; g < to; ++g)
                back.dy[g] = job_.spec.apart(g) ? w.dhn : w.d + g * H_;
            return back;
        };
        norm_back<T>(job_.spec, H_, share_, rows.n, returned(k_.x, from_x, to_x, of_x),
                     returned(k_.h, from, to, of_h));
    }

    static bool acts(const Noise<T>& take) { return take.at || take.value != T(1); }

    template <class A>
    void add_units(T* to, const A* what) const {
        each_unit(k_, [&](int64_t j, auto part) {
            store(to + j, load(to + j, part) + load(what + j, part), part);
        });
    }

    template <class A>
    void add_hidden(T* to, const A* what) const {
        each_hidden([&](int64_t j, auto part) {
            store(to + j, load(to + j, part) + load(what + j, part), part);
        });
    }

    const Job<T, S>& job_;
    const Worker<T>& me_;
    const int64_t I_, H_, R_, wide_, rows_, most_, chunk_;  // most_: rows of a chunk; chunk_: steps
    const int gates_, early_;
    const bool two_, pre_, projects_, apart_;
    const int64_t pitch_x_;
    const bool x_is_operand_;  // x can be read where it lies, if it has the type of operands
    const int64_t pitch_h_, pitch_m_, late_, pitch_d_;  // of rows of operands; late_: see gradients_of
    const bool by_units_;
    mutable Share<T> share_;
    const int64_t first_, last_, last_h_;  // units of this worker, and those of h
    bool reads_kept_ = false;  // the projections are those of a forward pass that kept them
    Context<T> k_;
    int64_t memory_, shared_;
    Row<T>* row_list_;
    Row<T>** row_pointers_;
    Site<T> at_hidden_, joint_site_;  // of the new h, and of [x, h]
    T *sums_, *bias_x_sums_ = nullptr, *bias_h_sums_ = nullptr, *zeros_, *row_memory_;
    T *recurrent_sums_ = nullptr, *projection_bias_sums_ = nullptr;
    T *h_ring_, *c_ring_, *xw_, *hu_ring_, *dq_ring_;
    T *dh_, *dc_, *through_gate_, *scaled_;
    // of rows [x, h], values and gradients; of projected outputs, and gradients of what was projected
    T *joint_, *djoint_ring_, *raw_ring_, *dout_ring_;
    Statistics<T>* at_joint_;
    int64_t* seen_rows_;  // of a step: those that no mask leaves out
    int seen_ = 0;
    T *dhu_, *dxw_;            // of the rows of a chunk, or of a step where operands are copies
    O *entering_, *gated_;     // of the rows of a chunk, as are
    O *normed_x_, *outputs_, *doutputs_;
    O *x_operands_, *dhu_operands_ = nullptr, *dxw_operands_ = nullptr;
    T *dx_, *wide_x_, *wide_hu_;  // of what is narrow in memory
    E* outer_memory_;
    Matrix dkernel_, dfirst_, dsecond_, dprojection_;  // of second: the last gate of two products
};

}  // namespace lnrnn::LNRNN_ISA
