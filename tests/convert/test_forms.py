"""Every form in every container: found, imported, and exported as it was, to the bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_samples import equal_bits, original_weights, prefixed, save_npz, weights_of

import lnrnn
from lnrnn.convert import FileError, Origin, Weights, originals, read, write
from lnrnn.convert.containers import open_file
from lnrnn.convert.find import find
from lnrnn.convert.forms import FORMS, form, spellings
from lnrnn.params import Sizes
from lnrnn.testing import golden
from lnrnn.testing.tolerances import assert_close

GOLDEN = Path(__file__).parents[1] / "golden"
CONTAINERS = (".npz", ".safetensors", ".pt", ".h5", ".ckpt")


def load_all(path: Path) -> dict[str, np.ndarray]:
    return {name: entry.load() for name, entry in open_file(path).entries.items()}


@pytest.mark.parametrize("name", FORMS)
def test_import_then_export_is_the_identity(name, tmp_path):
    """In every container, and through a file of ours; unused weights and -1 offsets included."""
    given = prefixed("model/rnn/", original_weights(name))
    source = save_npz(tmp_path / "original.npz", given)
    imported, _ = read(source, name)
    lnrnn.save(tmp_path / "ours.safetensors", imported)
    kept = lnrnn.load(tmp_path / "ours.safetensors")
    assert kept.single.origin is not None and kept.single.origin.dialect == name
    for ending in CONTAINERS:
        path = tmp_path / f"again{ending}"
        write(path, kept, name)
        assert equal_bits(load_all(path), given), ending
        again, _ = read(path, name)
        assert equal_bits(dict(again.single.params), dict(imported.single.params)), ending


@pytest.mark.parametrize("name", [n for n in FORMS if n.startswith("tflite")])
def test_lite_models_come_back(name, tmp_path):
    given = original_weights(name)
    imported, _ = read(save_npz(tmp_path / "original.npz", given), name)
    write(tmp_path / "model.tflite", imported, name)
    container = open_file(tmp_path / "model.tflite")
    again = {n.removeprefix("operator_0/"): e.load() for n, e in container.entries.items()}
    assert equal_bits(again, given)
    (found,) = find(container)
    assert {fit.variant for fit in found.fits} == {imported.single.variant}
    assert found.beside == ()


@pytest.mark.parametrize("name", [n for n in FORMS if n.startswith("tflite")])
def test_lite_models_of_8_bits(name, tmp_path):
    """The hybrid kernel of TensorFlow Lite, step by step, beside its own of float32."""
    import tensorflow as tf

    imported, _ = read(save_npz(tmp_path / "original.npz", original_weights(name)), name)
    ran = {}
    for int8 in (False, True):
        path = tmp_path / f"{int8}.tflite"
        write(path, imported, name, int8=int8)
        lite = tf.lite.Interpreter(model_content=path.read_bytes())
        lite.allocate_tensors()
        rng = np.random.default_rng(0)
        outputs = []
        for _ in range(20):
            given = lite.get_input_details()[0]
            lite.set_tensor(given["index"], rng.standard_normal(given["shape"]).astype("f4"))
            lite.invoke()
            outputs.append(lite.get_tensor(lite.get_output_details()[0]["index"]))
        ran[int8] = np.stack(outputs)
    error = np.abs(ran[True] - ran[False]).max() / np.abs(ran[False]).max()
    assert 1e-4 < error < 0.1


def test_gains_stored_minus_one_keep_their_last_bits():
    """1e-9 is lost in 1 + 1e-9 in float32, but not on the way back."""
    name = "lingvo_lnlstm_old"
    given = original_weights(name)
    gains = given["b"].reshape(2, -1)[1]
    gains[:] = np.geomspace(1e-12, 1, gains.size, dtype="f4")
    weights = imported(name, given)
    assert weights.origin is not None and set(weights.origin.kept) == {"b"}
    assert equal_bits(originals(weights, name, ""), given)


def imported(name: str, given: dict[str, Any], folder: Path | None = None) -> Weights:
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        return read(save_npz(Path(folder or temporary) / "w.npz", given), name)[0].single


def test_what_was_trained_further_is_exported_as_it_is_now():
    """Kept originals never hide a change of the canonical weights."""
    name = "haste_lnindrnn"
    given = original_weights(name)
    weights = imported(name, given)
    params = dict(weights.params)
    params["x_norm_gain"] = params["x_norm_gain"] + 1
    changed = Weights(weights.variant, params, origin=weights.origin)
    found = originals(changed, name, "")
    np.testing.assert_array_equal(found["gamma"][0], given["gamma"][0] + 1)
    np.testing.assert_array_equal(found["gamma"][1], given["gamma"][1])


def test_mixed_dtypes_come_back():
    name = "haste_lnlstm"
    given = original_weights(name)
    given["bias"] = given["bias"].astype("f8") + 1e-12
    weights = imported(name, given)
    assert weights.params["kernel"].dtype == np.float64
    assert equal_bits(originals(weights, name, ""), given)


@pytest.mark.parametrize("name", FORMS)
def test_inspect_names_the_form(name, tmp_path):
    """The right form is among those that fit, and all that fit have its names and shapes."""
    given = original_weights(name)
    path = save_npz(tmp_path / "w.npz", prefixed("net.3.", given))
    (found,) = find(open_file(path))
    assert found.scope == "net.3." and found.beside == ()
    assert name in [fit.name for fit in found.fits]
    for fit in found.fits:
        assert set(form(fit.name).layout) == set(given)


@pytest.mark.parametrize("name", [n for n in FORMS if len(spellings(n)) > 1])
def test_other_spellings_are_understood(name, tmp_path):
    given = original_weights(name)
    canonical = imported(name, given).params
    for spelt in spellings(name)[1:]:
        renamed = {f"layers/rnn/cell/{spelt[n]}": v for n, v in given.items()}
        again = imported(name, renamed, tmp_path)
        assert equal_bits(dict(again.params), dict(canonical))
        assert equal_bits(originals(again, name, ""), given)


FILES = [p for p in golden.find([GOLDEN]) if p.name.endswith("__a__f32")]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_golden_weights_are_found_in_a_file(path, tmp_path):
    """Weights as the original programs named them, with all scopes."""
    given = golden.read(path)
    if given is None:  # a relative, or what lies within it, is not taken for a layer
        with np.load(path.with_suffix(".npz")) as arrays:
            weights = {n[2:]: arrays[n] for n in arrays.files if n.startswith("w/")}
        name = golden.base_name(path.name.split("__")[0])
        with pytest.raises(FileError, match=f"The file has a relative, {name} at"):
            read(save_npz(tmp_path / "w.npz", weights))
        return
    weights = given.under("w/")
    found, _ = read(save_npz(tmp_path / "w.npz", weights), given.dialect.name)
    assert equal_bits(dict(found.single.params), given.dialect.to_canonical(weights))
    assert equal_bits(originals(found.single, given.dialect.name), weights)


def test_an_ambiguous_layer_is_explained(tmp_path):
    name = "speechbrain_ligru_ln_relu"
    path = save_npz(tmp_path / "w.npz", original_weights(name))
    with pytest.raises(FileError, match=r"say which with --from \(they differ in .*activation"):
        read(path)
    assert read(path, name)[0].single.variant.activation == "relu"


def test_forms_that_are_the_same_function_and_layout_are_no_ambiguity(tmp_path):
    path = save_npz(tmp_path / "w.npz", original_weights("baselines_lnlstm"))
    fits = find(open_file(path))[0].fits
    assert {f.name for f in fits} == {"baselines_lnlstm", "stablebaselines_lnlstm"}
    assert read(path)[0].single.origin is not None


def test_weights_beside_those_of_a_form_are_not_passed_over(tmp_path):
    given = original_weights("torchaudio_customlstm")
    given["extra.weight"] = np.ones(3, "f4")
    given["g_norm.scale"] = np.ones(3, "f4")
    path = save_npz(tmp_path / "w.npz", prefixed("lstm.", given))
    with pytest.raises(FileError, match=r"lie with others that it has not, 'lstm\.g_norm\.scale'"):
        read(path)
    _, said = read(path, "torchaudio_customlstm")
    assert any("left out 'lstm.g_norm.scale'" in s for s in said)


def test_a_form_that_does_not_fit_is_explained(tmp_path):
    given = original_weights("tfa_lnlstm")
    path = save_npz(tmp_path / "w.npz", given)
    with pytest.raises(FileError, match="the file has no 'beta_h', 'gamma_h'"):
        read(path, "haste_lnlstm")
    with pytest.raises(FileError, match="There is no dialect named 'haste_lstm'"):
        read(path, "haste_lstm")
    given["bias"] = given["bias"][:-1]
    with pytest.raises(FileError, match="have the shapes"):
        read(save_npz(tmp_path / "v.npz", given), "tfa_lnlstm")
    with pytest.raises(FileError, match="lnrnn inspect lists the tensors"):
        read(tmp_path / "v.npz")


def test_several_layers_are_numbered_in_order_and_paired(tmp_path):
    scopes = ["net.2.fw.", "net.2.bw.", "net.10.fw.", "net.10.bw.", "tail."]
    arrays: dict[str, Any] = {}
    for seed, scope in enumerate(scopes):
        arrays |= prefixed(scope, original_weights("torchaudio_customlstm", seed=seed))
    found, _ = read(save_npz(tmp_path / "w.npz", arrays))
    assert list(found) == [
        "layers.0.forward",
        "layers.0.reverse",
        "layers.1.forward",
        "layers.1.reverse",
        "layers.2.forward",
    ]
    assert [w.origin.scope for w in found.values() if w.origin] == scopes
    write(tmp_path / "again.npz", found, "torchaudio_customlstm")
    assert equal_bits(load_all(tmp_path / "again.npz"), arrays)
    only, _ = read(tmp_path / "w.npz", select="net.10")
    assert [w.origin.scope for w in only.values() if w.origin] == ["net.10.fw.", "net.10.bw."]


def test_settings_take_the_place_of_the_forms(tmp_path):
    path = save_npz(tmp_path / "w.npz", original_weights("tfa_lnlstm"))
    found, said = read(path, settings={"epsilon": 0.5, "zoneout": 0.1})
    assert found.single.variant.epsilon == 0.5 and found.single.zoneout == 0.1
    assert said[0].endswith("assumed activation=tanh, recurrent_activation=sigmoid")
    assert "assumed epsilon=0.001, activation=tanh" in read(path)[1][0]
    with pytest.raises(FileError, match="The settings do not fit tfa_lnlstm"):
        read(path, settings={"reset": "before"})


def test_export_into_another_form_computes_the_same(tmp_path):
    """The weights of a TF Addons layer, for PyTorch's benchmark cell with that epsilon."""
    weights = weights_of(form("tfa_lnlstm").variant, sizes=Sizes(3, 5, 5))
    target = "pytorch_fastrnns_lnlstm"
    with pytest.raises(FileError, match=r"epsilon is 0\.001 here and 1e-05"):
        originals(weights, target)
    found = originals(weights, target, "", {"epsilon": 1e-3})
    assert found["weight_ih"].shape == (20, 3)
    total = weights.params["bias"].astype("f8") + weights.params["x_norm_bias"]
    assert_close("bias", found["layernorm_i.bias"], total, "float32")


def test_a_layer_of_ours_is_written_for_another_program(tmp_path):
    weights = weights_of(form("haste_lnlstm").variant)
    write(tmp_path / "w.npz", lnrnn.convert.collect(weights), "haste_tf_lnlstmcell")
    assert sorted(load_all(tmp_path / "w.npz")) == [
        "haste/beta_h",
        "haste/bias",
        "haste/gamma",
        "haste/gamma_h",
        "haste/kernel",
    ]


def test_endings_that_no_program_reads_are_refused(tmp_path):
    layers = lnrnn.convert.collect(weights_of(form("haste_lnlstm").variant))
    with pytest.raises(FileError, match=r"end in \.safetensors"):
        write(tmp_path / "w.bin", layers, "haste_lnlstm")
    with pytest.raises(FileError, match="a form of TensorFlow Lite"):
        write(tmp_path / "w.tflite", layers, "haste_lnlstm")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "rates", "message"),
    [
        ("baselines_lnlstm", {"zoneout": 0.3}, "zoneout is 0.3 here, and baselines_lnlstm has"),
        ("haste_lnlstm", {"zoneout_cell": 0.2}, "zoneout_cell is 0.2 here, and haste_lnlstm"),
        ("lingvo_lnlstm_simple", {"zoneout": 0.3}, "has one zoneout of h and c; got 0.3 and 0"),
    ],
)
def test_a_rate_that_the_form_does_not_apply_is_refused(name, rates, message):
    weights = weights_of(FORMS[name].variant)
    assert originals(weights, name)
    with pytest.raises(FileError, match=message):
        originals(dataclasses.replace(weights, **rates), name)


def test_a_rate_that_the_form_applies_is_no_hindrance():
    for name, rates in (
        ("haste_lnlstm", {"zoneout": 0.3}),
        ("lingvo_lnlstm_simple", {"zoneout": 0.3, "zoneout_cell": 0.3}),
    ):
        weights = weights_of(FORMS[name].variant)
        held = dataclasses.replace(weights, **rates)
        assert equal_bits(originals(held, name), originals(weights, name))


def test_an_origin_of_another_layout_is_not_followed():
    """A file may name any dialect as the origin of any variant."""
    weights = weights_of(FORMS["haste_lnlstm"].variant)
    false = dataclasses.replace(weights, origin=Origin("haste_lngru"))
    with pytest.raises(FileError, match="cell is 'lstm' here and 'gru' in the wanted form"):
        originals(false, "haste_lngru")
