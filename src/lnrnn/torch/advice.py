"""What a module says once of its weights, at its first training call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lnrnn.frontends import advice
from lnrnn.frontends.warn import warn

# those of a stack that see the input itself
_FIRST = ("", "_l0", "_l0_reverse")


def given(module: Any) -> bool:
    """Warn if gradients do not bear zeros with these weights; whether they could be looked at.

    Weights that are no plain parameters of the module (sharded, parametrised, computed by a
    hook) are left alone.
    """
    if not torch.is_grad_enabled() or _is_traced():
        return False
    for suffix in module._stems:
        held = [module._parameters.get(f"{stem}{suffix}") for stem in module._stems[suffix]]
        if suffix not in _FIRST or not all(map(_is_plain, held)):
            continue
        if held[0].is_cuda and torch.cuda.is_current_stream_capturing():
            return False
        params = module._params(suffix)
        message = advice.about_weights(module.variant, params, module.recurrent_gradient_clip)
        if message is not None:
            warn(message)
            break
    return True


def _is_plain(parameter: Any) -> bool:
    return type(parameter) in (nn.Parameter, Tensor) and not parameter.is_meta


def _is_traced() -> bool:
    """Whether values cannot be read, or what reads them would be recorded."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    )
