"""Our layers in TorchRL: against its own modules, in both modes, and an agent that trains."""

from __future__ import annotations

import pytest
import torch
import torchrl_memory as example
from tensordict import TensorDict
from torchrl.modules import GRUModule, LSTMModule, set_recurrent_mode
from torchrl.modules.utils import get_primers_from_module

THEIRS = {"lstm": LSTMModule, "gru": GRUModule}
KEYS = {"in_key": "x", "out_key": "y"}
STATES = {"lstm": example.STATES[2], "gru": example.STATES[1]}


def pair(kind: str, variant: str | None = "none"):
    """Our module and TorchRL's, around layers of the same weights; ours too, if it has norms."""
    layer = example.LAYERS[kind](3, 5, 2, batch_first=True, variant=variant)
    if variant is None:
        return example.LayerNormModule(layer, **KEYS), THEIRS[kind](**{kind: layer}, **KEYS)
    theirs = THEIRS[kind](3, 5, num_layers=2, **KEYS)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    layer.load_state_dict(getattr(theirs, kind).state_dict())
    return example.LayerNormModule(layer, **KEYS), theirs


def drawn(kind: str, *batch: int) -> TensorDict:
    """Inputs and states; an episode has begun where `is_init` is, with states of zeros."""
    reset = torch.rand(*batch, 1) < 0.3
    states = {n: torch.randn(*batch, 2, 5) * ~reset.unsqueeze(-1) for n in STATES[kind]}
    return TensorDict({"x": torch.randn(*batch, 3), "is_init": reset, **states}, batch)


def results(module, data: TensorDict, last: bool) -> list[torch.Tensor]:
    """Outputs, new states, and the gradients with respect to inputs, states and weights.

    Where an episode begins TorchRL reads the stored state, which is zero, and ours does not.
    """
    data = data.clone()
    leaves = [data[key].requires_grad_() for key in module.in_keys[:-1]]
    module.zero_grad()
    module(data)
    states = [data[key] for key in module.out_keys[1:]]
    if last:  # states within a sequence are of no use to either
        states = [state[..., -1, :, :] for state in states]
    found = [data["y"], *states]
    sum(value.square().sum() for value in found).backward()
    going = ~data["is_init"].unsqueeze(-1)
    gradients = [leaves[0].grad, *(leaf.grad * going for leaf in leaves[1:])]
    return [*found, *gradients, *(p.grad.clone() for p in module.parameters())]


@pytest.mark.parametrize("variant", ["none", None])
@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_a_step_is_that_of_torchrl(kind, variant, batch):
    for ours, theirs in [pair(kind, variant)]:
        data = drawn(kind, *batch)
        found, expected = (results(module, data, False) for module in (ours, theirs))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["none", None])
@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("batch", [(6,), (4, 6), (2, 3, 6)])
def test_a_sequence_is_that_of_torchrl(kind, variant, batch):
    """With episodes that begin in the middle, which TorchRL splits and pads."""
    ours, theirs = pair(kind, variant)
    data = drawn(kind, *batch)
    with set_recurrent_mode(True):
        found, expected = (results(module, data, True) for module in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", THEIRS)
def test_steps_of_a_rollout_are_the_sequence(kind):
    """In an environment that the primer has told of the states."""
    torch.manual_seed(0)
    layer = example.LAYERS[kind](example.CARDS, example.UNITS, batch_first=True)
    memory, actor, _ = example.agent(layer)
    env = example.TransformedEnv(example.Recall(), example.InitTracker())
    env = env.append_transform(get_primers_from_module(actor))
    with torch.no_grad():
        rollout = env.rollout(30, actor, break_when_any_done=False)
        assert rollout["is_init"][:, 1:].any()
        again = rollout.clone()
        with set_recurrent_mode(True):
            memory(again)
    torch.testing.assert_close(again["remembered"], rollout["remembered"])
    for name in STATES[kind]:
        torch.testing.assert_close(again["next", name][:, -1], rollout["next", name][:, -1])


def test_stored_states_where_episodes_begin_are_zeros():
    """As in the second half of what GAE runs by default; TorchRL's module reads them."""
    ours, _ = pair("lstm")
    data = drawn("lstm", 4, 6)
    data["is_init"][1, 2] = True
    data["recurrent_state_c"][1, 2] = 1.0
    with set_recurrent_mode(True), pytest.raises(ValueError, match="pass shifted=True to GAE"):
        ours(data)


def test_the_agent_trains():
    found = example.train("lstm", 2)
    assert len(found) == 2 and all(0 <= share <= 1 for share in found)
