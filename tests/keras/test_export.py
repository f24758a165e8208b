"""Exported models: loaded where nothing of ours is, with another batch and length."""

# pyright: reportArgumentType=false
# (Keras hints a string for `verbose` and `jit_compile`)

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras_cases import (
    BACKEND,
    INPUTS,
    KINDS,
    UNITS,
    draw,
    each_kind,
    in_fresh_process,
    mixed,
    sequences,
    to_numpy,
)

from lnrnn.engines import runs
from lnrnn.keras import DreamerBlockGRU
from lnrnn.testing import assert_close

_SERVE = """
import sys
from pathlib import Path
import numpy as np, tensorflow as tf
for folder in Path(sys.argv[1]).iterdir():
    model = tf.saved_model.load(str(folder / "model"))
    assert "lnrnn" not in sys.modules
    np.save(folder / "y.npy", model.serve(tf.constant(np.load(folder / "x.npy"))).numpy())
"""

# keras.Model.export writes this format with these backends
if BACKEND in ("tensorflow", "jax"):

    def _sequential(*layers):
        return keras.Sequential([keras.Input((None, INPUTS)), *layers])

    def _all_layers():
        """All three layers, both directions and a cell."""
        model = _sequential(
            *(kind.layer(UNITS, return_sequences=True) for kind in KINDS.values()),
            KINDS["lstm"].layer(UNITS, return_sequences=True, learn_initial_state=True),
            keras.layers.Bidirectional(KINDS["gru"].layer(4, return_sequences=True, burn_in=1)),
            keras.layers.RNN(KINDS["lstm"].cell(3)),
        )
        mixed(model.layers[1], inputs=UNITS)
        return model, sequences(2, 9)

    def _masked():
        model = _sequential(
            keras.layers.Masking(-7.0),
            DreamerBlockGRU(4, projection=3, blocks=2, return_sequences=True),
            KINDS["lstm"].layer(UNITS, return_sequences=True),
            keras.layers.Bidirectional(KINDS["simple"].layer(UNITS)),
        )
        x = sequences(2, 9)
        x[0, 3:5] = x[1, :2] = x[1, 7:] = -7.0
        return model, x

    def _half():
        model = _sequential(
            KINDS["gru"].layer(UNITS, return_sequences=True, dtype="mixed_bfloat16"),
            KINDS["lstm"].layer(UNITS, dtype="mixed_bfloat16"),
            keras.layers.Dense(1, dtype="float32"),
        )
        return model, sequences(2, 9)

    def test_saved_models(tmp_path):
        expected = {}
        for made, dtype in ((_all_layers, "float32"), (_masked, "float32"), (_half, "bfloat16")):
            model, x = made()
            folder = tmp_path / made.__name__
            model.export(str(folder / "model"), verbose=False)
            np.save(folder / "x.npy", x)
            expected[folder] = model.predict(x, verbose=0), dtype
        in_fresh_process(_SERVE, tmp_path)
        for folder, (y, dtype) in expected.items():
            assert_close(f"y of {folder.name}", np.load(folder / "y.npy"), y, dtype)


if BACKEND == "tensorflow":
    import tensorflow as tf

    _CALL = """
import sys
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
assert "lnrnn" not in sys.modules
given = {n: tf.constant(a) for n, a in np.load(sys.argv[2]).items()}
found = {}
for name, function in loaded.signatures.items():
    names = function.structured_input_signature[1]
    found |= {f"{name} {n}": v for n, v in function(**{n: given[n] for n in names}).items()}
with tf.GradientTape() as tape:
    tape.watch(given["x"])
    y = loaded.serve(given["x"])
found["through the loaded function"] = tape.gradient(y, given["x"])
np.savez(sys.argv[3], **{n: v.numpy() for n, v in found.items()})
"""

    class _Program(tf.Module):
        """A model, its training step and its gradient, as the functions of a module."""

        def __init__(self, model):
            super().__init__()
            self.model, self.weights = model, [w.value for w in model.trainable_variables]

        @tf.function(input_signature=[tf.TensorSpec((None, None, INPUTS), name="x")])
        def serve(self, x):
            return self.model(x)

        @tf.function(
            input_signature=[
                tf.TensorSpec((None, None, INPUTS), name="x"),
                tf.TensorSpec((None, 1), name="y"),
            ]
        )
        def train(self, x, y):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_mean(tf.square(self.model(x, training=True) - y))
            gradients = tape.gradient(loss, [x, *self.weights])
            return {"loss": loss, **{f"gradient_{i}": g for i, g in enumerate(gradients)}}

    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
    def test_saved_training_step(policy, tmp_path):
        """Functions that ran here before they were saved, called where nothing of ours is."""
        layers = [
            KINDS["gru"].layer(UNITS, return_sequences=True, dtype=policy),
            DreamerBlockGRU(4, projection=3, blocks=2, return_sequences=True, dtype=policy),
            KINDS["lstm"].layer(3, dtype=policy),
            keras.layers.Dense(1, dtype="float32"),
        ]
        model = keras.Sequential([keras.Input((None, INPUTS)), *layers])
        mixed(layers[0])
        program: Any = _Program(model)
        x, y = sequences(2, 5), draw(2, 1)
        with tf.GradientTape() as tape:
            given = tf.constant(x)
            tape.watch(given)
            served = program.serve(given)
        before = runs(backward=True)
        trained = program.train(x, y)
        assert (runs(backward=True) - before)["native", "tensorflow"] == 3
        expected = {
            "serve output_0": served,
            "through the loaded function": tape.gradient(served, given),
            **{f"train {n}": v for n, v in trained.items()},
            **{f"concrete {n}": v for n, v in trained.items()},
        }
        signatures = {
            "serve": program.serve,
            "train": program.train,
            "concrete": program.train.get_concrete_function(),
        }
        tf.saved_model.save(program, tmp_path / "model", signatures=signatures)
        np.savez(tmp_path / "given.npz", x=x, y=y)
        in_fresh_process(_CALL, tmp_path / "model", tmp_path / "given.npz", tmp_path / "found.npz")
        found = np.load(tmp_path / "found.npz")
        assert set(found) == set(expected)
        for name, value in expected.items():
            dtype = layers[0].compute_dtype
            assert_close(name, found[name], value, dtype, gradient="gradient" in name)

    def test_what_converters_are_given():
        """LiteRT and ONNX convert frozen functions: operators of TensorFlow's own only."""
        from tensorflow.python.framework.convert_to_constants import (
            convert_variables_to_constants_v2,
        )

        layer = mixed(KINDS["gru"].layer(UNITS))
        x = tf.constant(sequences())
        function = tf.function(lambda x: layer(x))
        expected = function(x)
        frozen = convert_variables_to_constants_v2(function.get_concrete_function(x))
        graph = frozen.graph.as_graph_def()
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        assert not [n.op for n in nodes if "Lnrnn" in n.op or "PyFunc" in n.op]
        assert_close("y", frozen(x)[0], expected, "float32")

    def test_after_a_conversion_that_fails():
        """It takes functions out of TensorFlow's context, which other graphs may share."""
        from tensorflow.python.framework.convert_to_constants import (
            convert_variables_to_constants_v2,
        )

        layer = KINDS["gru"].layer(UNITS, stateful=True)
        x = tf.constant(sequences())
        layer(x)
        mixed(layer)

        def traced() -> Any:
            return tf.function(lambda x: layer(x)).get_concrete_function(x)

        with pytest.raises(ValueError, match="resource"):  # the states are assigned
            convert_variables_to_constants_v2(traced(), False, aggressive_inlining=True)
        layer.reset_states()
        found = traced()(x)
        layer.reset_states()
        assert_close("y", found, layer(x), "float32")


if BACKEND == "torch":
    import onnxruntime
    import torch

    from lnrnn.keras import DreamerBlockGRU

    def test_torch_export(tmp_path):
        """Of Keras's own layers the length would be fixed."""
        model = keras.Sequential(
            [
                keras.Input((None, INPUTS)),
                keras.layers.Masking(-7.0),
                keras.layers.Bidirectional(KINDS["gru"].layer(4, return_sequences=True)),
                KINDS["lstm"].layer(UNITS, return_sequences=True),
                DreamerBlockGRU(8, projection=4),
            ]
        )
        mixed(model.layers[2], inputs=8)
        varies = torch.export.Dim.DYNAMIC
        path = tmp_path / "model.pt2"
        model.export(path, format="torch", verbose=False, dynamic_shapes={0: varies, 1: varies})
        loaded = torch.export.load(path).module()
        for batch, steps in ((2, 9), (3, 4)):
            x = sequences(batch, steps)
            x[0, 1:3] = -7.0
            assert_close("y", to_numpy(loaded(torch.tensor(x))), to_numpy(model(x)), "float32")

    @each_kind
    # Keras exports with PyTorch's older exporter, which distrusts every Python number
    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
    def test_onnx(kind, tmp_path):
        """As with Keras's own layers, for any batch and a fixed length."""
        model = keras.Sequential(
            [
                keras.Input((4, INPUTS)),
                keras.layers.Masking(-7.0),
                keras.layers.Bidirectional(kind.layer(UNITS, return_sequences=True)),
                kind.layer(3),
            ]
        )
        mixed(model.layers[-1], inputs=2 * UNITS)
        x = sequences(2, 4)
        x[0, 1:3] = -7.0
        expected = to_numpy(model(x))
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        (found,) = session.run(None, {session.get_inputs()[0].name: x})
        assert_close("y", found, expected, "float32")
