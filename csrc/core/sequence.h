// The loop over time for the rows of one worker, forward and backward.
#pragma once

#include <algorithm>

#include "cells.h"
#include "job.h"
#include "product.h"

namespace lnrnn::LNRNN_ISA {

// Memory cut into parts of whole cache lines; without a base it only counts.
struct Memory {
    char* base;
    int64_t used = 0;

    template <class T>
    T* take(int64_t n) {
        T* part = base ? reinterpret_cast<T*>(base + used) : nullptr;
        used += up(n * sizeof(T), 64) * 64;
        return part;
    }
};

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

// new = old + take (new - old)
template <class T>
inline void zone_out(const Context<T>& k, const Noise<T>& take, int64_t t, int64_t b, const T* old,
                     T* now) {
    if (!take.at && take.value == T(1)) return;
    const T* mask = noise_at(take, t, b, k.H);
    each_unit(k, [&](int64_t j, auto part) {
        const Vec<T> share = mask ? load(mask + j, part) : splat<T>(take.value);
        const Vec<T> o = load(old + j, part);
        store(now + j, o + share * (load(now + j, part) - o), part);
    });
}

// d = take d, and the rest of d, which goes straight to the old state
template <class T>
inline void zone_out_back(const Context<T>& k, const Noise<T>& take, int64_t t, int64_t b, T* d,
                          T* rest) {
    const T* mask = noise_at(take, t, b, k.H);
    each_unit(k, [&](int64_t j, auto part) {
        const Vec<T> share = mask ? load(mask + j, part) : splat<T>(take.value);
        const Vec<T> whole = load(d + j, part);
        store(d + j, share * whole, part);
        store(rest + j, whole - share * whole, part);
    });
}

// The rows of a few steps are projected, and their gradients summed, in one product.
constexpr int64_t chunk_rows = 256;
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
          wide_(job.wide()),
          rows_(me.rows()),
          chunk_(std::clamp<int64_t>(chunk_rows / std::max<int64_t>(rows_, 1), 1, job.n.T)),
          gates_(int(job.spec.gates)),
          early_(int(job.early_gates())),
          two_(job.spec.two_products()),
          apart_(gradients_differ(job) || (rounds && two_)),
          pitch_x_(Operands<R>::padding(I_)),
          x_is_operand_(pitch_x_ == I_ && reinterpret_cast<uintptr_t>(job.in.x) % sizeof(E) == 0),
          pitch_h_(Operands<R>::padding(H_)),
          late_(Operands<R>::padding(early_ * H_)),
          pitch_d_(late_ + (two_ ? pitch_h_ : 0)),
          by_units_(me.parts > 1),
          share_(by_units_ ? Share<T>(H_, me.parts, me.parts * me.rank / me.size,
                                      me.parts * (me.rank + 1) / me.size, panels<E>(H_),
                                      panel_width<E>)
                           : Share<T>(H_)),
          first_(share_.first),
          last_(share_.last),
          k_{job.spec, T(job.epsilon), T(job.clip), H_, share_, {}, {}, {}, {}, nullptr, nullptr,
             nullptr, nullptr} {
        const SumsLayout at(wide_, H_);
        Memory own{me.memory}, shared{me.shared};
        // of what is of all units each worker has a copy, or its part of one
        Memory& common = by_units_ ? shared : own;
        sums_ = common.take<T>(at.size);
        zeros_ = own.take<T>(H_);
        k_.gain_x = own.take<T>(wide_);
        k_.gain_h = own.take<T>(wide_);
        k_.shift = own.take<T>(wide_);
        k_.shift_h = own.take<T>(wide_);
        row_list_ = own.take<Row<T>>(kept_rows());
        row_pointers_ = own.take<Row<T>*>(kept_rows());
        row_memory_ = common.take<T>(Row<T>::size(gates_, H_) * kept_rows());
        // of all rows of a chunk; a worker with fewer rows may have longer chunks
        const int64_t most = std::min(job.n.T * rows_, std::max(chunk_rows, rows_));
        constexpr int64_t spare = spare_rows<R>;
        const int64_t entering = std::max(most, by_units_ ? 2 * rows_ : 0);
        entering_ = common.take<O>((entering + spare) * pitch_h_);
        gated_ = common.take<O>(two_ ? (most + spare) * pitch_h_ : 0);
        h_ring_ = common.take<T>(2 * rows_ * H_);
        c_ring_ = common.take<T>(2 * rows_ * H_);
        dh_ = common.take<T>(rows_ * H_);
        dc_ = common.take<T>(rows_ * H_);
        through_gate_ = common.take<T>(two_ ? rows_ * H_ : 0);
        const int64_t gradients = rounds ? rows_ : most;
        dhu_ = common.take<T>(gradients * wide_);
        dxw_ = apart_ ? common.take<T>(gradients * wide_) : dhu_;
        if constexpr (rounds) {
            dhu_operands_ = common.take<O>((most + spare) * pitch_d_);
            dxw_operands_ = apart_ ? common.take<O>((most + spare) * pitch_d_) : dhu_operands_;
        }
        dx_ = common.take<T>(narrow ? most * I_ : 0);
        wide_x_ = common.take<T>(narrow ? kept_rows() * wide_ : 0);
        wide_hu_ = common.take<T>(narrow ? kept_rows() * wide_ : 0);
        outer_memory_ = own.take<E>(outer_memory<E>(most));
        memory_ = own.used;
        share_.team = me.team, share_.size = me.size;
        // statistics at two sites in each gate, one line of the cache for each part and more
        share_.slots = up(2 * max_gates * kept_rows(), 8) * 8;
        share_.board = shared.take<Partial<T>>(by_units_ ? 2 * share_.parts * share_.slots : 0);
        xw_ = shared.take<T>(job.out.xw && !narrow ? 0 : most * wide_);
        hu_ring_ = shared.take<T>(2 * rows_ * wide_);
        dq_ring_ = shared.take<T>(4 * rows_ * H_);
        x_operands_ = shared.take<O>(rounds ? (most + spare) * pitch_x_ : 0);
        shared_ = shared.used;
        if (!me.memory) return;  // asked for the sizes only

        memset(zeros_, 0, H_ * sizeof(T));
        if (writes_common()) {
            memset(sums_, 0, at.size * sizeof(T));
            // what rows are padded with, and the r h of masked rows
            if (pitch_h_ > H_) memset(entering_, 0, entering * pitch_h_ * sizeof(O));
            if (two_) memset(gated_, 0, most * pitch_h_ * sizeof(O));
            if (pitch_d_ > wide_) {
                memset(dhu_operands_, 0, most * pitch_d_ * sizeof(O));
                if (apart_) memset(dxw_operands_, 0, most * pitch_d_ * sizeof(O));
            }
        }
        for (int64_t r = 0; r < kept_rows(); ++r)
            row_list_[r] = Row<T>(row_memory_ + r * Row<T>::size(gates_, H_), gates_, H_);
        const Weights<T>& w = job.weights;
        auto site = [&](const Groups& groups, const T* gain, const T* shift, int64_t dgain,
                        int64_t dshift) {
            return Site<T>(groups, H_, gain, shift, sums_ + dgain, sums_ + dshift);
        };
        k_.x = site(job.spec.x, w.gain_x, w.shift_x, at.gain_x, at.shift_x);
        k_.h = site(job.spec.h, w.gain_h, w.shift_h, at.gain_h, at.shift_h);
        k_.sum = site(job.spec.sum, w.gain_sum, w.shift_sum, at.gain_sum, at.shift_sum);
        k_.c = site({{0, -1, -1, -1}}, w.gain_c, w.shift_c, at.gain_c, at.shift_c);
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
        T* all_h = writes_results() ? computed(job_.out.h) : nullptr;
        T* all_c = writes_results() ? job_.out.c : nullptr;
        for (int64_t t = 0; t < job_.n.T; ++t) {
            if (t % chunk_ == 0) project_inputs(t);
            const T* h = before(job_.in.h0, all_h, h_ring_, t);
            const T* c = C::has_c ? before(job_.in.c0, all_c, c_ring_, t) : nullptr;
            T *new_h = now(all_h, h_ring_, t), *new_c = now(all_c, c_ring_, t);
            // others may still read those of the step before
            O* entering = entering_ + (by_units_ ? (t & 1) * rows_ * pitch_h_ : 0);
            const O* entered = alters() ? enter(h, t, entering) : as_operands(h);
            project(entered, t, gated_);
            for (int64_t r = 0; r < rows_; ++r) {
                if (!masked(t, r)) continue;
                copy_units(h + r * H_, new_h + r * H_);
                if (C::has_c) copy_units(c + r * H_, new_c + r * H_);
            }
            each_rows(t, [&](Rows<T>& rows) {
                place(rows, t, h, c);
                recompute(rows);
                for (const Row<T>* w : rows) {
                    const int64_t r = w->index;
                    T *row_h = new_h + r * H_, *row_c = new_c + r * H_;
                    C::emit(k_, *w, row_h, row_c);
                    zone_out(k_, job_.in.take_h, t, me_.first + r, w->from.h, row_h);
                    if (C::has_c) zone_out(k_, job_.in.take_c, t, me_.first + r, w->from.c, row_c);
                }
            });
            if (narrow && writes_results())
                for (int64_t r = 0; r < rows_; ++r)
                    copy_units(new_h + r * H_, job_.out.h + at(t, r) * H_);
        }
        if (!writes_results()) return;
        const int64_t last = job_.n.T - 1;
        copy_rows(now(all_h, h_ring_, last), job_.out.h_last + me_.first * H_);
        if (C::has_c) copy_rows(now(all_c, c_ring_, last), job_.out.c_last + me_.first * H_);
    }

    void backward() {
        reads_kept_ = narrow;
        begin(dh_, job_.grad.dh_last);
        begin(dc_, job_.grad.dc_last);
        for (T* sums : {job_.grad.dreset_h, job_.grad.dreset_c})
            for (int64_t r = 0; sums && writes_results() && r < rows_; ++r)
                clear(k_, sums + (me_.first + r) * H_);
        for (int64_t t = job_.n.T - 1; t >= 0; --t) {
            const int64_t in_chunk = t % chunk_ * rows_;
            const int64_t gradients = rounds ? 0 : in_chunk;
            if (!job_.out.xw && (t + 1 == job_.n.T || (t + 1) % chunk_ == 0))
                project_inputs(t - t % chunk_);
            const T* h = kept_h(t);
            const T* c = C::has_c ? before(job_.in.c0, job_.out.c, nullptr, t) : nullptr;
            const O* entered = enter(h, t, entering_ + in_chunk * pitch_h_);
            O* gated = gated_ + in_chunk * pitch_h_;
            T* dhu = dhu_ + gradients * wide_;
            if (!job_.out.hu) project(entered, t, gated);
            begin_back(t, dhu);
            each_rows(t, [&](Rows<T>& rows) {
                place(rows, t, h, c);
                for (Row<T>* w : rows) w->ds = dhu + w->index * wide_;
                back_rows(t, rows);
            });
            T* dq = dq_ring_ + (t & 1) * 2 * rows_ * H_;
            if constexpr (C::may_gate)
                if (two_) back_gated(t, entered, dhu, dq + rows_ * H_);
            if constexpr (rounds) {
                for (int64_t r = 0; r < rows_; ++r) {
                    to_operands(0, early_, dhu + r * wide_, operands_of_dhu(t) + r * pitch_d_);
                    if (apart_)
                        to_operands(0, gates_, dxw_row(t, r),
                                    dxw_operands_ + (in_chunk + r) * pitch_d_);
                }
            }
            multiply(1, early_ * H_, gradients_of(dhu, t, 0), job_.packed.first_back, nullptr,
                     rows_of(dq, H_));
            for (int64_t r = 0; r < rows_; ++r)
                if (!masked(t, r)) back_to_state(t, r, dq + r * H_);
            if (t % chunk_ == 0) back_to_inputs(t);
        }
        if (!writes_results()) return;
        copy_rows(dh_, job_.grad.dh0 + me_.first * H_);
        if (C::has_c) copy_rows(dc_, job_.grad.dc0 + me_.first * H_);
    }

private:
    // rows that go through the stages of a step at the same time, and those that are remembered
    int64_t rows_together() const {
        return by_units_ ? std::min(rows_, most_rows_between_meetings) : int64_t(together);
    }
    int64_t kept_rows() const { return two_ ? rows_ : rows_together(); }
    // whether this worker is the one that writes what is alike for all, or its part of results
    bool writes_common() const { return me_.leads() || !by_units_; }
    bool writes_results() const { return me_.leads() || by_units_; }
    int64_t at(int64_t t, int64_t r) const { return t * job_.n.B + me_.first + r; }
    bool masked(int64_t t, int64_t r) const { return job_.in.mask && !job_.in.mask[at(t, r)]; }
    bool fresh(int64_t t, int64_t r) const { return job_.in.reset && job_.in.reset[at(t, r)]; }
    const T* fresh_state(const T* states, int64_t r) const {
        return states ? states + (me_.first + r) * H_ : zeros_;
    }
    bool alters() const { return rounds || job_.in.reset || job_.in.recurrent.at; }

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

    // own columns of the gates [from, to) as operands of a product
    void to_operands(int from, int to, const T* row, O* operands) const {
        each_column(from, to, [&](int64_t i, auto part) {
            O* o = operands + i - from * H_;
            if constexpr (rounds)
                store_operand<R>(o, load(row + i, part), part);
            else
                store(o, load(row + i, part), part);
        });
    }

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
        return job.weights.gain_x || job.weights.gain_h || spec.apart(2) || job.clip > 0;
    }

    // call f for the rows of step t that no mask leaves out, a few at a time
    template <class F>
    void each_rows(int64_t t, F f) const {
        Rows<T> rows{row_pointers_};
        for (int64_t r = 0; r < rows_; ++r) {
            if (!masked(t, r)) {
                Row<T>& w = row_list_[two_ ? r : rows.n];
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
            if constexpr (narrow) {
                const int64_t slot = w - row_list_;
                if (reads_kept_ && job_.out.xw)
                    w->x = widened(job_.out.xw + at(t, r) * wide_, job_.weights.bias_x,
                                   wide_x_ + slot * wide_);
                if (reads_kept_ && job_.out.hu)
                    w->s = widened(job_.out.hu + at(t, r) * wide_, job_.weights.bias_h,
                                   wide_hu_ + slot * wide_);
            }
            w->from = origin(h, c, t, r);
            w->dh = dh_ + r * H_, w->dc = dc_ + r * H_;
        }
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
        if constexpr (narrow) {
            if (t == 0) return job_.in.h0 + me_.first * H_;
            for (int64_t r = 0; r < rows_; ++r)
                copy_units(job_.out.h + at(t - 1, r) * H_, h_ring_ + r * H_);
            return h_ring_;
        } else {
            return before(job_.in.h0, job_.out.h, nullptr, t);
        }
    }

    // the states before step t: the initial ones, kept in `all`, or in a ring of two steps
    const T* before(const T* initial, const T* all, const T* ring, int64_t t) const {
        if (t == 0) return initial + me_.first * H_;
        return all ? all + at(t - 1, 0) * H_ : ring + ((t - 1) & 1) * rows_ * H_;
    }

    T* now(T* all, T* ring, int64_t t) const {
        return all ? all + at(t, 0) * H_ : ring + (t & 1) * rows_ * H_;
    }

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
            const T* from = fresh(t, r) ? fresh_state(job_.in.reset_h, r) : h + r * H_;
            const T* mask = noise_at(job_.in.recurrent, t, me_.first + r, H_);
            O* row = to + r * pitch_h_;
            each_unit(k_, [&](int64_t j, auto part) {
                // h enters as it is put out
                const Vec<T> v = rounded<R>(load(from + j, part)) * factor<T>(mask, j, part);
                if constexpr (rounds) store_operand<R>(row + j, v, part);
                else store(row + j, v, part);
            });
        }
        return to;
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

    // the rows of x, or of its gradient, from step t on
    template <class A>
    Stack<A> x_rows(A* base, int64_t t) const {
        const int64_t step = job_.batch_first ? I_ : job_.n.B * I_;
        const int64_t row = job_.batch_first ? job_.n.T * I_ : I_;
        return {base + t * step + me_.first * row, rows_, step, row};
    }

    // call f(gate, gates, first, last) for this worker's panels of a product with a column for each
    // unit of `gates` gates: all gates at once, or its units of one after the other
    template <class F>
    void each_product(int gates, F f) const {
        int64_t first, last;
        if (by_units_) {
            const int64_t n = panels<E>(H_);
            first = n * share_.from / share_.parts, last = n * share_.to / share_.parts;
            for (int g = 0; g < gates; ++g) f(g, 1, first, last);
        } else {
            my_panels(gates * H_, first, last);
            f(0, gates, first, last);
        }
    }

    // C (M, gates H) = bias + A (M, K) P: this worker's part, and what is kept of it
    void multiply_own(int64_t M, int gates, int64_t K, Stack<const O> a, const void* packed,
                      const T* bias, Stack<T> c, Stack<S> kept) const {
        each_product(gates, [&](int gate, int count, int64_t first, int64_t last) {
            const int64_t at = gate * H_, N = count * H_;
            const void* p = static_cast<const char*>(packed) + gate * packed_size<R>(K, H_);
            const T* start = bias ? bias + at : nullptr;
            product<R>(M, N, K, a, p, narrow ? nullptr : start, c.from(at), first, last);
            keep(M, N, c.from(at), kept.base ? kept.from(at) : kept, start, first, last);
        });
    }

    // the same for the rows of a step, where all meet: before it if A is of all, else behind it
    void multiply(int gates, int64_t K, Stack<const O> a, const void* packed, const T* bias,
                  Stack<T> c, S* kept = nullptr) const {
        if (by_units_) me_.team->meet(me_.size);
        multiply_own(rows_, gates, K, a, packed, bias, c, {kept, rows_, 0, wide_});
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
        if constexpr (rounds) {
            if constexpr (std::is_same_v<O, S> && !by_tiles<R>)
                if (x_is_operand_) return x_rows(job_.in.x, t);
            const int64_t rows = steps_from(t) * rows_;
            const Stack<const S> x = x_rows(job_.in.x, t);
            for (int64_t m = rows * me_.rank / me_.size; m < rows * (me_.rank + 1) / me_.size; ++m) {
                O* to = x_operands_ + m * pitch_x_;
                each<T>(I_, [&](int64_t j, auto part) {
                    store_operand<R>(to + j, load(x.at(m) + j, part), part);
                });
                memset(to + I_, 0, (pitch_x_ - I_) * sizeof(O));
            }
            me_.team->meet(me_.size);
            return dense<const O>(x_operands_, rows, pitch_x_);
        } else {
            return x_rows(job_.in.x, t);
        }
    }

    // the gradient of h U of step t from a gate on, as operands: of the gates before `early_`, or of
    // those from it on
    Stack<const O> gradients_of(const T* dhu, int64_t t, int from) const {
        if constexpr (rounds)
            return dense<const O>(operands_of_dhu(t) + (from ? late_ : 0), rows_, pitch_d_);
        else
            return dense<const T>(dhu + from * H_, rows_, wide_);
    }

    O* operands_of_dhu(int64_t t) const { return dhu_operands_ + t % chunk_ * rows_ * pitch_d_; }

    int64_t steps_from(int64_t t) const { return std::min(chunk_, job_.n.T - t); }

    // x W + bias_x of the chunk that starts at step t
    void project_inputs(int64_t t) const {
        const bool in_place = !narrow && job_.out.xw;
        // the one before it has been read by all
        if (!in_place) me_.team->meet(me_.size);
        const int64_t rows = steps_from(t) * rows_, step = job_.n.B * wide_;
        const Stack<T> to = {inputs(t), rows_, in_place ? step : rows_ * wide_, wide_};
        S* kept = narrow && job_.out.xw && !reads_kept_ ? job_.out.xw + at(t, 0) * wide_ : nullptr;
        multiply_own(rows, gates_, I_, x_operands(t), job_.packed.kernel, job_.weights.bias_x, to,
                     {kept, rows_, step, wide_});
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
            dhu = dense<const T>(dhu_, rows, wide_), late = dhu.from(2 * H_);
        }
        if (job_.grad.dx) {
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
        sum_outer(rows, I_, x, 0, gates_, dxw, job_.kernel_turned, add, me_.dkernel);
        const bool turned = job_.recurrent_turned;
        sum_outer(rows, H_, dense<const O>(entering_, rows, pitch_h_), 0, early_, dhu, turned, add,
                  me_.drecurrent);
        if (two_)
            sum_outer(rows, H_, dense<const O>(gated_, rows, pitch_h_), 2, 3, late, turned, add,
                      me_.drecurrent);
        // the operands of the next chunk take the place of these
        if (by_units_) me_.team->meet(me_.size);
    }

    // the columns of the gates [from, to) of the gradient (M, G H) of a matrix: of `a` (rows, M) and
    // the gradient `d` of those gates of their product; or of its transpose
    void sum_outer(int64_t rows, int64_t M, Stack<const O> a, int from, int to, Stack<const O> d,
                   bool turned, bool add, T* c) const {
        const int64_t at = from * H_, columns = (to - from) * H_;
        int64_t first, last;
        my_panels(turned ? M : columns, first, last);
        if (turned)
            outer<R>(rows, columns, M, d, a, add, c + at * M, M, outer_memory_, first, last);
        else
            outer<R>(rows, M, columns, a, d, add, c + at, wide_, outer_memory_, first, last);
    }

    // h U + bias_h of step t; of two products also r, z, r h and the second
    void project(const O* entered, int64_t t, O* gated) const {
        const T* bias = job_.weights.bias_h;
        T* hu = projected(t);
        S* kept = job_.out.hu && !reads_kept_ ? job_.out.hu + at(t, 0) * wide_ : nullptr;
        multiply(early_, H_, rows_of(entered, pitch_h_), job_.packed.first, bias, rows_of(hu, wide_),
                 kept);
        if constexpr (C::may_gate) {
            if (!two_) return;
            // the r h of a masked row stays what it was: a number, and not used
            each_rows(t, [&](Rows<T>& rows) {
                place(rows, t, nullptr, nullptr);
                prepare(k_, rows, 0, 2);
                C::early(k_, rows);
                for (const Row<T>* w : rows) {
                    const O* h = entered + w->index * pitch_h_;
                    O* to = gated + w->index * pitch_h_;
                    each_unit(k_, [&](int64_t j, auto part) {
                        const Vec<T> v = load(w->p + j, part) * load(h + j, part);
                        if constexpr (rounds) store_operand<R>(to + j, v, part);
                        else store(to + j, v, part);
                    });
                }
            });
            multiply(1, H_, rows_of<const O>(gated, pitch_h_), job_.packed.second,
                     bias ? bias + 2 * H_ : nullptr, rows_of(hu + 2 * H_, wide_),
                     kept ? kept + 2 * H_ : nullptr);
        }
    }

    // the forward values
    void recompute(Rows<T>& rows) const {
        if constexpr (C::may_gate) {
            if (two_) {  // r and z are there
                prepare(k_, rows, 2, 3);
                C::late(k_, rows);
                return;
            }
        }
        C::gates(k_, rows);
    }

    Before<T> origin(const T* h, const T* c, int64_t t, int64_t r) const {
        const T* candidate = noise_at(job_.in.candidate, t, me_.first + r, H_);
        if (fresh(t, r))
            return {fresh_state(job_.in.reset_h, r), fresh_state(job_.in.reset_c, r), candidate};
        return {h ? h + r * H_ : nullptr, c ? c + r * H_ : nullptr, candidate};
    }

    void begin(T* d, const T* last) const {
        if (last)
            copy_rows(last + me_.first * H_, d);
        else
            for (int64_t r = 0; r < rows_; ++r) clear(k_, d + r * H_);
    }

    void clear_columns(T* row) const {
        each_column(0, gates_, [&](int64_t i, auto part) { store(row + i, Vec<T>{}, part); });
    }

    // the gradient of this step's outputs, and zeros where a mask leaves a row out
    void begin_back(int64_t t, T* ds) const {
        for (int64_t r = 0; r < rows_; ++r) {
            if (job_.grad.dh) add_units(dh_ + r * H_, job_.grad.dh + at(t, r) * H_);
            if (!masked(t, r)) continue;
            clear_columns(ds + r * wide_);
            if (apart_) clear_columns(dxw_row(t, r));
        }
    }

    // gradients of pre-activations and, unless r needs another product, of x W and h U
    void back_rows(int64_t t, Rows<T>& rows) {
        const bool zone_h = acts(job_.in.take_h), zone_c = C::has_c && acts(job_.in.take_c);
        for (Row<T>* w : rows) {
            const int64_t b = me_.first + w->index;
            // h U's gradient takes the place of the pre-activations' once that was used
            if (!two_) w->d = w->ds;
            if (zone_h) zone_out_back(k_, job_.in.take_h, t, b, w->dh, w->rest_h);
            if (zone_c) zone_out_back(k_, job_.in.take_c, t, b, w->dc, w->rest_c);
        }
        recompute(rows);
        if constexpr (C::may_gate) {
            if (two_) {
                C::back_late(k_, rows);
                norms_back(t, rows, 0, 0, 2, 3);
            }
        }
        if (!two_) {
            C::back(k_, rows);
            norms_back(t, rows, 0, gates_, 0, gates_);
        }
        for (Row<T>* w : rows) {
            if (zone_h) add_units(w->dh, w->rest_h);
            if (zone_c) add_units(w->dc, w->rest_c);
        }
    }

    // of two products: from the gradient of r h to those of r, z and all that is before them
    void back_gated(int64_t t, const O* entered, T* ds, T* dq) {
        if constexpr (rounds)
            for (int64_t r = 0; r < rows_; ++r)
                to_operands(2, 3, ds + r * wide_, operands_of_dhu(t) + r * pitch_d_ + late_);
        multiply(1, H_, gradients_of(ds, t, 2), job_.packed.second_back, nullptr,
                 rows_of(dq, H_));
        each_rows(t, [&](Rows<T>& rows) {
            C::back_early(k_, rows, entered, pitch_h_, dq, through_gate_);
            norms_back(t, rows, 0, gates_, 0, 2);
        });
    }

    // the gradient of the rows that entered the product, back to the states before the step
    void back_to_state(int64_t t, int64_t r, const T* dq) const {
        T *dh = dh_ + r * H_, *dc = dc_ + r * H_;
        if (fresh(t, r) && !job_.grad.dreset_h) {
            clear(k_, dh);
            clear(k_, dc);
            return;
        }
        const T* mask = noise_at(job_.in.recurrent, t, me_.first + r, H_);
        each_unit(k_, [&](int64_t j, auto part) {
            Vec<T> d = load(dq + j, part);
            if (two_) d += load(through_gate_ + r * H_ + j, part);
            store(dh + j, load(dh + j, part) + d * factor<T>(mask, j, part), part);
        });
        if (!fresh(t, r)) return;
        move_units(dh, job_.grad.dreset_h, r);
        if (C::has_c) move_units(dc, job_.grad.dreset_c, r);
    }

    // add a row to that of a result, and leave zeros
    void move_units(T* d, T* to, int64_t r) const {
        if (writes_results()) add_units(to + (me_.first + r) * H_, d);
        clear(k_, d);
    }

    // the gradient of a row's x W; where no norm tells them apart it is that of h U
    T* dxw_row(int64_t t, int64_t r) const {
        return dxw_ + ((rounds ? 0 : t % chunk_ * rows_) + r) * wide_;
    }

    // the gradients of x W in the gates [from_x, to_x), and of h U in [from, to): through their norms,
    // into the biases, that of h U clipped
    void norms_back(int64_t t, Rows<T>& rows, int from_x, int to_x, int from, int to) const {
        auto of_x = [&](int i) {
            Row<T>& w = *rows.at[i];
            NormBack<T> back{&w.at_x, w.x, {}, dxw_row(t, w.index)};
            for (int g = from_x; g < to_x; ++g) back.dy[g] = w.d + g * H_;
            return back;
        };
        auto of_h = [&](int i) {
            Row<T>& w = *rows.at[i];
            NormBack<T> back{&w.at_h, w.s, {}, w.ds};
            for (int g = from; g < to; ++g)
                back.dy[g] = job_.spec.apart(g) ? w.dhn : w.d + g * H_;
            return back;
        };
        norm_back<T>(job_.spec, H_, share_, rows.n, returned(k_.x, from_x, to_x, of_x),
                     returned(k_.h, from, to, of_h));
        for (const Row<T>* w : rows) {
            if (bias_x_sums_) add_columns(from_x, to_x, bias_x_sums_, dxw_row(t, w->index));
            if (bias_h_sums_) add_columns(from, to, bias_h_sums_, w->ds);
            if (k_.clip > 0)
                for (int g = from; g < to; ++g)
                    bound(w->ds, g * H_ + first_, g * H_ + last_, k_.clip);
        }
    }

    static bool acts(const Noise<T>& take) { return take.at || take.value != T(1); }

    template <class A>
    void add_units(T* to, const A* what) const {
        each_unit(k_, [&](int64_t j, auto part) {
            store(to + j, load(to + j, part) + load(what + j, part), part);
        });
    }

    void add_columns(int from, int to, T* sums, const T* row) const {
        each_column(from, to, [&](int64_t i, auto part) {
            store(sums + i, load(sums + i, part) + load(row + i, part), part);
        });
    }

    const Job<T, S>& job_;
    const Worker<T>& me_;
    const int64_t I_, H_, wide_, rows_, chunk_;  // chunk: steps
    const int gates_, early_;
    const bool two_, apart_;
    const int64_t pitch_x_;
    const bool x_is_operand_;  // x can be read where it lies, if it has the type of operands
    const int64_t pitch_h_, late_, pitch_d_;  // of rows of operands; late_: see gradients_of
    const bool by_units_;
    mutable Share<T> share_;
    const int64_t first_, last_;  // units of this worker
    bool reads_kept_ = false;  // the projections are those of a forward pass that kept them
    Context<T> k_;
    int64_t memory_, shared_;
    Row<T>* row_list_;
    Row<T>** row_pointers_;
    T *sums_, *bias_x_sums_ = nullptr, *bias_h_sums_ = nullptr, *zeros_, *row_memory_;
    T *h_ring_, *c_ring_, *xw_, *hu_ring_, *dq_ring_;
    T *dh_, *dc_, *through_gate_;
    T *dhu_, *dxw_;            // of the rows of a chunk, or of a step where operands are copies
    O *entering_, *gated_;     // of the rows of a chunk, as are
    O *x_operands_, *dhu_operands_ = nullptr, *dxw_operands_ = nullptr;
    T *dx_, *wide_x_, *wide_hu_;  // of what is narrow in memory
    E* outer_memory_;
};

}  // namespace lnrnn::LNRNN_ISA
