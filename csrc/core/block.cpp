// Dreamer's block GRU over time for the rows of one worker; compiled once for each instruction set.
#include "block.h"

#include <algorithm>

#include "norm.h"
#include "parts.h"
#include "product.h"

namespace lnrnn::LNRNN_ISA {

// Rows of a few steps that are recomputed, and whose gradients are summed, together.
constexpr int64_t block_chunk_rows = 256;

// Over arrays of T; operands of products are rounded to R, which may be T.
template <class T, class R>
class BlockGRU {
public:
    BlockGRU(const BlockJob<T>& job, const BlockWorker<T>& me, bool back)
        : job_(job),
          me_(me),
          n_(job.n),
          one_(job.n.one()),
          rows_(me.rows()),
          chunk_(back ? std::clamp<int64_t>(block_chunk_rows / std::max<int64_t>(rows_, 1), 1, n_.T) : 1),
          of_p_(divided(n_.P, panels<T>(n_.P), panel_width<T>)),
          of_h_(divided(n_.H, n_.K, one_)) {
        norm_.rms = 1;
        Memory own{me.memory}, shared{me.shared};
        const int64_t H = n_.H, P = n_.P;
        // of all rows of a chunk; a worker with fewer rows may have longer chunks
        const int64_t chunk = std::min(n_.T * rows_, std::max(block_chunk_rows, rows_));
        const int64_t most = back ? chunk : rows_;
        outer_memory_ = own.take<T>(back ? outer_memory<T>(most) : 0);
        hidden_statistics_ = own.take<Statistics<T>>(most);
        layer_statistics_ = own.take<Statistics<T>>(n_.L * most);
        memory_ = own.used;
        entering_ = shared.take<T>(most * H);
        projected_ = shared.take<T>(most * P);
        layers_ = shared.take<T>(n_.L * most * H);
        scratch_ = shared.take<T>(rows_ * H);
        step_ = shared.take<T>(job.kept ? 0 : rows_ * n_.kept());
        dgates_ = shared.take<T>(back ? most * 3 * H : 0);
        dlayers_ = shared.take<T>(back ? (n_.L - 1) * most * H : 0);
        dhidden_ = shared.take<T>(back ? most * P : 0);
        dprojected_ = shared.take<T>(back ? rows_ * P : 0);
        from_hidden_ = shared.take<T>(back ? rows_ * H : 0);
        dh_ = shared.take<T>(back ? rows_ * H : 0);
        for (Share<T>* share : {&of_p_, &of_h_}) {
            share->team = me.team, share->size = me.size;
            share->slots = up(most, 8) * 8;
            share->board = shared.take<Partial<T>>(me.parts > 1 ? 2 * me.parts * share->slots : 0);
        }
        shared_ = shared.used;
    }

    int64_t memory() const { return memory_; }
    int64_t shared() const { return shared_; }

    void forward() {
        const BlockWeights<const T>& w = job_.weights;
        for (int64_t t = 0; t < n_.T; ++t) {
            enter(t, entering_);
            meet();
            multiply(of_p_, n_.P, n_.H, entering_, job_.packed.hidden, w.hidden_bias, hidden(t));
            norm(hidden_site(), of_p_, n_.P, rows_, hidden(t), hidden_statistics_, projected_);
            meet();
            multiply(of_h_, n_.H, n_.P, projected_, job_.packed.projected, nullptr, layer(0, t));
            multiply_blocks(one_, entering_, job_.packed.state, nullptr, dense(scratch_, rows_, n_.H));
            for (int64_t r = 0; r < rows_; ++r) {
                const T *x = job_.x + at(t, r) * n_.H, *state = scratch_ + r * n_.H;
                T* v = layer(0, t).at(r);
                each_unit([&](int64_t j, auto part) {
                    store(v + j, load(x + j, part) + load(v + j, part) + load(state + j, part), part);
                });
            }
            for (int64_t l = 0; l < n_.L; ++l) {
                if (l > 0)
                    multiply_blocks(one_, layers_, layer_packed(l), w.layer_bias + (l - 1) * n_.H,
                                    layer(l, t));
                norm(layer_site(l), of_h_, n_.H, rows_, layer(l, t), layer_statistics_, layers_);
            }
            multiply_blocks(3 * one_, layers_, job_.packed.gates, w.gate_bias, gates(t));
            for (int64_t r = 0; r < rows_; ++r) put_out(t, r);
        }
    }

    void backward() {
        clear();
        for (int64_t end = n_.T; end > 0;) {
            const int64_t begin = (end - 1) / chunk_ * chunk_;
            recompute(begin, end);
            for (int64_t t = end - 1; t >= begin; --t) back_step(t, (t - begin) * rows_);
            meet();
            add_weights(begin, (end - begin) * rows_, end < n_.T);
            meet();  // others may still read what is recomputed next
            end = begin;
        }
        for (int64_t r = 0; r < rows_; ++r) {
            const T* from = dh_ + r * n_.H;
            T* to = job_.dh0 + (me_.first + r) * n_.H;
            each_unit([&](int64_t j, auto part) { store(to + j, load(from + j, part), part); });
        }
    }

private:
    int64_t at(int64_t t, int64_t r) const { return t * n_.B + me_.first + r; }
    bool masked(int64_t t, int64_t r) const { return job_.mask && !job_.mask[at(t, r)]; }
    bool fresh(int64_t t, int64_t r) const { return job_.reset && job_.reset[at(t, r)]; }
    void meet() const {
        if (me_.parts > 1) me_.team->meet(me_.size);
    }

    // the units of this worker among `units`
    Share<T> divided(int64_t units, int64_t panels, int64_t width) const {
        if (me_.parts == 1) return Share<T>(units);
        return Share<T>(units, me_.parts, me_.parts * me_.rank / me_.size,
                        me_.parts * (me_.rank + 1) / me_.size, panels, width);
    }

    template <class F>
    void each_unit(F f) const { each<T>(of_h_.first, of_h_.last, f); }

    // what is kept of the rows from step t on, from a column on
    Stack<T> kept(int64_t t, int64_t column) const {
        const int64_t wide = n_.kept();
        return {(job_.kept ? job_.kept + at(t, 0) * wide : step_) + column, rows_, n_.B * wide, wide};
    }
    Stack<T> hidden(int64_t t) const { return kept(t, 0); }
    Stack<T> layer(int64_t l, int64_t t) const { return kept(t, n_.P + l * n_.H); }
    Stack<T> gates(int64_t t) const { return kept(t, n_.P + n_.L * n_.H); }

    // rows of units from step t on
    template <class A>
    Stack<A> units(A* base, int64_t t) const {
        return {base + at(t, 0) * n_.H, rows_, n_.B * n_.H, n_.H};
    }

    Site<T> hidden_site() const {
        const BlockWeights<T>& g = me_.gradients;
        return Site<T>({{0, -1, -1, -1}}, n_.P, job_.weights.hidden_gain, nullptr, g.hidden_gain,
                       nullptr);
    }
    Site<T> layer_site(int64_t l) const {
        T* dgain = me_.gradients.gain ? me_.gradients.gain + l * n_.H : nullptr;
        return Site<T>({{0, -1, -1, -1}}, n_.H, job_.weights.gain + l * n_.H, nullptr, dgain, nullptr);
    }
    const char* layer_packed(int64_t l) const {
        return job_.packed.layers + (l - 1) * n_.K * packed_size<T>(one_, one_);
    }

    // the h that enters step t in a row; null: zeros
    const T* entered(int64_t t, int64_t r) const {
        if (fresh(t, r)) return nullptr;
        return t ? job_.h + at(t - 1, r) * n_.H : job_.h0 + (me_.first + r) * n_.H;
    }
    template <class P>
    static Vec<T> entering(const T* h, int64_t j, P part) {
        return h ? load(h + j, part) : Vec<T>{};
    }

    // it as an operand, own units
    void enter(int64_t t, T* to) const {
        for (int64_t r = 0; r < rows_; ++r) {
            const T* h = entered(t, r);
            each_unit([&](int64_t j, auto part) {
                store(to + r * n_.H + j, rounded<R>(entering(h, j, part)), part);
            });
        }
    }

    // own columns of rows (N) = bias + a (K) P
    void multiply(const Share<T>& share, int64_t N, int64_t K, const T* a, const void* packed,
                  const T* bias, Stack<T> to) const {
        product<T>(rows_, N, K, dense(a, rows_, K), packed, bias, to, first_panel(share),
                   last_panel(share));
    }
    static int64_t first_panel(const Share<T>& share) { return share.first / panel_width<T>; }
    static int64_t last_panel(const Share<T>& share) {
        return share.first == share.last ? first_panel(share) : up(share.last, panel_width<T>);
    }

    // own blocks of rows = bias + a P, P block-diagonal to N columns in each block from the block's units
    void multiply_blocks(int64_t N, const T* a, const char* packed, const T* bias, Stack<T> to) const {
        blocks_product(N, one_, dense(a, rows_, n_.H), packed, bias, to);
    }
    void blocks_product(int64_t N, int64_t depth, Stack<const T> a, const char* packed, const T* bias,
                        Stack<T> to) const {
        each_block([&](int64_t k) {
            product<T>(rows_, N, depth, a.from(k * depth), packed + k * packed_size<T>(depth, N),
                       bias ? bias + k * N : nullptr, to.from(k * N), 0, panels<T>(N));
        });
    }
    template <class F>
    void each_block(F f) const {
        for (int64_t k = of_h_.first / one_; k < of_h_.last / one_; ++k) f(k);
    }

    // phi of the normed form of rows as operands, own units, and their statistics
    void norm(const Site<T>& site, Share<T>& share, int64_t width, int64_t rows, Stack<T> v,
              Statistics<T>* st, T* to) const {
        auto row = [&](int64_t i) -> const T* { return v.at(i); };
        auto where = [&](int64_t i) -> Statistics<T>& { return st[i] = {}; };
        statistics<T>(norm_, T(job_.epsilon), share, int(rows),
                      Measured<T, decltype(row), decltype(where)>{site, 0, 1, row, where});
        for (int64_t i = 0; i < rows; ++i)
            each<T>(share.first, share.last, [&](int64_t j, auto part) {
                const Vec<T> y = affine(site, st[i], load(v.at(i) + j, part), 0, j, part);
                store(to + i * width + j, rounded<R>(smooth<T>(job_.phi, y)), part);
            });
    }

    // from the gradient d of that, which is lost, to that of the rows
    void norm_back_of(const Site<T>& site, Share<T>& share, int64_t width, Stack<T> v,
                      const Statistics<T>* st, T* d, Stack<T> dv) const {
        for (int64_t i = 0; i < rows_; ++i)
            each<T>(share.first, share.last, [&](int64_t j, auto part) {
                const Vec<T> y = affine(site, st[i], load(v.at(i) + j, part), 0, j, part);
                T* at = d + i * width + j;
                store(at, load(at, part) * smooth_slope<T>(job_.phi, y), part);
            });
        auto row = [&](int64_t i) {
            return NormBack<T>{st + i, v.at(i), {d + i * width}, dv.at(i)};
        };
        norm_back<T>(norm_, width, share, int(rows_), Returned<T, decltype(row)>{site, 0, 1, row});
    }

    // call f(unit, r, n, z, part) with own gates of a row
    template <class F>
    void each_gate(const T* row, F f) const {
        each_block([&](int64_t k) {
            const T* g = row + 3 * k * one_;
            each<T>(one_, [&](int64_t j, auto part) {
                f(k * one_ + j, load(g + j, part), load(g + one_ + j, part),
                  load(g + 2 * one_ + j, part), part);
            });
        });
    }
    struct Gates {
        Vec<T> r, n, z;
        Gates(const BlockJob<T>& job, Vec<T> r, Vec<T> n, Vec<T> z)
            : r(sigmoid<T>(r)), n(tanh<T>(this->r * n)), z(sigmoid<T>(z + T(job.update_bias))) {}
    };

    // the new h of a row, own units
    void put_out(int64_t t, int64_t r) const {
        const T* entered = this->entered(t, r);
        T* h = job_.h + at(t, r) * n_.H;
        if (masked(t, r)) {
            const T* held = t ? h - n_.B * n_.H : job_.h0 + (me_.first + r) * n_.H;
            each_unit([&](int64_t j, auto part) { store(h + j, load(held + j, part), part); });
        } else {
            each_gate(gates(t).at(r), [&](int64_t j, Vec<T> r, Vec<T> n, Vec<T> z, auto part) {
                const Gates it(job_, r, n, z);
                const Vec<T> before = entering(entered, j, part);
                store(h + j, before + it.z * (it.n - before), part);
            });
        }
        if (t + 1 < n_.T) return;
        T* last = job_.h_last + (me_.first + r) * n_.H;
        each_unit([&](int64_t j, auto part) { store(last + j, load(h + j, part), part); });
    }

    // zeros in own sums, and the gradient of the last h
    void clear() const {
        const BlockWeights<T>& g = me_.gradients;
        auto zero = [](const Share<T>& share, T* to, int64_t times = 1) {
            each<T>(share.first * times, share.last * times,
                    [&](int64_t j, auto part) { store(to + j, Vec<T>{}, part); });
        };
        zero(of_p_, g.hidden_bias), zero(of_p_, g.hidden_gain);
        for (int64_t l = 0; l < n_.L; ++l) {
            zero(of_h_, g.gain + l * n_.H);
            if (l > 0) zero(of_h_, g.layer_bias + (l - 1) * n_.H);
        }
        zero(of_h_, g.gate_bias, 3);
        for (int64_t r = 0; r < rows_; ++r) {
            const T* last = job_.dh_last ? job_.dh_last + (me_.first + r) * n_.H : nullptr;
            each_unit([&](int64_t j, auto part) {
                store(dh_ + r * n_.H + j, last ? load(last + j, part) : Vec<T>{}, part);
            });
        }
    }

    // the operands of the products of the steps [begin, end), from what was kept
    void recompute(int64_t begin, int64_t end) {
        const int64_t rows = (end - begin) * rows_;
        for (int64_t t = begin; t < end; ++t) enter(t, entering_ + (t - begin) * rows_ * n_.H);
        norm(hidden_site(), of_p_, n_.P, rows, hidden(begin), hidden_statistics_, projected_);
        for (int64_t l = 0; l < n_.L; ++l)
            norm(layer_site(l), of_h_, n_.H, rows, layer(l, begin), layer_statistics_ + l * most(),
                 layers_ + l * most() * n_.H);
    }
    int64_t most() const { return chunk_ * rows_; }

    // step t, whose rows are from `row` on in the chunk
    void back_step(int64_t t, int64_t row) {
        T* dgates = dgates_ + row * 3 * n_.H;
        for (int64_t r = 0; r < rows_; ++r) back_gates(t, r, dgates + r * 3 * n_.H);
        const Stack<T> dfirst = units(job_.dx, t);
        const Stack<T> scratch = dense(scratch_, rows_, n_.H);
        blocks_product(one_, 3 * one_, dense<const T>(dgates, rows_, 3 * n_.H), job_.packed.gates,
                       nullptr, scratch);
        for (int64_t l = n_.L - 1; l >= 0; --l) {
            const Stack<T> dv = l ? dense(dlayer(l) + row * n_.H, rows_, n_.H) : dfirst;
            norm_back_of(layer_site(l), of_h_, n_.H, layer(l, t), layer_statistics_ + l * most() + row,
                         scratch_, dv);
            if (l > 0) multiply_blocks(one_, dv.base, layer_packed(l), nullptr, scratch);
        }
        meet();
        T* dhidden = dhidden_ + row * n_.P;
        multiply(of_p_, n_.P, n_.H, dfirst.base, job_.packed.projected, nullptr,
                 dense(dprojected_, rows_, n_.P));
        norm_back_of(hidden_site(), of_p_, n_.P, hidden(t), hidden_statistics_ + row, dprojected_,
                     dense(dhidden, rows_, n_.P));
        meet();
        multiply(of_h_, n_.H, n_.P, dhidden, job_.packed.hidden, nullptr,
                 dense(from_hidden_, rows_, n_.H));
        multiply_blocks(one_, dfirst.base, job_.packed.state, nullptr, scratch);
        for (int64_t r = 0; r < rows_; ++r) {
            if (masked(t, r)) continue;
            const bool begins = fresh(t, r);
            each_unit([&](int64_t j, auto part) {
                const int64_t i = r * n_.H + j;
                const Vec<T> all =
                    load(dh_ + i, part) + load(from_hidden_ + i, part) + load(scratch_ + i, part);
                store(dh_ + i, begins ? Vec<T>{} : all, part);
            });
        }
    }
    T* dlayer(int64_t l) const { return dlayers_ + (l - 1) * most() * n_.H; }

    // the gradient of the gates of a row, zeros where a mask holds h; what is left goes straight on
    void back_gates(int64_t t, int64_t r, T* to) const {
        T* dh = dh_ + r * n_.H;
        if (job_.dh) {
            const T* more = job_.dh + at(t, r) * n_.H;
            each_unit([&](int64_t j, auto part) {
                store(dh + j, load(dh + j, part) + load(more + j, part), part);
            });
        }
        auto put = [&](int64_t j, Vec<T> dr, Vec<T> dn, Vec<T> dz, auto part) {
            T* at = to + 3 * (j / one_ * one_) + j % one_;
            store(at, dr, part), store(at + one_, dn, part), store(at + 2 * one_, dz, part);
        };
        const bool held = masked(t, r);
        const T* entered = this->entered(t, r);
        each_gate(gates(t).at(r), [&](int64_t j, Vec<T> r, Vec<T> n, Vec<T> z, auto part) {
            if (held) return put(j, Vec<T>{}, Vec<T>{}, Vec<T>{}, part);
            const Gates it(job_, r, n, z);
            const Vec<T> d = load(dh + j, part);
            const Vec<T> inner = d * it.z * slope<T>(Activation::tanh, it.n);
            put(j, inner * n * slope<T>(Activation::sigmoid, it.r), inner * it.r,
                d * (it.n - entering(entered, j, part)) * slope<T>(Activation::sigmoid, it.z), part);
            store(dh + j, d - d * it.z, part);
        });
    }

    // the sums over the rows of the chunk that begins at a step, to those of later chunks with `add`
    void add_weights(int64_t begin, int64_t rows, bool add) const {
        const BlockWeights<T>& g = me_.gradients;
        const Stack<const T> dfirst = units<const T>(job_.dx, begin);
        const Stack<const T> dhidden = dense<const T>(dhidden_, rows, n_.P);
        const Stack<const T> dgates = dense<const T>(dgates_, rows, 3 * n_.H);
        const Stack<const T> entered = dense<const T>(entering_, rows, n_.H);
        outer<T>(rows, n_.H, n_.P, entered, dhidden, add, g.hidden_kernel, n_.P, outer_memory_,
                 first_panel(of_p_), last_panel(of_p_));
        outer<T>(rows, n_.P, n_.H, dense<const T>(projected_, rows, n_.P), dfirst, add,
                 g.projected_kernel, n_.H, outer_memory_, first_panel(of_h_), last_panel(of_h_));
        auto blocks = [&](Stack<const T> a, Stack<const T> d, int64_t N, T* to, int64_t pitch) {
            each_block([&](int64_t k) {
                outer<T>(rows, one_, N, a.from(k * one_), d.from(k * N), add, to + k * one_ * pitch,
                         pitch, outer_memory_, 0, panels<T>(N));
            });
        };
        auto sum = [&](const Share<T>& share, Stack<const T> d, int64_t times, T* to) {
            for (int64_t i = 0; i < rows; ++i)
                each<T>(share.first * times, share.last * times, [&](int64_t j, auto part) {
                    store(to + j, load(to + j, part) + load(d.at(i) + j, part), part);
                });
        };
        blocks(entered, dfirst, one_, g.state_kernel, one_);
        for (int64_t l = 0; l < n_.L; ++l) {
            const Stack<const T> a = dense<const T>(layers_ + l * most() * n_.H, rows, n_.H);
            if (l + 1 == n_.L) {
                blocks(a, dgates, 3 * one_, g.gate_kernel, 3 * one_);
                continue;
            }
            const Stack<const T> d = dense<const T>(dlayer(l + 1), rows, n_.H);
            blocks(a, d, one_, g.layer_kernel + l * one_, (n_.L - 1) * one_);
            sum(of_h_, d, 1, g.layer_bias + l * n_.H);
        }
        sum(of_p_, dhidden, 1, g.hidden_bias);
        sum(of_h_, dgates, 3, g.gate_bias);
    }

    const BlockJob<T>& job_;
    const BlockWorker<T>& me_;
    const BlockSizes n_;
    const int64_t one_, rows_, chunk_;  // chunk: steps
    Spec norm_{};
    Share<T> of_p_, of_h_;              // this worker's columns of projections, and its units
    int64_t memory_, shared_;
    T* outer_memory_;
    // of the rows of a chunk: h as it enters, its projection and the layers behind their functions
    T *entering_, *projected_, *layers_;
    Statistics<T>*hidden_statistics_, *layer_statistics_;
    T *dgates_, *dlayers_, *dhidden_;
    // of the rows of a step
    T *scratch_, *step_, *dprojected_, *from_hidden_, *dh_;
};

template <class T, class R>
BlockGRU<T, R> asked(const BlockJob<T>& job, const BlockWorker<T>& asking) {
    return {job, asking, job.dx != nullptr};
}

// Pack panels of numbers that are rounded to R.
template <class T, class R>
void pack_rounded(const T* m, int64_t K, int64_t N, int64_t down, int64_t across, int64_t first,
                  int64_t last, void* packed) {
    constexpr int64_t W = panel_width<T>;
    pack<T>(m, K, N, down, across, first, last, packed);
    for (int64_t k = 0; k < K; k += chunk_depth) {
        const int64_t depth = std::min(K - k, chunk_depth);
        T* at = static_cast<T*>(packed) + k * panels<T>(N) * W + first * depth * W;
        each<T>((last - first) * depth * W, [&](int64_t j, auto part) {
            store(at + j, rounded<R>(load(at + j, part)), part);
        });
    }
}

template <class T, class R>
constexpr BlockKernel<T> block_table = {
    panel_width<T>,
    std::is_same_v<T, R> ? pack<T, T> : pack_rounded<T, R>,
    [](const BlockJob<T>& job, int64_t rows, int parts) {
        return asked<T, R>(job, {0, rows, 0, 1, parts}).memory();
    },
    [](const BlockJob<T>& job, int64_t rows, int parts) {
        return asked<T, R>(job, {0, rows, 0, 1, parts}).shared();
    },
    [](const BlockJob<T>& job, const BlockWorker<T>& me) { BlockGRU<T, R>(job, me, false).forward(); },
    [](const BlockJob<T>& job, const BlockWorker<T>& me) { BlockGRU<T, R>(job, me, true).backward(); },
};

extern const BlockKernel<float> block_single = block_table<float, float>;
extern const BlockKernel<float> block_brain = block_table<float, bfloat16>;
extern const BlockKernel<float> block_half = block_table<float, float16>;
extern const BlockKernel<double> block_full = block_table<double, double>;

}  // namespace lnrnn::LNRNN_ISA
