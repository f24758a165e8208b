// The handlers that XLA calls; their targets are registered from Python.
#pragma once

#include "xla/ffi/api/c_api.h"

extern "C" XLA_FFI_Error* xla_forward(XLA_FFI_CallFrame* frame);
extern "C" XLA_FFI_Error* xla_backward(XLA_FFI_CallFrame* frame);
extern "C" XLA_FFI_Error* xla_block_forward(XLA_FFI_CallFrame* frame);
extern "C" XLA_FFI_Error* xla_block_backward(XLA_FFI_CallFrame* frame);
extern "C" XLA_FFI_Error* xla_launch(XLA_FFI_CallFrame* frame);
