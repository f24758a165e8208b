// XLA's foreign function interface: operands and results in any order, named by attributes.
#include "xla.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

#include "block_run.h"
#include "call.h"
#include "runs.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace lnrnn {
namespace {

// XLA's threads.  A worker that XLA has not started within a moment is left out: waiting for it
// could wait for ever, if all threads wait for one another.
class XlaPool : public Pool {
public:
    explicit XlaPool(ffi::ThreadPool& threads)
        : Pool(int(std::max<int64_t>(threads.num_threads(), 1))), host_(threads) {}

    void run(int n, const Task& task) override {
        if (n <= 1) {
            task(0, 1);
            return;
        }
        auto call = std::make_shared<Call>();
        for (int i = 1; i < n; ++i)
            host_.Schedule([call, &task] {
                int rank = call->entered.load();
                do {
                    if (rank < 0) return;  // closed
                } while (!call->entered.compare_exchange_weak(rank, rank + 1));
                int size;
                while ((size = call->size.load(std::memory_order_acquire)) == 0) give_way();
                task(rank, size);
                call->finished.fetch_add(1, std::memory_order_release);
            });
        const auto limit = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
        while (call->entered.load() < n && std::chrono::steady_clock::now() < limit) {
        }
        const int size = call->entered.exchange(-1);
        call->size.store(size, std::memory_order_release);
        task(0, size);
        while (call->finished.load(std::memory_order_acquire) < size - 1) give_way();
    }

private:
    struct Call {
        std::atomic<int> entered{1}, size{0}, finished{0};
    };
    ffi::ThreadPool& host_;
};

constexpr const char* unknown_isa =
    "LNRNN_ISA is the name of an instruction set that was compiled and that this machine has; unset "
    "it, or see `lnrnn info` for the names.";
constexpr const char* unfit = "The attributes of an lnrnn call do not fit its arrays.";

// Where the arrays of a call are, by their place in the list of names, and the dtype of x.
struct Places {
    std::vector<void*> at;
    ffi::DataType dtype = ffi::DataType::F32;

    explicit Places(int count) : at(count) {}

    ffi::Error fill(int x, ffi::Span<const int64_t> operands, ffi::Span<const int64_t> results,
                    ffi::RemainingArgs& args, ffi::RemainingRets& rets) {
        const auto known = [&](ffi::Span<const int64_t> names) {
            return std::all_of(names.begin(), names.end(),
                               [&](int64_t n) { return 0 <= n && n < int64_t(at.size()); });
        };
        if (operands.size() != args.size() || results.size() != rets.size() || !known(operands) ||
            !known(results))
            return ffi::Error::InvalidArgument(unfit);
        for (size_t i = 0; i < args.size(); ++i) {
            auto buffer = args.get<ffi::AnyBuffer>(i);
            if (!buffer) return buffer.error();
            at[operands[i]] = buffer->untyped_data();
            if (operands[i] == x) dtype = buffer->element_type();
        }
        for (size_t i = 0; i < rets.size(); ++i) {
            auto buffer = rets.get<ffi::AnyBuffer>(i);
            if (!buffer) return buffer.error();
            at[results[i]] = (*buffer)->untyped_data();
        }
        return ffi::Error::Success();
    }
};

template <bool back>
ffi::Error recurrence(ffi::ThreadPool threads, ffi::Span<const int64_t> words,
                      ffi::Span<const int64_t> operands, ffi::Span<const int64_t> results,
                      ffi::Span<const int64_t> sizes, ffi::Span<const double> numbers,
                      ffi::RemainingArgs args, ffi::RemainingRets rets) {
    if (words.size() != spec_words || sizes.size() != size_words || numbers.size() != scalar_words)
        return ffi::Error::InvalidArgument(unfit);
    const Isa* isa = chosen();
    if (!isa) return ffi::Error::InvalidArgument(unknown_isa);
    Places places(arrays);
    if (auto error = places.fill(x, operands, results, args, rets); error.failure()) return error;
    Spec spec;
    std::memcpy(&spec, words.begin(), sizeof spec);
    const Numbers n = numbers_of(sizes.begin(), numbers.begin());
    XlaPool pool(threads);
    const ffi::DataType dtype = places.dtype;
    const Precision precision = dtype == ffi::DataType::F64    ? Precision::float64
                                : dtype == ffi::DataType::BF16 ? Precision::bfloat16
                                : dtype == ffi::DataType::F16  ? Precision::float16
                                                               : Precision::float32;
    call(*isa, precision, back, spec, n, places.at.data(), pool);
    count_pass(Framework::jax, back);
    return ffi::Error::Success();
}

template <bool back>
ffi::Error block_recurrence(ffi::ThreadPool threads, ffi::Span<const int64_t>,
                            ffi::Span<const int64_t> operands, ffi::Span<const int64_t> results,
                            ffi::Span<const int64_t> sizes, ffi::Span<const double> numbers,
                            ffi::RemainingArgs args, ffi::RemainingRets rets) {
    if (sizes.size() != block::size_words || numbers.size() != block::scalar_words)
        return ffi::Error::InvalidArgument(unfit);
    const Isa* isa = chosen();
    if (!isa) return ffi::Error::InvalidArgument(unknown_isa);
    Places places(block::arrays);
    if (auto error = places.fill(block::x, operands, results, args, rets); error.failure()) return error;
    XlaPool pool(threads);
    run_block(*isa, places.dtype == ffi::DataType::F64, back, sizes.begin(), numbers.begin(),
              places.at.data(), pool);
    count_pass(Framework::jax, back);
    return ffi::Error::Success();
}

auto binding() {
    return ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Attr<ffi::Span<const int64_t>>("spec")
        .Attr<ffi::Span<const int64_t>>("operands")
        .Attr<ffi::Span<const int64_t>>("results")
        .Attr<ffi::Span<const int64_t>>("sizes")
        .Attr<ffi::Span<const double>>("numbers")
        .RemainingArgs()
        .RemainingRets();
}

}  // namespace
}  // namespace lnrnn

XLA_FFI_DEFINE_HANDLER_SYMBOL(xla_forward, lnrnn::recurrence<false>, lnrnn::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(xla_backward, lnrnn::recurrence<true>, lnrnn::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(xla_block_forward, lnrnn::block_recurrence<false>, lnrnn::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(xla_block_backward, lnrnn::block_recurrence<true>, lnrnn::binding());
