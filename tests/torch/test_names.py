"""Names of parameters: recipes that go by them mean what they mean for PyTorch's modules."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch_cases import KINDS, assert_same

import lnrnn.torch
from lnrnn import Variant
from lnrnn.testing.cases import VARIANTS
from lnrnn.torch import names

FILES = Path(__file__).parent / "files"
# per kind the default, then what has parameters of other kinds
SHOWN: dict[str, list[Variant | str | None]] = {
    "lstm": [
        None,
        *("tfa_lnlstm", "tf1_lnlstm"),
        *map(VARIANTS.get, ("lstm_x_h_hidden", "lstm_pre_cell_output", "lstm_peephole_inside")),
    ],
    "gru": [None, *map(VARIANTS.get, ("ligru_mixed_sites", "gru_whole_pre"))],
    "rnn": [None, *map(VARIANTS.get, ("indrnn", "indrnn_x", "simple_pre_linear"))],
}


def modules() -> list[Any]:
    """Layers and cells of all kinds, in the variants above, with random parameters."""
    found = []
    for kind, variants in SHOWN.items():
        for variant in variants:
            made = KINDS[kind]
            projected = getattr(variant, "projection", False)
            layer_options = {"proj_size": 4} if projected else {}
            found.append(made.layer(3, 5, 2, bidirectional=True, variant=variant, **layer_options))
            if not projected:
                found.append(made.cell(3, 5, variant=variant))
    for module in found:
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    return found


def _by_name(matrix: Callable[[Tensor], Any]) -> Callable[[nn.Module], None]:
    def recipe(module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            if "weight" in name:
                matrix(parameter)
            elif "bias" in name:
                nn.init.zeros_(parameter)

    return recipe


def _forget(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if "bias" in name:
            n = parameter.size(0)
            parameter.data[n // 4 : n // 2].fill_(1.0)


def _by_rank(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)


RECIPES = {
    "orthogonal": _by_name(nn.init.orthogonal_),
    "xavier": _by_name(nn.init.xavier_uniform_),
    "kaiming": _by_name(nn.init.kaiming_normal_),
    "forget": _forget,
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipes_by_name_change_weights_and_biases_alone(recipe: Callable[[Any], None]) -> None:
    for module in modules():
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        recipe(module)
        changed = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
        meant = {n for n in before if re.match("weight_(ih|hh|hr)|bias_(ih|hh|both)", n)}
        if recipe is _forget:
            meant = {n for n in meant if n.startswith("bias")}
        assert changed == meant


def test_the_forget_recipe_sets_the_forget_gate() -> None:
    for made in (KINDS["lstm"].layer, KINDS["lstm"].cell):
        module = made(3, 5)
        before = {n: p.detach().clone() for n, p in module.named_parameters()}
        _forget(module)
        for name, parameter in module.named_parameters():
            if name.startswith("bias"):
                assert torch.equal(parameter[5:10], torch.ones(5))
                before[name][5:10] = 1
            assert torch.equal(parameter, before[name])
        assert (module.params()["bias"][5:10] == 2).all()


def test_matrices_and_vectors_are_told_by_rank() -> None:
    for module in modules():
        _by_rank(module)
        for name, parameter in module.named_parameters():
            assert parameter.any() == ("weight" in name)


def _states() -> dict[str, Any]:
    return torch.load(FILES / "states_0.1.0.pt", weights_only=True)


@pytest.mark.parametrize("case", _states())
def test_a_state_dict_of_0_1_0_loads_strictly(case: str) -> None:
    given = _states()[case]
    options = dict(given["options"])
    module = getattr(lnrnn.torch, given["made"])(3, 5, **options).eval()
    loaded = module.load_state_dict(given["state"])
    assert (loaded.missing_keys, loaded.unexpected_keys) == ([], [])
    assert_same(_output(module, given["x"]), given["y"], "float32")
    # the names are new, the order is not: an optimiser's state goes by it
    for value, old in zip(module.state_dict().values(), given["state"].values(), strict=True):
        assert torch.equal(value, old)
    assert not any(name.startswith(("norm_", "weight_peephole")) for name in module.state_dict())


def test_a_nested_state_dict_of_0_1_0_loads_strictly() -> None:
    given = _states()["lstm"]
    layer = lnrnn.torch.LayerNormLSTM(3, 5, **given["options"])
    model = nn.ModuleDict({"a": nn.Sequential(layer)})
    state = {f"a.0.{name}": value for name, value in given["state"].items()}
    kept = dict(state)
    model.load_state_dict(state, assign=True)
    assert list(state) == list(kept)
    assert_same(_output(model["a"], given["x"]), given["y"], "float32")
    state["a.0.norm_weight_of_no_norm"] = torch.ones(1)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*of_no_norm"):
        model.load_state_dict(state)


@pytest.mark.parametrize("case", _states())
def test_parameters_answer_to_their_names_of_0_1_0(case: str) -> None:
    given = _states()[case]
    module = getattr(lnrnn.torch, given["made"])(3, 5, **given["options"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # whatever looks at all of a module asks for none of them
        copy.deepcopy(module).to(torch.float64).load_state_dict(module.state_dict())
    for old in given["state"]:
        now = names.renamed(old, module.variant)
        if old == now or old.startswith("weight_hh"):  # a matrix now, where a cell has one
            continue
        with pytest.warns(DeprecationWarning, match=f"{old!r}.*write {now!r}") as warned:
            assert getattr(module, old) is getattr(module, now)
        assert warned[0].filename == __file__
    with pytest.raises(AttributeError, match="norm_weight_of_no_norm"):
        module.norm_weight_of_no_norm  # noqa: B018


class _Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


@pytest.mark.parametrize("case", ["lstm_peephole_inside", "indrnn"])
def test_a_parametrised_state_dict_of_0_1_0_loads_strictly(case: str) -> None:
    given = _states()[case]
    module = getattr(lnrnn.torch, given["made"])(3, 5, **given["options"])
    state = dict(given["state"])
    for old, new in {"norm_weight_sum_l0": "gain_sum_l0", "weight_hh": "scale_hh"}.items():
        if old in state:
            parametrize.register_parametrization(module, new, _Halved(), unsafe=True)
            state[f"parametrizations.{old}.original"] = 2 * state.pop(old)
    module.load_state_dict(state)
    assert_same(_output(module, given["x"]), given["y"], "float32")


@pytest.mark.parametrize("case", ["lstm", "lstm_peephole_inside", "indrnn"])
def test_a_whole_module_of_0_1_0_loads(case: str) -> None:
    module = torch.load(FILES / "modules_0.1.0.pt", weights_only=False)[case]
    given = _states()[case]
    assert_same(_output(module, given["x"]), given["y"], "float32")
    fresh = getattr(lnrnn.torch, given["made"])(3, 5, **given["options"])
    assert list(module.state_dict()) == list(fresh.state_dict())
    assert str(module).split(", variant")[0] == str(fresh).split(", variant")[0]
    module.train().reset_parameters()


def _output(module: nn.Module, x: Tensor) -> Tensor:
    y = module(x)
    return y[0] if isinstance(y, tuple) else y
