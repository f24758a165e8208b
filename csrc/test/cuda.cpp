// The handler of launches for a host, and what a kernel that waits in vain does.  The test that builds
// this gives it the driver of driver.cpp.
#include "cuda_call.h"

extern "C" __attribute__((visibility("default"))) void lnrnn_raise() {
    int result;
    *lnrnn::cuda::flag().get(lnrnn::cuda::Driver::get(), nullptr, &result) = 1;
}

namespace ffi = xla::ffi;

static ffi::Error on_host(std::string_view key, std::string_view name, std::string_view binary,
                          ffi::Span<const int64_t> launched, ffi::Span<const int64_t> parameters,
                          ffi::Span<const int64_t> scalars, ffi::RemainingArgs args,
                          ffi::RemainingRets rets) {
    return lnrnn::cuda::call(nullptr, key, name, binary, launched, parameters, scalars, args, rets);
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(lnrnn_launch_on_host, on_host, lnrnn::cuda::bound(ffi::Ffi::Bind()));
