"""A policy of rsl_rl over our layers: against rsl_rl's own, and as an ONNX file with states."""

from __future__ import annotations

import pytest
import rsl_rl_policy as example
import torch
from rsl_rl.models import RNNModel
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

OWN = {"layer_norm_lstm": "lstm", "layer_norm_gru": "gru"}


def models(kind: str, **options):
    """One of ours without norms, and rsl_rl's with the same weights."""
    obs = TensorDict({"policy": torch.zeros(4, 3)}, [4])
    given = (obs, {"actor": ["policy"]}, "actor", 2, [8])
    sizes = {"rnn_hidden_dim": 5, "rnn_num_layers": 2}
    ours = example.LayerNormModel(*given, rnn_type=kind, variant="none", **sizes, **options)
    theirs = RNNModel(*given, rnn_type=OWN[kind], **sizes)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("kind", OWN)
def test_without_norms_it_is_rsl_rls_own(kind):
    """In a rollout with episodes that end, and in an update on padded trajectories."""
    ours, theirs = models(kind)
    with torch.inference_mode():
        for _ in range(6):
            obs = TensorDict({"policy": torch.randn(4, 3)}, [4])
            torch.testing.assert_close(ours(obs), theirs(obs))
            done = torch.rand(4) < 0.4
            ours.reset(done)
            theirs.reset(done)
    obs = TensorDict({"policy": torch.randn(6, 4, 3)}, [6, 4])
    masks = torch.arange(6)[:, None] < torch.tensor([6, 2, 4, 6])
    h, c = torch.randn(2, 2, 4, 5)
    hx = (h, c) if kind == "layer_norm_lstm" else h
    found = []
    for model in (ours, theirs):
        y = model(obs, masks, hx)
        y.square().sum().backward()
        found.append([y, *(p.grad for _, p in sorted(model.named_parameters()))])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", OWN)
def test_a_hundred_steps_of_the_file_are_those_of_the_policy(kind, tmp_path):
    torch.manual_seed(0)
    env = example.HiddenTarget(8)
    runner = OnPolicyRunner(env, example.configuration(rnn_type=kind, rnn_num_layers=2))
    runner.learn(1)
    runner.export_policy_to_onnx(str(tmp_path))
    policy = runner.get_inference_policy()
    assert example.compare(policy, tmp_path / "policy.onnx", example.HiddenTarget(1)) < 1e-5
    assert 0 < example.distance(policy, env, 5) < 2
