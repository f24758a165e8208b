"""A model with a variant in its configuration, saved and loaded by Hugging Face's mixin."""

from __future__ import annotations

import json

import hugging_face_hub as example
import torch

from lnrnn import Norm, Variant


def test_a_model_and_its_variant_come_back(tmp_path):
    variant = Variant(cell="gru", norms=(Norm("x", "rz"), Norm("h", bias=False)), epsilon=0.25)
    model = example.SequenceClassifier(3, 4, units=5, variant=variant)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["variant"] == variant.to_dict()
    loaded = example.SequenceClassifier.from_pretrained(tmp_path)
    assert loaded.recurrent.variant == variant
    x = torch.randn(2, 7, 3)
    assert torch.equal(loaded(x), model(x))


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    arguments = ["example", "--updates", "2", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    example.main()
    assert capsys.readouterr().out.rstrip().endswith("loaded: the same outputs")
