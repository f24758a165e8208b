// The steps of streams by one instruction set; compiled once for each.
#include "sequence.h"
#include "stored.h"
#include "stream.h"

namespace lnrnn::LNRNN_ISA {

template <class R>
using StepTypes = Types<float, float, R>;

template <class R>
using Asked = Sequence<StepTypes<R>, Simple<float, true>>;

template <class R>
Asked<R> asked(const StreamJob& job, int64_t rows) {
    const Worker<float> asking{0, rows, 0, 1, 1, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
    return {job, asking};
}

template <class R>
int64_t memory(const StreamJob& job, int64_t rows) {
    return asked<R>(job, rows).memory();
}

template <class R>
int64_t shared(const StreamJob& job, int64_t rows) {
    return asked<R>(job, rows).shared();
}

template <class R>
Runner prepare(const StreamJob& job, const Worker<float>& me, void* at) {
    return with_cell<float>(job.spec, [&]<class C>() -> Runner {
        using S = Sequence<StepTypes<R>, C>;
        static_assert(sizeof(S) == sizeof(Asked<R>));
        return {new (at) S(job, me), [](void* it) { static_cast<S*>(it)->forward(); }};
    });
}

template <class R>
int64_t size_of_packed(int64_t K, int64_t N) {
    return packed_size<R>(K, N);
}

template <class R>
void pack_panels(const float* m, int64_t K, int64_t N, int64_t down, int64_t across, int64_t first,
                 int64_t last, void* packed) {
    pack<R, float>(m, K, N, down, across, first, last, packed);
}

template <class R>
constexpr Steps steps = {
    panels<float>, size_of_packed<R>, pack_panels<R>, memory<R>, shared<R>, sizeof(Asked<R>),
    prepare<R>,
};

#ifndef LNRNN_INTEGERS
extern const Steps steps_float32 = steps<float>;
extern const Steps steps_bfloat16 = steps<Stored<bfloat16>>;
#endif
extern const Steps steps_int8 = steps<Stored<int8_t>>;

}  // namespace lnrnn::LNRNN_ISA
