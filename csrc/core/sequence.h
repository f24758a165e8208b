// The loop over time for the rows of one worker, forward and backward.
#pragma once

#include "cells.h"
#include "job.h"
#include "product.h"

namespace lnrnn::LNRNN_ISA {

// Memory cut into parts of whole cache lines; without a base it only counts.
template <class T>
struct Memory {
    T* base;
    int64_t used = 0;

    T* take(int64_t n) {
        T* part = base ? base + used : nullptr;
        used += up(n, 64 / sizeof(T)) * (64 / sizeof(T));
        return part;
    }
};

template <class T>
inline const T* noise_at(const Noise<T>& noise, int64_t t, int64_t b, int64_t H) {
    return noise.at ? noise.at + t * noise.stride + b * H : nullptr;
}

// new = old + take (new - old)
template <class T>
inline void zone_out(const Noise<T>& take, int64_t t, int64_t b, int64_t H, const T* old, T* now) {
    if (!take.at && take.value == T(1)) return;
    const T* mask = noise_at(take, t, b, H);
    each<T>(H, [&](int64_t j, auto part) {
        const Vec<T> share = mask ? load(mask + j, part) : splat<T>(take.value);
        const Vec<T> o = load(old + j, part);
        store(now + j, o + share * (load(now + j, part) - o), part);
    });
}

// d = take d, and the rest of d, which goes straight to the old state
template <class T>
inline void zone_out_back(const Noise<T>& take, int64_t t, int64_t b, int64_t H, T* d, T* rest) {
    const T* mask = noise_at(take, t, b, H);
    each<T>(H, [&](int64_t j, auto part) {
        const Vec<T> share = mask ? load(mask + j, part) : splat<T>(take.value);
        const Vec<T> whole = load(d + j, part);
        store(d + j, share * whole, part);
        store(rest + j, whole - share * whole, part);
    });
}

template <class T, class C>
class Sequence {
public:
    Sequence(const Job<T>& job, const Worker<T>& me)
        : job_(job),
          me_(me),
          H_(job.n.H),
          wide_(job.wide()),
          rows_(me.rows()),
          gates_(int(job.spec.gates)),
          early_(int(job.early_gates())),
          two_(job.spec.two_products()),
          k_{job.spec, T(job.epsilon), H_, {}, {}, {}, {}, nullptr, nullptr, nullptr, nullptr} {
        const SumsLayout at(wide_, H_);
        Memory<T> own{me.memory};
        sums_ = own.take(at.size);
        zeros_ = own.take(H_);
        k_.gain_x = own.take(wide_);
        k_.gain_h = own.take(wide_);
        k_.shift = own.take(wide_);
        k_.shift_h = own.take(wide_);
        row_list_ = reinterpret_cast<Row<T>*>(own.take(kept_rows() * sizeof(Row<T>) / sizeof(T)));
        row_memory_ = own.take(Row<T>::size(gates_, H_) * kept_rows());
        entering_ = own.take(rows_ * H_);
        gated_ = own.take(two_ ? rows_ * H_ : 0);
        h_ring_ = own.take(2 * rows_ * H_);
        c_ring_ = own.take(2 * rows_ * H_);
        dh_ = own.take(rows_ * H_);
        dc_ = own.take(rows_ * H_);
        through_gate_ = own.take(two_ ? rows_ * H_ : 0);
        ds_ = own.take(rows_ * wide_);
        dx_ = own.take(wide_);
        memory_ = own.used;
        Memory<T> shared{me.shared};
        s_ring_ = shared.take(2 * rows_ * wide_);
        dq_ring_ = shared.take(4 * rows_ * H_);
        shared_ = shared.used;
        if (!me.memory) return;  // asked for the sizes only

        memset(sums_, 0, at.size * sizeof(T));
        memset(zeros_, 0, H_ * sizeof(T));
        if (two_) memset(gated_, 0, rows_ * H_ * sizeof(T));
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
        bias_sums_ = w.bias_h ? sums_ + at.bias_h : nullptr;
        for (int64_t i = 0; i < wide_; ++i) {
            const T x = w.shift_x ? w.shift_x[i] : T(0), h = w.shift_h ? w.shift_h[i] : T(0);
            k_.gain_x[i] = w.gain_x ? w.gain_x[i] : T(1);
            k_.gain_h[i] = w.gain_h ? w.gain_h[i] : T(1);
            k_.shift[i] = job.spec.apart(int(i / H_)) ? x : x + h;
            k_.shift_h[i] = h;
        }
    }

    int64_t memory() const { return memory_; }
    int64_t shared() const { return shared_; }

    void forward() {
        T* all_h = me_.leads() ? job_.out.h : nullptr;
        T* all_c = me_.leads() ? job_.out.c : nullptr;
        for (int64_t t = 0; t < job_.n.T; ++t) {
            const T* h = before(job_.in.h0, all_h, h_ring_, t);
            const T* c = C::has_c ? before(job_.in.c0, all_c, c_ring_, t) : nullptr;
            T *new_h = now(all_h, h_ring_, t), *new_c = now(all_c, c_ring_, t);
            const T* entered = enter(h, t);
            T* s = projected(t);
            project(entered, t, s);
            for (int64_t r = 0; r < rows_; ++r) {
                if (!masked(t, r)) continue;
                memcpy(new_h + r * H_, h + r * H_, H_ * sizeof(T));
                if (C::has_c) memcpy(new_c + r * H_, c + r * H_, H_ * sizeof(T));
            }
            each_rows(t, [&](Rows<T>& rows) {
                place(rows, t, h, c, s);
                recompute(rows);
                for (const Row<T>* w : rows) {
                    const int64_t r = w->index;
                    T *row_h = new_h + r * H_, *row_c = new_c + r * H_;
                    C::emit(k_, *w, row_h, row_c);
                    zone_out(job_.in.take_h, t, me_.first + r, H_, w->from.h, row_h);
                    if (C::has_c) zone_out(job_.in.take_c, t, me_.first + r, H_, w->from.c, row_c);
                }
            });
        }
        if (!me_.leads()) return;
        const int64_t last = job_.n.T - 1, bytes = rows_ * H_ * sizeof(T);
        memcpy(job_.out.h_last + me_.first * H_, now(all_h, h_ring_, last), bytes);
        if (C::has_c) memcpy(job_.out.c_last + me_.first * H_, now(all_c, c_ring_, last), bytes);
    }

    void backward() {
        begin(dh_, job_.grad.dh_last);
        begin(dc_, job_.grad.dc_last);
        for (int64_t t = job_.n.T - 1; t >= 0; --t) {
            const T* h = before(job_.in.h0, job_.out.h, nullptr, t);
            const T* c = C::has_c ? before(job_.in.c0, job_.out.c, nullptr, t) : nullptr;
            const T* entered = enter(h, t);
            T* s = projected(t);
            if (!job_.out.s || two_) project(entered, t, s);
            T* ds = me_.leads() ? job_.grad.ds + at(t, 0) * wide_ : ds_;
            if (two_ && me_.leads())
                memcpy(job_.grad.rh + at(t, 0) * H_, gated_, rows_ * H_ * sizeof(T));
            begin_back(t, ds);
            each_rows(t, [&](Rows<T>& rows) {
                place(rows, t, h, c, s);
                for (Row<T>* w : rows) w->ds = ds + w->index * wide_;
                back_rows(t, rows);
            });
            T* dq = dq_ring_ + (t & 1) * 2 * rows_ * H_;
            if constexpr (C::may_gate)
                if (two_) back_gated(t, entered, ds, dq + rows_ * H_);
            multiply(H_, early_ * H_, ds, wide_, job_.packed.first_back, nullptr, dq);
            for (int64_t r = 0; r < rows_; ++r)
                if (!masked(t, r)) back_to_state(t, r, dq + r * H_);
        }
        if (!me_.leads()) return;
        const int64_t bytes = rows_ * H_ * sizeof(T);
        memcpy(job_.grad.dh0 + me_.first * H_, dh_, bytes);
        if (C::has_c) memcpy(job_.grad.dc0 + me_.first * H_, dc_, bytes);
    }

private:
    int64_t kept_rows() const { return two_ ? rows_ : together; }
    int64_t at(int64_t t, int64_t r) const { return t * job_.n.B + me_.first + r; }
    bool masked(int64_t t, int64_t r) const { return job_.in.mask && !job_.in.mask[at(t, r)]; }
    bool fresh(int64_t t, int64_t r) const { return job_.in.reset && job_.in.reset[at(t, r)]; }

    // call f for the rows of step t that no mask leaves out, a few at a time
    template <class F>
    void each_rows(int64_t t, F f) const {
        Rows<T> rows;
        for (int64_t r = 0; r < rows_; ++r) {
            if (!masked(t, r)) {
                Row<T>& w = row_list_[two_ ? r : rows.n];
                w.index = r;
                rows.at[rows.n++] = &w;
            }
            if (rows.n == together || (r + 1 == rows_ && rows.n > 0)) {
                f(rows);
                rows.n = 0;
            }
        }
    }

    // where the rows of step t find what they read
    void place(Rows<T>& rows, int64_t t, const T* h, const T* c, const T* s) const {
        for (Row<T>* w : rows) {
            const int64_t r = w->index;
            w->x = job_.in.x + at(t, r) * wide_;
            w->s = s + r * wide_;
            w->from = origin(h, c, t, r);
            w->dh = dh_ + r * H_, w->dc = dc_ + r * H_;
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

    // where h U of step t is: kept in the output, or in memory of the team
    T* projected(int64_t t) const {
        return job_.out.s ? job_.out.s + at(t, 0) * wide_ : s_ring_ + (t & 1) * rows_ * wide_;
    }

    // the rows that enter the product of step t: h itself, or a copy with resets and factors
    const T* enter(const T* h, int64_t t) const {
        if (!job_.in.reset && !job_.in.recurrent.at) return h;
        for (int64_t r = 0; r < rows_; ++r) {
            const T* from = fresh(t, r) ? zeros_ : h + r * H_;
            const T* mask = noise_at(job_.in.recurrent, t, me_.first + r, H_);
            each<T>(H_, [&](int64_t j, auto part) {
                store(entering_ + r * H_ + j, load(from + j, part) * factor<T>(mask, j, part),
                      part);
            });
        }
        return entering_;
    }

    // C (rows, N) = bias + A (rows, K) P for the team: each worker its panels, then all meet
    void multiply(int64_t N, int64_t K, const T* a, int64_t lda, const T* packed, const T* bias,
                  T* c, int64_t ldc = 0) const {
        const int64_t n = panels<T>(N), size = me_.size;
        product<T>(rows_, N, K, a, lda, packed, bias, 0, c, ldc ? ldc : N, n * me_.rank / size,
                   n * (me_.rank + 1) / size);
        me_.team->meet(me_.size);
    }

    // h U + bias_h of step t; of two products also r, z, r h and the second
    void project(const T* entered, int64_t t, T* s) const {
        const T* bias = job_.weights.bias_h;
        multiply(early_ * H_, H_, entered, H_, job_.packed.first, bias, s, wide_);
        if constexpr (C::may_gate) {
            if (!two_) return;
            // the r h of a masked row stays what it was: a number, and not used
            each_rows(t, [&](Rows<T>& rows) {
                place(rows, t, nullptr, nullptr, s);
                start(rows);
                prepare(k_, rows, 0, 2);
                C::early(k_, rows);
                for (const Row<T>* w : rows) {
                    const int64_t q = w->index * H_;
                    each<T>(H_, [&](int64_t j, auto part) {
                        store(gated_ + q + j, load(w->p + j, part) * load(entered + q + j, part),
                              part);
                    });
                }
            });
            multiply(H_, H_, gated_, H_, job_.packed.second, bias ? bias + 2 * H_ : nullptr,
                     s + 2 * H_, wide_);
        }
    }

    // statistics of x W
    void start(Rows<T>& rows) const {
        statistics<T>(job_.spec, k_.epsilon, k_.x, 0, gates_, rows.n,
                      [&](int i) { return rows.at[i]->x; },
                      [&](int i) -> Statistics<T>& { return rows.at[i]->at_x; });
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
        start(rows);
        C::gates(k_, rows);
    }

    Before<T> origin(const T* h, const T* c, int64_t t, int64_t r) const {
        const T* candidate = noise_at(job_.in.candidate, t, me_.first + r, H_);
        if (fresh(t, r)) return {zeros_, zeros_, candidate};
        return {h + r * H_, c ? c + r * H_ : nullptr, candidate};
    }

    void begin(T* d, const T* last) const {
        if (last)
            memcpy(d, last + me_.first * H_, rows_ * H_ * sizeof(T));
        else
            memset(d, 0, rows_ * H_ * sizeof(T));
    }

    // the gradient of this step's outputs, and zeros where a mask leaves a row out
    void begin_back(int64_t t, T* ds) const {
        for (int64_t r = 0; r < rows_; ++r) {
            if (job_.grad.dh) add(dh_ + r * H_, job_.grad.dh + at(t, r) * H_);
            if (!masked(t, r)) continue;
            memset(ds + r * wide_, 0, wide_ * sizeof(T));
            if (job_.grad.dx) memset(dx_row(t, r, ds), 0, wide_ * sizeof(T));
        }
    }

    // gradients of pre-activations and, unless r needs another product, of x W and h U
    void back_rows(int64_t t, Rows<T>& rows) {
        const bool zone_h = acts(job_.in.take_h), zone_c = C::has_c && acts(job_.in.take_c);
        for (Row<T>* w : rows) {
            const int64_t b = me_.first + w->index;
            // h U's gradient takes the place of the pre-activations' once that was used
            if (!two_) w->d = w->ds;
            if (zone_h) zone_out_back(job_.in.take_h, t, b, H_, w->dh, w->rest_h);
            if (zone_c) zone_out_back(job_.in.take_c, t, b, H_, w->dc, w->rest_c);
        }
        recompute(rows);
        if constexpr (C::may_gate) {
            if (two_) {
                C::back_late(k_, rows);
                projection_back(rows, 2, 3);
            }
        }
        if (!two_) {
            C::back(k_, rows);
            input_back(rows, t);
            projection_back(rows, 0, gates_);
        }
        for (Row<T>* w : rows) {
            if (zone_h) add(w->dh, w->rest_h);
            if (zone_c) add(w->dc, w->rest_c);
        }
    }

    // of two products: from the gradient of r h to those of r, z and all that is before them
    void back_gated(int64_t t, const T* entered, T* ds, T* dq) {
        multiply(H_, H_, ds + 2 * H_, wide_, job_.packed.second_back, nullptr, dq);
        each_rows(t, [&](Rows<T>& rows) {
            C::back_early(k_, rows, entered, dq, through_gate_);
            input_back(rows, t);
            projection_back(rows, 0, 2);
        });
    }

    // the gradient of the rows that entered the product, back to the states before the step
    void back_to_state(int64_t t, int64_t r, const T* dq) const {
        T *dh = dh_ + r * H_, *dc = dc_ + r * H_;
        if (fresh(t, r)) {
            memset(dh, 0, H_ * sizeof(T));
            memset(dc, 0, H_ * sizeof(T));
            return;
        }
        const T* mask = noise_at(job_.in.recurrent, t, me_.first + r, H_);
        each<T>(H_, [&](int64_t j, auto part) {
            Vec<T> d = load(dq + j, part);
            if (two_) d += load(through_gate_ + r * H_ + j, part);
            store(dh + j, load(dh + j, part) + d * factor<T>(mask, j, part), part);
        });
    }

    // the gradient of a row's x W; where no norm tells them apart it is that of h U
    T* dx_row(int64_t t, int64_t r, T* ds) const {
        if (!job_.grad.dx) return ds + r * wide_;
        return me_.leads() ? job_.grad.dx + at(t, r) * wide_ : dx_;
    }

    void input_back(Rows<T>& rows, int64_t t) const {
        NormBack<T> back[together];
        for (int i = 0; i < rows.n; ++i) {
            Row<T>& w = *rows.at[i];
            T* ds = w.ds - w.index * wide_;
            back[i] = {&w.at_x, w.x, {}, dx_row(t, w.index, ds)};
            for (int g = 0; g < gates_; ++g) back[i].dy[g] = w.d + g * H_;
        }
        norm_back<T>(job_.spec, k_.x, rows.n, back, H_, 0, gates_);
    }

    // the gradient of the gates [from, to) of h U: through its norm, into the bias, clipped
    void projection_back(Rows<T>& rows, int from, int to) const {
        NormBack<T> back[together];
        for (int i = 0; i < rows.n; ++i) {
            Row<T>& w = *rows.at[i];
            back[i] = {&w.at_h, w.s, {}, w.ds};
            for (int g = from; g < to; ++g)
                back[i].dy[g] = job_.spec.apart(g) ? w.dhn : w.d + g * H_;
        }
        norm_back<T>(job_.spec, k_.h, rows.n, back, H_, from, to);
        const int64_t first = from * H_, count = (to - from) * H_;
        for (Row<T>* w : rows) {
            T* ds = w->ds + first;
            if (bias_sums_) add(bias_sums_ + first, ds, count);
            if (job_.clip > 0) {
                const T bound = T(job_.clip);
                each<T>(count, [&](int64_t j, auto part) {
                    Vec<T> d = load(ds + j, part);
                    d = d > bound ? splat<T>(bound) : d;
                    store(ds + j, d < -bound ? splat<T>(-bound) : d, part);
                });
            }
        }
    }

    static bool acts(const Noise<T>& take) { return take.at || take.value != T(1); }

    void add(T* to, const T* what, int64_t n) const {
        each<T>(n, [&](int64_t j, auto part) {
            store(to + j, load(to + j, part) + load(what + j, part), part);
        });
    }

    void add(T* to, const T* what) const { add(to, what, H_); }

    const Job<T>& job_;
    const Worker<T>& me_;
    const int64_t H_, wide_, rows_;
    const int gates_, early_;
    const bool two_;
    Context<T> k_;
    int64_t memory_, shared_;
    Row<T>* row_list_;
    T *sums_, *bias_sums_ = nullptr, *zeros_, *row_memory_, *entering_, *gated_;
    T *h_ring_, *c_ring_, *s_ring_;
    T *dh_, *dc_, *through_gate_, *ds_, *dx_, *dq_ring_;
};

}  // namespace lnrnn::LNRNN_ISA
