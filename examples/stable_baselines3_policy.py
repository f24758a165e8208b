"""Stable-Baselines3: the layer-normalised LSTM policy of Stable Baselines 2, for RecurrentPPO.

    python examples/stable_baselines3_policy.py             # beside the LSTM policy of sb3-contrib
    python examples/stable_baselines3_policy.py --old agent.zip --environment Pendulum-v1

The task is CartPole without its velocities, which a policy has to find from what it remembers.
With `--old` an `MlpLnLstmPolicy` that Stable Baselines 2 saved plays on, its weights unchanged.
"""

from __future__ import annotations

import argparse
import io
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from sb3_contrib import RecurrentPPO  # pyright: ignore[reportMissingImports]
from sb3_contrib.common.recurrent.policies import (  # pyright: ignore[reportMissingImports]
    RecurrentActorCriticPolicy,
)
from stable_baselines3.common.env_util import make_vec_env  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.evaluation import (  # pyright: ignore[reportMissingImports]
    evaluate_policy,
)
from stable_baselines3.common.torch_layers import (  # pyright: ignore[reportMissingImports]
    BaseFeaturesExtractor,
)
from torch import Tensor, nn

from lnrnn.convert import read
from lnrnn.torch import LayerNormLSTM

OLD = "stablebaselines_lnlstm"


class DenseFeatures(BaseFeaturesExtractor):
    """The dense layers before the recurrent one: two of 64 in Stable Baselines 2."""

    def __init__(self, observation_space: Any, layers: Sequence[int] = (64, 64)) -> None:
        super().__init__(observation_space, layers[-1])
        sizes = (int(np.prod(observation_space.shape)), *layers)
        self.layers = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))

    def forward(self, observations: Tensor) -> Tensor:
        x = observations.flatten(1)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class MlpLnLstmPolicy(RecurrentActorCriticPolicy):
    """Observations, dense layers, an LSTM with layer normalisation, and two linear heads.

    In Stable Baselines 2 the critic's LSTM is the actor's.  Here each has its own, as is usual in
    sb3-contrib; old weights go into both, so that actions and values are the old ones.
    """

    def __init__(self, *arguments: Any, variant: Any = OLD, **options: Any) -> None:
        options = {"features_extractor_class": DenseFeatures, "net_arch": [], **options}
        super().__init__(*arguments, **options)
        for name in ("lstm_actor", "lstm_critic"):
            stock = getattr(self, name)
            if stock is not None:
                sizes = stock.input_size, stock.hidden_size, stock.num_layers
                setattr(self, name, LayerNormLSTM(*sizes, variant=variant))
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer = self.optimizer_class(self.parameters(), lr=rate, **self.optimizer_kwargs)

    @staticmethod
    def _process_sequence(
        features: Tensor, lstm_states: Any, episode_starts: Tensor, lstm: LayerNormLSTM
    ) -> tuple[Tensor, Any]:
        """Features (B T, F) and flags (B T,); where those of sb3-contrib step, one call."""
        rows = lstm_states[0].shape[1]
        x = features.reshape(rows, -1, lstm.input_size).transpose(0, 1)
        reset = episode_starts.reshape(rows, -1).T.bool()
        if len(x) == 1:
            return lstm.step(x[0], lstm_states, reset=reset[0])
        y, states = lstm(x, lstm_states, reset=reset)
        return y.transpose(0, 1).flatten(0, 1), states

    def load_stable_baselines(self, path: str | Path) -> None:
        """Take the weights of an `MlpLnLstmPolicy` that Stable Baselines 2 saved as a .zip."""
        layers, _ = read(Path(path), OLD)
        self.lstm_actor.load_params(layers.single.params)
        if self.lstm_critic is not None:
            self.lstm_critic.load_params(layers.single.params)
        with zipfile.ZipFile(path) as archive:
            held = io.BytesIO(archive.read("parameters"))
        dense = {f"pi_fc{i}": layer for i, layer in enumerate(self.features_extractor.layers)}
        with np.load(held, allow_pickle=False) as given, torch.no_grad():
            for name, layer in {**dense, "pi": self.action_net, "vf": self.value_net}.items():
                layer.weight.copy_(torch.from_numpy(given[f"model/{name}/w:0"].T))
                layer.bias.copy_(torch.from_numpy(given[f"model/{name}/b:0"]))
            if "model/pi/logstd:0" in given:
                self.log_std.copy_(torch.from_numpy(given["model/pi/logstd:0"][0]))


class WithoutVelocities(gymnasium.ObservationWrapper):
    """CartPole of which only the place of the cart and the angle of the pole are seen."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        space: Any = env.observation_space
        self.observation_space = gymnasium.spaces.Box(space.low[::2], space.high[::2])

    def observation(self, observation: Any) -> Any:
        return observation[::2]


def train(policy: Any, steps: int, seed: int) -> float:
    """Train, and return the mean return of 20 new episodes."""
    env = make_vec_env("CartPole-v1", 8, seed, wrapper_class=WithoutVelocities)
    options = {"lstm_hidden_size": 64}
    agent = RecurrentPPO(
        policy, env, 1e-3, 128, 256, 5, seed=seed, ent_coef=0.001, policy_kwargs=options
    )
    agent.learn(steps)
    return float(evaluate_policy(agent, env, 20)[0])


def main() -> None:
    """Train both policies, or let an old one play."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--old", help="a .zip of Stable Baselines 2 with an MlpLnLstmPolicy")
    parser.add_argument("--environment", help="of the old policy")
    options = parser.parse_args()
    if options.old:
        agent = RecurrentPPO(MlpLnLstmPolicy, options.environment)
        agent.policy.load_stable_baselines(options.old)
        mean, deviation = evaluate_policy(agent, agent.get_env(), 20)
        print(f"return of {options.old}: {mean:.1f} +- {deviation:.1f}")
        return
    for policy in (MlpLnLstmPolicy, "MlpLstmPolicy"):
        name, begun = getattr(policy, "__name__", policy), time.process_time()
        found = [train(policy, options.steps, seed) for seed in range(options.seeds)]
        shown = ", ".join(f"{value:.0f}" for value in found)
        print(f"{name}: return {shown}; {time.process_time() - begun:.0f} s of processor time")


if __name__ == "__main__":
    main()
