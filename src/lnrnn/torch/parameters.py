"""Reading and setting parameters, however they are held: plain, parametrised or sharded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized


def array(parameter: Tensor) -> np.ndarray:
    """A copy as a NumPy array, of float32 at least, as NumPy has no bfloat16."""
    whole: Any = parameter.detach()
    if _is_sharded(whole):
        whole = whole.full_tensor()
    dtype = torch.promote_types(whole.dtype, torch.float32)
    # a copy first: NumPy fixes the size of a storage, and FSDP wants to free it later
    return whole.to("cpu", dtype, copy=True).numpy()


def assign(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set parameters by name, all or, with an error, none."""
    for name in values:
        _check_settable(module, name)
    if module._state_dict_pre_hooks:
        # in such a hook FSDP goes back to the shards: a gathered copy would be thrown away
        module.state_dict()
    with torch.no_grad():
        for name, value in values.items():
            held: Any = getattr(module, name)
            value = value.to(held.device, held.dtype)
            if _is_sharded(held):
                from torch.distributed.tensor import distribute_tensor

                # the first process's value counts, as each may have drawn its own
                value = distribute_tensor(value, held.device_mesh, held.placements)
            if is_parametrized(module, name):
                setattr(module, name, value.clone(memory_format=torch.contiguous_format))
            else:
                held.copy_(value)


def _is_sharded(value: Tensor) -> bool:
    """Whether it is a DTensor; torch.distributed is imported only where it is in use."""
    return hasattr(value, "device_mesh")


def _check_settable(module: nn.Module, name: str) -> None:
    if name in module._parameters:
        return
    if not is_parametrized(module, name):
        raise ValueError(
            f"A parameter of the module itself can be set; got {name}, which a hook computes from "
            "others: remove that hook, or use torch.nn.utils.parametrizations in its place."
        )
    steps: Any = module.parametrizations
    for step in steps[name]:
        if not hasattr(step, "right_inverse"):
            raise ValueError(
                f"A parametrised weight is set through the right inverse; got {name} with "
                f"{type(step).__name__}, which has none: define its right_inverse, or remove it "
                "with torch.nn.utils.parametrize.remove_parametrizations."
            )
