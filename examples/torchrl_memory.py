"""TorchRL: our layers as the memory of an agent, trained by PPO.

    python examples/torchrl_memory.py              # LayerNormGRU, and --layer lstm

`LayerNormModule` has the interface of TorchRL's `LSTMModule` and `GRUModule`: it steps while an
agent acts, and runs whole sequences in losses and advantages.  Where `is_init` says that an episode
begins it passes `reset=`, so that nothing is split at the ends of episodes and padded.

In the task a card is shown at the first step, and naming it earns a reward at each one that follows
(RepeatFirst of POPGym).
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase  # pyright: ignore[reportMissingImports]
from tensordict.nn import (  # pyright: ignore[reportMissingImports]
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import Tensor, nn
from torchrl.data import Categorical, Composite, Unbounded  # pyright: ignore[reportMissingImports]
from torchrl.envs import (  # pyright: ignore[reportMissingImports]
    EnvBase,
    InitTracker,
    TensorDictPrimer,
    TransformedEnv,
)
from torchrl.modules import (  # pyright: ignore[reportMissingImports]
    ProbabilisticActor,
    recurrent_mode,
)
from torchrl.objectives import ClipPPOLoss  # pyright: ignore[reportMissingImports]
from torchrl.objectives.value import GAE  # pyright: ignore[reportMissingImports]

from lnrnn.torch import LayerNormGRU, LayerNormLSTM

LAYERS = {"gru": LayerNormGRU, "lstm": LayerNormLSTM}
STATES = {1: ["recurrent_state"], 2: ["recurrent_state_h", "recurrent_state_c"]}
CARDS, LONGEST, ROWS, STEPS, UNITS = 4, 10, 128, 32, 32


class LayerNormModule(TensorDictModuleBase):
    """A layer over tensordicts (*batch,), in recurrent mode (*batch, T).

    States are (*batch, L, H), with a T in recurrent mode, of which the first step is read and the
    last one written, as in TorchRL.  Between them are zeros.

    Args:
        layer: with `batch_first=True`, of one direction.
        in_key: of the input, or `in_keys`, with those of the states.
        out_key: of the output, or `out_keys`, with those of the new states.
        default_recurrent_mode: without a `set_recurrent_mode` around the call.
    """

    def __init__(
        self,
        layer: Any,
        *,
        in_key: Any = None,
        in_keys: list[Any] | None = None,
        out_key: Any = None,
        out_keys: list[Any] | None = None,
        default_recurrent_mode: bool = False,
    ) -> None:
        super().__init__()
        states = STATES[len(layer.variant.states)]
        self.layer, self.default_recurrent_mode = layer, default_recurrent_mode
        self.in_keys = [*(in_keys or [in_key, *states]), "is_init"]
        self.out_keys = out_keys or [out_key, *(("next", name) for name in states)]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the output and the new states."""
        given = recurrent_mode()
        sequences = self.default_recurrent_mode if given is None else given
        steps = tensordict.shape[-1] if sequences else 1

        def rows(value: Tensor) -> Tensor:
            return value.reshape(-1, steps, *value.shape[tensordict.ndim :])

        x, *states = (tensordict.get(key, None) for key in self.in_keys[:-1])
        x, reset = rows(x), rows(tensordict["is_init"]).squeeze(-1)
        hx: Any = None
        if states[0] is not None:
            hx = tuple(rows(state)[:, 0].transpose(0, 1) for state in states)  # (L, B, H)
            hx = hx if len(hx) > 1 else hx[0]
        if sequences:
            if any(state is not None and rows(state)[reset].any() for state in states):
                raise ValueError(
                    "Where an episode begins within a sequence the stored states are zeros; got "
                    "others: pass shifted=True to GAE, or use TorchRL's module around the layer."
                )
            y, after = self.layer(x, hx, reset=reset)
        else:
            y, after = self.layer.step(x[:, 0], hx, reset=reset[:, 0])
        tensordict.set(self.out_keys[0], y.reshape(*tensordict.shape, -1))
        for key, state in zip(
            self.out_keys[1:], after if len(states) > 1 else [after], strict=True
        ):
            last = state.transpose(0, 1).unsqueeze(1)
            before = last.new_zeros(len(last), steps - 1, *last.shape[2:])
            shape = *tensordict.shape, *last.shape[2:]
            tensordict.set(key, torch.cat([before, last], 1).reshape(shape))
        return tensordict

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """What tells an environment of the states, and begins its episodes with zeros."""
        layer, names = self.layer, self.in_keys[1:-1]
        widths = (layer.proj_size or layer.hidden_size, layer.hidden_size)
        specs = {n: Unbounded((layer.num_layers, w)) for n, w in zip(names, widths, strict=False)}
        return TensorDictPrimer(specs, expand_specs=True)


class Recall(EnvBase):
    """Rows of episodes of different lengths, each with a card to remember."""

    def __init__(self) -> None:
        super().__init__(batch_size=[ROWS])
        seen = Unbounded((ROWS, CARDS))
        self.observation_spec = Composite(observation=seen, shape=(ROWS,))
        self.action_spec = Categorical(CARDS, shape=(ROWS,))
        self.reward_spec = Unbounded((ROWS, 1))
        self.card = self.age = self.length = torch.zeros(ROWS, dtype=torch.long)

    def _reset(self, tensordict: TensorDictBase | None, **_: Any) -> TensorDictBase:
        fresh = torch.ones(ROWS, dtype=torch.bool)
        if tensordict is not None and "_reset" in tensordict:
            fresh = tensordict["_reset"].reshape(ROWS)
        self.card = torch.where(fresh, torch.randint(CARDS, (ROWS,)), self.card)
        self.length = torch.where(fresh, torch.randint(4, LONGEST, (ROWS,)), self.length)
        self.age = self.age.masked_fill(fresh, 0)
        return TensorDict({"observation": self._seen()}, self.batch_size)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        done = self.age == self.length
        reward = (self.age > 0) & (tensordict["action"] == self.card)
        self.age = self.age + 1
        found = {"observation": self._seen(), "reward": reward.float().unsqueeze(-1)}
        ends = {"done": done.unsqueeze(-1), "terminated": done.unsqueeze(-1)}
        return TensorDict(found | ends, self.batch_size)

    def _seen(self) -> Tensor:
        card = nn.functional.one_hot(self.card, CARDS).float()
        return card * (self.age == 0).unsqueeze(-1)

    def _set_seed(self, seed: int | None) -> None:
        torch.manual_seed(seed or 0)


def agent(layer: Any) -> tuple[Any, Any, Any]:
    """The memory, the actor and the critic, which share it."""
    memory = LayerNormModule(layer, in_key="observation", out_key="remembered")
    logits = TensorDictModule(nn.Linear(UNITS, CARDS), ["remembered"], ["logits"])
    value = TensorDictModule(nn.Linear(UNITS, 1), ["remembered"], ["state_value"])
    actor = ProbabilisticActor(
        TensorDictSequential(memory, logits),
        in_keys=["logits"],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )
    return memory, actor, TensorDictSequential(memory, value)


def train(kind: str, updates: int) -> list[float]:
    """Train by PPO; for each update the share of steps that named the card right."""
    memory, actor, critic = agent(LAYERS[kind](CARDS, UNITS, batch_first=True))
    env = TransformedEnv(Recall(), InitTracker()).append_transform(memory.make_tensordict_primer())
    advantage = GAE(gamma=0.5, lmbda=0.9, value_network=critic, shifted=True)
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01, normalize_advantage=True)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-3)
    data, found = env.reset(), []
    for _ in range(updates):
        with torch.no_grad():
            rollout = env.rollout(
                STEPS, actor, auto_reset=False, tensordict=data, break_when_any_done=False
            )
            data = env.maybe_reset(env.step_mdp(rollout[:, -1]))
            advantage(rollout)
        for _ in range(4):
            losses = loss(rollout)
            optimizer.zero_grad()
            whole = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
            whole.backward()
            nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
            optimizer.step()
        found.append(rollout["next", "reward"][~rollout["is_init"]].mean().item())
    return found


def main() -> None:
    """Train an agent."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--layer", choices=LAYERS, default="gru")
    options = parser.parse_args()
    torch.manual_seed(0)
    found = train(options.layer, options.updates)
    early, late = sum(found[:5]) / len(found[:5]), sum(found[-5:]) / len(found[-5:])
    print(f"cards named right: {early:.2f} at first, {late:.2f} at last (chance {1 / CARDS})")


if __name__ == "__main__":
    main()
