// The loop over time for the rows of one worker, forward and backward.
#pragma once

#include <algorithm>

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

// The rows of a few steps are projected, and their gradients summed, in one product.
constexpr int64_t chunk_rows = 256;

template <class T, class C>
class Sequence {
public:
    Sequence(const Job<T>& job, const Worker<T>& me)
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
          apart_(gradients_differ(job)),
          k_{job.spec, T(job.epsilon), T(job.clip), H_, {}, {}, {}, {}, nullptr, nullptr, nullptr,
             nullptr} {
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
        // of all rows of a chunk; a worker with fewer rows may have longer chunks
        const int64_t most = std::min(job.n.T * rows_, std::max(chunk_rows, rows_));
        entering_ = own.take(most * H_);
        gated_ = own.take(two_ ? most * H_ : 0);
        h_ring_ = own.take(2 * rows_ * H_);
        c_ring_ = own.take(2 * rows_ * H_);
        dh_ = own.take(rows_ * H_);
        dc_ = own.take(rows_ * H_);
        through_gate_ = own.take(two_ ? rows_ * H_ : 0);
        dhu_ = own.take(most * wide_);
        dxw_ = apart_ ? own.take(most * wide_) : dhu_;
        outer_memory_ = own.take(outer_memory<T>(most));
        memory_ = own.used;
        Memory<T> shared{me.shared};
        xw_ = shared.take(job.out.xw ? 0 : most * wide_);
        hu_ring_ = shared.take(2 * rows_ * wide_);
        dq_ring_ = shared.take(4 * rows_ * H_);
        shared_ = shared.used;
        if (!me.memory) return;  // asked for the sizes only

        memset(sums_, 0, at.size * sizeof(T));
        memset(zeros_, 0, H_ * sizeof(T));
        if (two_) memset(gated_, 0, most * H_ * sizeof(T));
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
    }

    int64_t memory() const { return memory_; }
    int64_t shared() const { return shared_; }

    void forward() {
        T* all_h = me_.leads() ? job_.out.h : nullptr;
        T* all_c = me_.leads() ? job_.out.c : nullptr;
        for (int64_t t = 0; t < job_.n.T; ++t) {
            if (t % chunk_ == 0) project_inputs(t);
            const T* h = before(job_.in.h0, all_h, h_ring_, t);
            const T* c = C::has_c ? before(job_.in.c0, all_c, c_ring_, t) : nullptr;
            T *new_h = now(all_h, h_ring_, t), *new_c = now(all_c, c_ring_, t);
            const T* entered = alters() ? enter(h, t, entering_) : h;
            project(entered, t, gated_);
            for (int64_t r = 0; r < rows_; ++r) {
                if (!masked(t, r)) continue;
                memcpy(new_h + r * H_, h + r * H_, H_ * sizeof(T));
                if (C::has_c) memcpy(new_c + r * H_, c + r * H_, H_ * sizeof(T));
            }
            each_rows(t, [&](Rows<T>& rows) {
                place(rows, t, h, c);
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
            const int64_t in_chunk = t % chunk_ * rows_;
            if (!job_.out.xw && (t + 1 == job_.n.T || (t + 1) % chunk_ == 0))
                project_inputs(t - t % chunk_);
            const T* h = before(job_.in.h0, job_.out.h, nullptr, t);
            const T* c = C::has_c ? before(job_.in.c0, job_.out.c, nullptr, t) : nullptr;
            const T* entered = enter(h, t, entering_ + in_chunk * H_);
            T *gated = gated_ + in_chunk * H_, *dhu = dhu_ + in_chunk * wide_;
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
            multiply(H_, early_ * H_, rows_of<const T>(dhu, wide_), job_.packed.first_back, nullptr,
                     rows_of(dq, H_));
            for (int64_t r = 0; r < rows_; ++r)
                if (!masked(t, r)) back_to_state(t, r, dq + r * H_);
            if (t % chunk_ == 0) back_to_inputs(t);
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
    bool alters() const { return job_.in.reset || job_.in.recurrent.at; }

    // whether x W and h U have gradients of their own
    static bool gradients_differ(const Job<T>& job) {
        const Spec& spec = job.spec;
        return job.weights.gain_x || job.weights.gain_h || spec.apart(2) || job.clip > 0;
    }

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
    void place(Rows<T>& rows, int64_t t, const T* h, const T* c) const {
        const T *xw = inputs(t), *hu = projected(t);
        for (Row<T>* w : rows) {
            const int64_t r = w->index;
            w->x = xw + r * wide_;
            w->s = hu + r * wide_;
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

    // where x W of step t is: kept in the output, or in memory of the team
    T* inputs(int64_t t) const {
        if (job_.out.xw) return job_.out.xw + at(t, 0) * wide_;
        return xw_ + t % chunk_ * rows_ * wide_;
    }

    // where h U of step t is, alike
    T* projected(int64_t t) const {
        return job_.out.hu ? job_.out.hu + at(t, 0) * wide_ : hu_ring_ + (t & 1) * rows_ * wide_;
    }

    // the rows that enter the product of step t: those of h with resets and factors
    const T* enter(const T* h, int64_t t, T* to) const {
        for (int64_t r = 0; r < rows_; ++r) {
            const T* from = fresh(t, r) ? zeros_ : h + r * H_;
            const T* mask = noise_at(job_.in.recurrent, t, me_.first + r, H_);
            each<T>(H_, [&](int64_t j, auto part) {
                store(to + r * H_ + j, load(from + j, part) * factor<T>(mask, j, part), part);
            });
        }
        return to;
    }

    // this worker's panels of a product with a matrix of N columns
    void my_panels(int64_t N, int64_t& first, int64_t& last) const {
        const int64_t n = panels<T>(N);
        first = n * me_.rank / me_.size, last = n * (me_.rank + 1) / me_.size;
    }

    // the rows of one step, `row` apart
    template <class P>
    Stack<P> rows_of(P* base, int64_t row) const {
        return dense(base, rows_, row);
    }

    // the rows of x, or of its gradient, from step t on
    template <class P>
    Stack<P> x_rows(P* base, int64_t t) const {
        const int64_t step = job_.batch_first ? I_ : job_.n.B * I_;
        const int64_t row = job_.batch_first ? job_.n.T * I_ : I_;
        return {base + t * step + me_.first * row, rows_, step, row};
    }

    // C (rows, N) = bias + A (rows, K) P for the team: each worker its panels, then all meet
    void multiply(int64_t N, int64_t K, Stack<const T> a, const T* packed, const T* bias,
                  Stack<T> c) const {
        int64_t first, last;
        my_panels(N, first, last);
        product<T>(rows_, N, K, a, packed, bias, c, first, last);
        me_.team->meet(me_.size);
    }

    int64_t steps_from(int64_t t) const { return std::min(chunk_, job_.n.T - t); }

    // x W + bias_x of the chunk that starts at step t
    void project_inputs(int64_t t) const {
        // the one before it has been read by all
        if (!job_.out.xw) me_.team->meet(me_.size);
        const int64_t step = job_.out.xw ? job_.n.B * wide_ : rows_ * wide_;
        int64_t first, last;
        my_panels(wide_, first, last);
        product<T>(steps_from(t) * rows_, wide_, I_, x_rows(job_.in.x, t), job_.packed.kernel,
                   job_.weights.bias_x, {inputs(t), rows_, step, wide_}, first, last);
        me_.team->meet(me_.size);
    }

    // gradients of x, W and U from those of x W and h U, for the chunk that starts at step t
    void back_to_inputs(int64_t t) const {
        const int64_t rows = steps_from(t) * rows_;
        const Stack<const T> x = x_rows(job_.in.x, t), dxw = dense<const T>(dxw_, rows, wide_);
        const Stack<const T> dhu = dense<const T>(dhu_, rows, wide_);
        if (job_.grad.dx) {
            int64_t first, last;
            my_panels(I_, first, last);
            product<T>(rows, I_, wide_, dxw, job_.packed.kernel_back, nullptr,
                       x_rows(job_.grad.dx, t), first, last);
        }
        // the first chunk to come is the last one in time
        const bool add = t + chunk_ < job_.n.T;
        sum_outer(rows, I_, x, 0, gates_, dxw, job_.kernel_turned, add, me_.dkernel);
        const bool turned = job_.recurrent_turned;
        sum_outer(rows, H_, dense<const T>(entering_, rows, H_), 0, early_, dhu, turned, add,
                  me_.drecurrent);
        if (two_)
            sum_outer(rows, H_, dense<const T>(gated_, rows, H_), 2, 3, dhu, turned, add,
                      me_.drecurrent);
    }

    // the columns of the gates [from, to) of the gradient (M, G H) of a matrix: of `a` (rows, M) and
    // the gradient `d` of their product; or of its transpose
    void sum_outer(int64_t rows, int64_t M, Stack<const T> a, int from, int to, Stack<const T> d,
                   bool turned, bool add, T* c) const {
        const int64_t at = from * H_, columns = (to - from) * H_;
        int64_t first, last;
        my_panels(turned ? M : columns, first, last);
        if (turned)
            outer<T>(rows, columns, M, d.from(at), a, add, c + at * M, M, outer_memory_, first, last);
        else
            outer<T>(rows, M, columns, a, d.from(at), add, c + at, wide_, outer_memory_, first, last);
    }

    // h U + bias_h of step t; of two products also r, z, r h and the second
    void project(const T* entered, int64_t t, T* gated) const {
        const T* bias = job_.weights.bias_h;
        T* hu = projected(t);
        multiply(early_ * H_, H_, rows_of(entered, H_), job_.packed.first, bias, rows_of(hu, wide_));
        if constexpr (C::may_gate) {
            if (!two_) return;
            // the r h of a masked row stays what it was: a number, and not used
            each_rows(t, [&](Rows<T>& rows) {
                place(rows, t, nullptr, nullptr);
                start(rows);
                prepare(k_, rows, 0, 2);
                C::early(k_, rows);
                for (const Row<T>* w : rows) {
                    const int64_t q = w->index * H_;
                    each<T>(H_, [&](int64_t j, auto part) {
                        store(gated + q + j, load(w->p + j, part) * load(entered + q + j, part),
                              part);
                    });
                }
            });
            multiply(H_, H_, rows_of<const T>(gated, H_), job_.packed.second,
                     bias ? bias + 2 * H_ : nullptr, rows_of(hu + 2 * H_, wide_));
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
        return {h ? h + r * H_ : nullptr, c ? c + r * H_ : nullptr, candidate};
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
            if (apart_) memset(dxw_row(t, r), 0, wide_ * sizeof(T));
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
        multiply(H_, H_, rows_of<const T>(ds + 2 * H_, wide_), job_.packed.second_back, nullptr,
                 rows_of(dq, H_));
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
    T* dxw_row(int64_t t, int64_t r) const { return dxw_ + (t % chunk_ * rows_ + r) * wide_; }

    void input_back(Rows<T>& rows, int64_t t) const {
        NormBack<T> back[together];
        for (int i = 0; i < rows.n; ++i) {
            Row<T>& w = *rows.at[i];
            back[i] = {&w.at_x, w.x, {}, dxw_row(t, w.index)};
            for (int g = 0; g < gates_; ++g) back[i].dy[g] = w.d + g * H_;
        }
        norm_back<T>(job_.spec, k_.x, rows.n, back, H_, 0, gates_);
        if (bias_x_sums_)
            for (const Row<T>* w : rows) add(bias_x_sums_, dxw_row(t, w->index), wide_);
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
            if (bias_h_sums_) add(bias_h_sums_ + first, ds, count);
            if (k_.clip > 0) bound(ds, count, k_.clip);
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
    const int64_t I_, H_, wide_, rows_, chunk_;  // chunk: steps
    const int gates_, early_;
    const bool two_, apart_;
    Context<T> k_;
    int64_t memory_, shared_;
    Row<T>* row_list_;
    T *sums_, *bias_x_sums_ = nullptr, *bias_h_sums_ = nullptr, *zeros_, *row_memory_;
    T *h_ring_, *c_ring_, *xw_, *hu_ring_, *dq_ring_;
    T *dh_, *dc_, *through_gate_;
    T *entering_, *gated_, *dhu_, *dxw_, *outer_memory_;  // of the rows of a chunk
};

}  // namespace lnrnn::LNRNN_ISA
