"""Keras and PyTorch give the same numbers from the same params, and so do all variants."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch_cases import KINDS, flat

from lnrnn import reference
from lnrnn.dialects import DIALECTS
from lnrnn.params import Sizes
from lnrnn.testing import (
    VARIANTS,
    adapters,
    assert_close,
    random_inputs,
    random_params,
    sizes_for,
)
from lnrnn.torch import (
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLSTM,
    LayerNormLSTMCell,
    LayerNormRNN,
    LayerNormRNNCell,
    names,
)

KERAS = {"lstm": "LayerNormLSTM", "gru": "LayerNormGRU", "rnn": "LayerNormSimpleRNN"}
CLASSES = {"simple": LayerNormRNN, "indrnn": LayerNormRNN, "lstm": LayerNormLSTM}
CELLS = {"simple": LayerNormRNNCell, "indrnn": LayerNormRNNCell, "lstm": LayerNormLSTMCell}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_the_reference(name: str) -> None:
    variant = VARIANTS[name]
    rng, sizes = np.random.default_rng(5), sizes_for(variant)
    params = random_params(variant, sizes, rng)
    given = random_inputs(variant, sizes, rng, extras=("mask", "reset"))
    module = CLASSES.get(variant.cell, LayerNormGRU)(
        sizes.inputs,
        sizes.units,
        proj_size=sizes.hidden if variant.projection else 0,
        variant=variant,
        dtype=torch.float64,
    )
    module.load_params(params)
    loaded = module.params()
    assert list(loaded) and all((loaded[n] == params[n]).all() for n in params)
    arrays = [a for a in (given.h0, given.c0) if a is not None]
    states = [torch.as_tensor(a)[None] for a in arrays]
    flags = {n: torch.as_tensor(a) for n, a in given.extras.items()}
    x = torch.as_tensor(given.x)
    y, final = module(x, tuple(states) if len(states) > 1 else states[0], **flags)
    run = reference.forward(
        variant, params, given.x, given.h0, given.c0, masked_output="zero", **given.extras
    )
    expected = [a for a in (run.y, run.h, run.c) if a is not None]
    found = [y, *(s[0] for s in flat(final))]
    for label, one, other in zip(("y", "h", "c"), found, expected, strict=False):
        assert_close(label, one.detach().numpy(), other, "float64")


@pytest.mark.parametrize("hidden", [4, 6])
def test_a_projection_as_wide_as_the_units_or_wider(hidden: int) -> None:
    """TF1 and lingvo have it, where `nn.LSTM` refuses it."""
    variant = DIALECTS["tf1_lnlstm_peephole_proj"].variant
    rng, sizes = np.random.default_rng(7), Sizes(3, 4, hidden)
    params = random_params(variant, sizes, rng)
    given = random_inputs(variant, sizes, rng)
    assert given.c0 is not None
    whole = adapters.Pass(
        x=given.x,
        h0=given.h0,
        c0=given.c0,
        options={},
        dy=rng.standard_normal((*given.x.shape[:2], hidden)),
        dh=rng.standard_normal(given.h0.shape),
        dc=rng.standard_normal(given.c0.shape),
        dtype="float64",
    )
    expected = adapters.run_reference(variant, params, whole)
    found = adapters.choose(frontend="torch")(variant, params, whole)
    for label in ("y", "h", "c"):
        assert_close(label, getattr(found, label), getattr(expected, label), "float64")
    assert expected.gradients is not None and found.gradients is not None
    for label, gradient in expected.gradients.items():
        assert_close(label, found.gradients[label], gradient, "float64", gradient=True)


@pytest.mark.parametrize("engine", ["native", "portable"])
@pytest.mark.parametrize("dialect", ["tf1_lnlstm", "armkws_lngru"])
def test_norms_of_one_number_are_zero_and_so_are_their_gradients(dialect: str, engine: str) -> None:
    """What rounding leaves of them would be multiplied by 1 / sqrt(epsilon), a million."""
    torch.manual_seed(3)
    kind = LayerNormLSTM if DIALECTS[dialect].variant.cell == "lstm" else LayerNormGRU
    layer = kind(3, 1, variant=dialect, engine=engine)
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(0.3, 1.7)
    x = torch.randn(5, 4, 3, requires_grad=True)
    y = layer(x)[0]
    (y * torch.randn_like(y)).sum().backward()
    assert x.grad is not None and (x.grad == 0).all()
    reached = [p.grad for p in layer.parameters() if p.grad is not None and p.grad.any()]
    assert reached  # by way of what is added to the norms


@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if not v.projection])
def test_every_variant_as_a_cell_is_the_reference(name: str) -> None:
    variant = VARIANTS[name]
    rng, sizes = np.random.default_rng(6), sizes_for(variant)
    params = random_params(variant, sizes, rng)
    given = random_inputs(variant, sizes, rng)
    cell = CELLS.get(variant.cell, LayerNormGRUCell)(
        sizes.inputs, sizes.units, variant=variant, dtype=torch.float64
    )
    cell.load_params(params)
    states = [torch.as_tensor(a) for a in (given.h0, given.c0) if a is not None]
    hx: Any = tuple(states) if len(states) > 1 else states[0]
    for x_t in torch.as_tensor(given.x):
        hx = cell(x_t, hx)
    run = reference.forward(variant, params, given.x, given.h0, given.c0)
    expected = [a for a in (run.h, run.c) if a is not None]
    for found, other in zip(flat(hx), expected, strict=True):
        assert_close("state", found.detach().numpy(), other, "float64")


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_hold_every_weight(name: str) -> None:
    """From params to parameters and back."""
    variant = VARIANTS[name]
    sizes = sizes_for(variant)
    params = random_params(variant, sizes, np.random.default_rng(5))
    stems = names.stems(variant, sizes)
    back = names.to_canonical(stems, names.from_canonical(stems, params).__getitem__)
    assert back.keys() == params.keys()
    assert all((back[n] == params[n]).all() for n in params)
    assert {"weight_ih", "scale_hh" if variant.cell == "indrnn" else "weight_hh"} <= set(stems)


def test_keras_gives_the_same_numbers(tmp_path) -> None:
    """In a process of its own, as the backend of this one may be another."""
    x = np.random.default_rng(1).standard_normal((4, 6, 3)).astype("float32")
    arrays: dict[str, Any] = {"x": x}
    for name, kind in KINDS.items():
        module = kind.layer(3, 5, batch_first=True)
        arrays |= {f"{name}/{n}": a for n, a in module.params().items()}
        arrays[f"{name}_y"] = module(torch.as_tensor(x))[0].detach().numpy()
    np.savez(tmp_path / "torch.npz", **arrays)
    program = (
        "import sys, numpy as np, lnrnn.keras\n"
        "from keras import ops\n"
        "from lnrnn.testing import assert_close\n"
        "file = np.load(sys.argv[1])\n"
        f"for name, layer in {KERAS!r}.items():\n"
        "    ours = getattr(lnrnn.keras, layer)(5, return_sequences=True)\n"
        "    ours.build((None, None, 3))\n"
        "    names = [n for n in file.files if n.startswith(name + '/')]\n"
        "    ours.load_params({n.split('/')[1]: file[n] for n in names})\n"
        "    y = ops.convert_to_numpy(ours(file['x']))\n"
        "    assert_close(name, y, file[name + '_y'], 'float32')\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "torch")}
    command = [sys.executable, "-c", program, str(tmp_path / "torch.npz")]
    subprocess.run(command, check=True, env=environment)
