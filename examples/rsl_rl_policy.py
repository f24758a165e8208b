"""A policy of rsl_rl (Isaac Lab) with a layer-normalised memory, and its ONNX file with states.

    python examples/rsl_rl_policy.py               # trains, exports, and runs the file

`LayerNormModel` is named as `class_name` of the actor and the critic in the configuration of a
runner; all else stays.  `rnn_type` is then one of `RNNS`.  `runner.export_policy_to_onnx` writes a
step whose inputs and outputs h (and c) are, as rsl_rl's own policies do.

In the task a point has to go to a target that it is shown at the first step of an episode only.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from rsl_rl.env import VecEnv  # pyright: ignore[reportMissingImports]
from rsl_rl.models import RNNModel  # pyright: ignore[reportMissingImports]
from rsl_rl.runners import OnPolicyRunner  # pyright: ignore[reportMissingImports]
from tensordict import TensorDict  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

from lnrnn.torch import LayerNormGRU, LayerNormLSTM

RNNS = {"layer_norm_lstm": LayerNormLSTM, "layer_norm_gru": LayerNormGRU}
EPISODE, REACH = 24, 0.2


class LayerNormModel(RNNModel):
    """rsl_rl's recurrent model over one of our layers, of any variant."""

    def __init__(
        self,
        *arguments: Any,
        rnn_type: str = "layer_norm_lstm",
        rnn_hidden_dim: int = 256,
        rnn_num_layers: int = 1,
        variant: Any = None,
        **options: Any,
    ) -> None:
        sizes = {"rnn_hidden_dim": rnn_hidden_dim, "rnn_num_layers": rnn_num_layers}
        super().__init__(*arguments, **sizes, **options)
        layer = RNNS[rnn_type]
        self.rnn.rnn = layer(self.obs_dim, rnn_hidden_dim, rnn_num_layers, variant=variant)

    def as_onnx(self, verbose: bool = False) -> nn.Module:
        """What `export_policy_to_onnx` writes."""
        return Step(self)


class Step(nn.Module):
    """One step of a policy: observations (B, I) and states (L, B, H) to actions and states."""

    is_recurrent = True

    def __init__(self, model: LayerNormModel) -> None:
        super().__init__()
        self.normalizer, self.rnn, self.mlp = map(
            copy.deepcopy, (model.obs_normalizer, model.rnn.rnn, model.mlp)
        )
        has = model.distribution is not None
        self.output = model.distribution.as_deterministic_output_module() if has else nn.Identity()
        letters = self.rnn.variant.states
        self.input_names = ["obs", *(f"{letter}_in" for letter in letters)]
        self.output_names = ["actions", *(f"{letter}_out" for letter in letters)]

    def forward(self, obs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """The actions and the states after a step."""
        hx: Any = states if len(states) > 1 else next(iter(states))
        y, after = self.rnn.step(self.normalizer(obs), hx)
        return self.output(self.mlp(y)), *(after if len(states) > 1 else (after,))

    def get_dummy_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of the shapes that the file has: one robot."""
        shape = self.rnn.num_layers, 1, self.rnn.hidden_size
        # one tensor for both states would be one input of the file
        states = (torch.zeros(shape) for _ in self.rnn.variant.states)
        return torch.zeros(1, self.rnn.input_size), *states


class HiddenTarget(VecEnv):
    """Points on a line.  Observed are the place, and at the first step the target, with a flag."""

    num_actions, max_episode_length, device, cfg = 1, EPISODE, "cpu", {}

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.episode_length_buf = torch.randint(EPISODE, (num_envs,))
        self.place, self.target = torch.zeros(num_envs), 2 * torch.rand(num_envs) - 1

    def get_observations(self) -> TensorDict:
        first = (self.episode_length_buf == 0).float()
        seen = torch.stack([self.place, first * self.target, first], -1)
        return TensorDict({"policy": seen}, [self.num_envs])

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        self.place = self.place + REACH * actions[:, 0].clamp(-1, 1)
        reward = -(self.place - self.target).abs()
        self.episode_length_buf = self.episode_length_buf + 1
        done = self.episode_length_buf >= EPISODE
        self.episode_length_buf = self.episode_length_buf.masked_fill(done, 0)
        self.place = self.place.masked_fill(done, 0.0)
        self.target = torch.where(done, 2 * torch.rand(self.num_envs) - 1, self.target)
        return self.get_observations(), reward, done, {"time_outs": done}


def configuration(model: Any = LayerNormModel, **options: Any) -> dict[str, Any]:
    """Of a runner; `class_name` may also be a string such as "rsl_rl_policy:LayerNormModel"."""
    network = {"class_name": model, "hidden_dims": [32], "rnn_hidden_dim": 32, **options}
    noise = {"class_name": "GaussianDistribution", "init_std": 0.5}
    return {
        "num_steps_per_env": EPISODE,
        "save_interval": 1000,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "algorithm": {"class_name": "PPO", "entropy_coef": 0.0},
        "actor": {**network, "distribution_cfg": noise},
        "critic": network,
    }


def distance(policy: Any, env: HiddenTarget, steps: int = 4 * EPISODE) -> float:
    """The mean distance from the target, each policy beginning without a memory."""
    policy.reset()
    observed, found = env.get_observations(), []
    with torch.inference_mode():
        for _ in range(steps):
            observed, reward, done, _ = env.step(policy(observed))
            policy.reset(done)
            found.append(-reward.mean())
    return float(torch.stack(found).mean())


def compare(policy: Any, path: Path, env: HiddenTarget, steps: int = 100) -> float:
    """The largest difference of actions between a policy and its file, over one point's steps."""
    session = onnxruntime.InferenceSession(path)
    given = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()}
    policy.reset()
    observed, worst = env.get_observations(), 0.0
    for _ in range(steps):
        given["obs"] = observed["policy"].numpy()
        actions, *states = session.run(None, given)
        given |= {f"{letter}_in": state for letter, state in zip("hc", states, strict=False)}
        with torch.inference_mode():
            wanted = policy(observed)
        worst = max(worst, float(np.abs(actions - wanted.numpy()).max()))
        observed = env.step(wanted)[0]
    return worst


def main() -> None:
    """Train a policy, export it, and compare the file with it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--rnn", choices=RNNS, default="layer_norm_lstm")
    options = parser.parse_args()
    torch.manual_seed(0)
    env = HiddenTarget(256)
    runner = OnPolicyRunner(env, configuration(rnn_type=options.rnn))
    before = distance(runner.get_inference_policy(), env)
    runner.learn(options.iterations)
    policy = runner.get_inference_policy()
    print(f"distance from the target: {before:.3f} before, {distance(policy, env):.3f} after")
    with tempfile.TemporaryDirectory() as folder:
        runner.export_policy_to_onnx(folder)
        worst = compare(policy, Path(folder) / "policy.onnx", HiddenTarget(1))
    print(f"100 steps of the ONNX file: actions differ by at most {worst:.1e}")


if __name__ == "__main__":
    main()
