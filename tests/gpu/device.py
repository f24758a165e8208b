"""The self-check of every kernel over all variants, on the CUDA device that is there.

python tests/gpu/device.py          all variants, in float32, bfloat16 and float16
python tests/gpu/device.py --few    a few of each kernel, as under compute-sanitizer

Prints what is refused, and why; processes share the work, most of which is compiling.
"""

from __future__ import annotations

import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch

from lnrnn.engines import select
from lnrnn.engines.triton import describe
from lnrnn.testing.cases import VARIANTS, Extra, random_inputs, random_params, sizes_for
from lnrnn.variant import Variant

# dtype and units: the tile kernel, the split kernel, and the row kernels
KINDS = (("float32", 40), ("bfloat16", 40), ("float16", 100), ("float32", 200), ("bfloat16", 200))
WIDE = ("bfloat16", 1100)
EXTRAS: tuple[Extra, ...] = ("mask", "reset", "reset_states")
FEW = ("lstm_x_h_cell_output", "gru_x_h", "gru_before_x_h_groups", "lstm_peephole_cell_output")

Entry = tuple[str, str, int]


def entries(few: bool) -> list[Entry]:
    """Names of variants that the kernels compute, with dtypes and units."""
    names = FEW if few else [n for n, v in VARIANTS.items() if describe.refusal(v) is None]
    found = [(name, *kind) for name in names for kind in KINDS]
    return found + [(name, *WIDE) for name in FEW[:2]]


def refused(entry: Entry, device: str) -> str | None:
    """What the self-check says of the first call of a kind, or None."""
    name, dtype, units = entry
    variant = Variant.from_dict(VARIANTS[name].to_dict())
    rng = np.random.default_rng(0)
    sizes = sizes_for(variant, inputs=units, units=units)
    given = random_inputs(variant, sizes, rng, steps=3, batch=33, extras=EXTRAS)

    def tensor(array: np.ndarray, of: str = "float32") -> torch.Tensor:
        found = torch.tensor(array, device=device)
        return found if found.dtype == torch.bool else found.to(getattr(torch, of))

    params = {n: tensor(p) for n, p in random_params(variant, sizes, rng).items()}
    states = (given.h0,) if given.c0 is None else (given.h0, given.c0)
    request = select.Request(variant, "torch", dtype, device=device, named=True)
    run = select.choose("triton", request).load(request)
    extras = {n: tensor(a) for n, a in given.extras.items()}
    resets = tuple(extras.pop(n) for n in ("reset_h", "reset_c") if n in extras)
    try:
        run(
            variant, params, tensor(given.x, dtype), tuple(tensor(s, dtype) for s in states),
            reset_states=resets, **extras,
        )  # fmt: skip
    except ValueError as error:
        return f"{name}, {dtype}, {units} units: {error}"
    return None


def main(options: list[str]) -> int:
    wanted = entries("--few" in options)
    os.environ["LNRNN_GPU_CHECK"] = "force"
    os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp())
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        found = 0
        for done, reason in enumerate(pool.map(partial(refused, device="cuda"), wanted), 1):
            if reason:
                found += 1
                print(reason, flush=True)
            elif done % 50 == 0:
                print(f"{done} of {len(wanted)}", flush=True)
    print(f"{len(wanted)} kinds of calls, {found} refused")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
