"""What a module says once of its weights, at its first training call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lnrnn.frontends import advice
from lnrnn.frontends.warn import warn
from lnrnn.torch.parameters import array

# those of a stack that see the input itself
_FIRST = ("", "_l0", "_l0_reverse")


def given(module: Any) -> bool:
    """Warn of weights from which training fails; whether they could be looked at.

    Weights that are no plain parameters of the module (sharded, parametrised, computed by a
    hook) are left alone.
    """
    if not torch.is_grad_enabled() or _is_traced():
        return False
    plain = {name: p for name, p in module._parameters.items() if _is_plain(p)}
    if any(p.is_cuda for p in plain.values()) and torch.cuda.is_current_stream_capturing():
        return False
    message = advice.about_gains(_gains(module, plain)) or _about_growth(module, plain)
    if message is not None:
        warn(message)
    return True


def _gains(module: Any, plain: dict[str, Tensor]) -> dict[str, Any]:
    """Those of all layers and directions."""
    names = [f"{stem}{suffix}" for suffix, stems in module._stems.items() for stem in stems]
    return {n: array(plain[n]) for n in names if n.startswith("gain_") and n in plain}


def _about_growth(module: Any, plain: dict[str, Tensor]) -> str | None:
    for suffix, stems in module._stems.items():
        if suffix in _FIRST and all(f"{stem}{suffix}" in plain for stem in stems):
            params, bound = module._params(suffix), module.recurrent_gradient_clip
            message = advice.about_growth(module.variant, params, bound)
            if message is not None:
                return message
    return None


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
