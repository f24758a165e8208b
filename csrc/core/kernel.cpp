// The kernel of one instruction set; compiled once for each.
#include "sequence.h"

namespace lnrnn::LNRNN_ISA {

// Call f with the type of the cell that a spec describes.
template <class T, class F>
auto with_cell(const Spec& spec, F f) {
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

template <class T>
void forward(const Job<T>& job, const Worker<T>& me) {
    with_cell<T>(job.spec, [&]<class C>() { Sequence<T, C>(job, me).forward(); });
}

template <class T>
void backward(const Job<T>& job, const Worker<T>& me) {
    with_cell<T>(job.spec, [&]<class C>() { Sequence<T, C>(job, me).backward(); });
}

template <class T>
int64_t memory(const Job<T>& job, int64_t rows) {
    const Worker<T> asking{0, rows, 0, 1, nullptr, nullptr, nullptr, nullptr, nullptr};
    return Sequence<T, Simple<T, true>>(job, asking).memory();
}

template <class T>
int64_t shared(const Job<T>& job, int64_t rows) {
    const Worker<T> asking{0, rows, 0, 1, nullptr, nullptr, nullptr, nullptr, nullptr};
    return Sequence<T, Simple<T, true>>(job, asking).shared();
}

template <class T>
void function(Activation kind, bool exponential, int64_t n, const T* in, T* out) {
    each<T>(n, [&](int64_t j, auto part) {
        const Vec<T> v = load(in + j, part);
        store(out + j, exponential ? exp<T>(v) : activate<T>(kind, v), part);
    });
}

template <class T>
constexpr Kernel<T> table = {panels<T>, packed_size<T>, pack<T>,     memory<T>,
                             shared<T>, forward<T>,     backward<T>, function<T>};

extern const Kernel<float> kernel_float = table<float>;
extern const Kernel<double> kernel_double = table<double>;

}  // namespace lnrnn::LNRNN_ISA
