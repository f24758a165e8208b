// The handler of launches, for XLA on CUDA.
#include "cuda_call.h"
#include "xla.h"

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    xla_launch, lnrnn::cuda::call,
    lnrnn::cuda::bound(xla::ffi::Ffi::Bind().Ctx<xla::ffi::PlatformStream<void*>>()));
