"""The policy of Stable Baselines 2 in sb3-contrib: its old files, and sb3-contrib's own policy."""

from __future__ import annotations

import io
import json
import zipfile

import gymnasium
import numpy as np
import stable_baselines3_policy as example
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates

UNITS = 256


def old_weights(inputs: int, actions: int) -> dict[str, np.ndarray]:
    """Random weights of an MlpLnLstmPolicy under the names of its variables."""
    lstm = {
        **{f"{w}{side}": (*rows, 4 * UNITS) for side, n in (("x", 64), ("h", UNITS))
           for w, rows in (("w", (n,)), ("g", ()), ("b", ()))},
        "b": (4 * UNITS,), "gc": (UNITS,), "bc": (UNITS,),
    }  # fmt: skip
    shapes = {f"lstm1/{name}": shape for name, shape in lstm.items()}
    ends = {"pi_fc0": (inputs, 64), "pi_fc1": (64, 64), "vf": (UNITS, 1)}
    ends |= {"pi": (UNITS, actions), "q": (UNITS, actions)}
    for name, (rows, columns) in ends.items():
        shapes |= {f"{name}/w": (rows, columns), f"{name}/b": (columns,)}
    rng = np.random.default_rng(0)
    drawn = {f"model/{n}:0": rng.standard_normal(s) / s[0] ** 0.5 for n, s in shapes.items()}
    return {name: value.astype("f4") for name, value in drawn.items()}


def played(given: dict[str, np.ndarray], observations: np.ndarray, starts: np.ndarray):
    """Logits and values (T, B, .) by the equations of the original, in float64."""
    w = {name[6:-2]: value.astype("f8") for name, value in given.items()}

    def norm(v: np.ndarray, site: str) -> np.ndarray:
        deviation = np.sqrt(v.var(-1, keepdims=True) + 1e-5)
        even = (v - v.mean(-1, keepdims=True)) / deviation
        return even * w[f"lstm1/g{site}"] + w[f"lstm1/b{site}"]

    def sigmoid(v: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-v))

    h = c = np.zeros((observations.shape[1], UNITS))
    found = []
    for x, start in zip(observations, starts, strict=True):
        h, c = h * ~start[:, None], c * ~start[:, None]
        for name in ("pi_fc0", "pi_fc1"):
            x = np.tanh(x @ w[f"{name}/w"] + w[f"{name}/b"])
        z = norm(x @ w["lstm1/wx"], "x") + norm(h @ w["lstm1/wh"], "h") + w["lstm1/b"]
        i, f, o, u = np.split(z, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(u)
        h = sigmoid(o) * np.tanh(norm(c, "c"))
        found.append((h @ w["pi/w"] + w["pi/b"], h @ w["vf/w"] + w["vf/b"]))
    return [np.stack(part) for part in zip(*found, strict=True)]


def test_an_old_policy_plays_on(tmp_path):
    """Actions and values, step by step and in one call, with episodes that begin."""
    given, packed = old_weights(4, 2), io.BytesIO()
    np.savez(packed, **given)
    with zipfile.ZipFile(tmp_path / "agent.zip", "w") as archive:
        archive.writestr("data", json.dumps({"policy": "cloudpickled"}))
        archive.writestr("parameters", packed.getvalue())
        archive.writestr("parameter_list", json.dumps(list(given)))
    agent = RecurrentPPO(example.MlpLnLstmPolicy, gymnasium.make("CartPole-v1"))
    agent.policy.load_stable_baselines(tmp_path / "agent.zip")
    rng = np.random.default_rng(1)
    observations = rng.standard_normal((5, 3, 4)).astype("f4")
    starts = rng.random((5, 3)) < 0.4
    logits, values = played(given, observations, starts)
    zeros = (torch.zeros(1, 3, UNITS), torch.zeros(1, 3, UNITS))
    x, start = torch.from_numpy(observations), torch.from_numpy(starts).float()
    state = zeros
    with torch.no_grad():
        for t in range(5):
            distribution, state = agent.policy.get_distribution(x[t], state, start[t])
            found = distribution.distribution.logits
            expected = torch.from_numpy(logits[t]).log_softmax(-1).float()
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    whole, _, _ = agent.policy.evaluate_actions(
        x.transpose(0, 1).flatten(0, 1),
        torch.zeros(15),
        RNNStates(zeros, zeros),
        start.T.flatten(),
    )
    expected = torch.from_numpy(values).float().transpose(0, 1).reshape(15, 1)
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)


def test_without_norms_it_is_the_policy_of_sb3_contrib():
    """The same weights, the same values and gradients, where episodes begin within sequences."""
    options = {"lstm_hidden_size": 7, "features_extractor_class": example.DenseFeatures}
    env = gymnasium.make("CartPole-v1")
    ours = RecurrentPPO(
        example.MlpLnLstmPolicy, env, policy_kwargs={**options, "variant": "none"}
    ).policy
    stock = {**options, "net_arch": []}
    theirs = RecurrentPPO("MlpLstmPolicy", env, policy_kwargs=stock).policy
    ours.load_state_dict(theirs.state_dict())
    x, start = torch.randn(12, 4), (torch.rand(12) < 0.4).float()
    states = RNNStates(*((torch.randn(1, 3, 7), torch.randn(1, 3, 7)) for _ in "ab"))
    found = []
    for policy in (ours, theirs):
        value, chance, entropy = policy.evaluate_actions(x, torch.arange(12) % 2, states, start)
        (value.square() + chance[:, None] + entropy[:, None]).sum().backward()
        gradients = [p.grad for _, p in sorted(policy.named_parameters())]
        found.append([value, chance, *gradients])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_it_trains_and_is_saved(tmp_path):
    env = example.make_vec_env("CartPole-v1", 2, 0, wrapper_class=example.WithoutVelocities)
    options = {"lstm_hidden_size": 8}
    agent = RecurrentPPO(
        example.MlpLnLstmPolicy, env, n_steps=16, batch_size=16, policy_kwargs=options
    )
    before = agent.policy.lstm_actor.gain_hh_l0.detach().clone()
    agent.learn(32)
    assert not torch.equal(agent.policy.lstm_actor.gain_hh_l0, before)
    agent.save(tmp_path / "agent")
    again = RecurrentPPO.load(tmp_path / "agent")
    observation = env.reset()
    action, state = agent.predict(observation, deterministic=True)
    same, other = again.predict(observation, deterministic=True)
    np.testing.assert_array_equal(action, same)
    np.testing.assert_array_equal(state, other)
