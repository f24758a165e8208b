"""What exports of Keras models compute, on the backend of this process; run by test_exports.

    KERAS_BACKEND=jax python tests/examples/series/exports.py

Each line is a format and what it gives for each layer, as docs/keras.md has them in a table.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lnrnn.keras import LayerNormGRU, LayerNormLSTM, LayerNormSimpleRNN

BACKEND = keras.backend.backend()
INPUTS, UNITS, MISSING = 4, 5, -7.0
Run = Callable[[np.ndarray], np.ndarray]


def written(model: Any, path: Path, form: str, **options: Any) -> None:
    """Export a model; Keras's own signature would leave the batch of a stateful one open."""
    if model.inputs[0].shape[0] is not None:
        options["input_signature"] = [keras.InputSpec(shape=model.inputs[0].shape, dtype="float32")]
    model.export(path, format=form, verbose=False, **options)


def saved_model(model: Any, folder: Path) -> Run:
    import tensorflow as tf

    written(model, folder / "model", "tf_saved_model")
    loaded: Any = tf.saved_model.load(folder / "model")
    return lambda x: loaded.serve(tf.constant(x)).numpy()


def litert(model: Any, folder: Path) -> Run:
    path = folder / "model.tflite"
    written(model, path, "litert")
    if BACKEND == "torch":
        from ai_edge_litert.interpreter import Interpreter
    else:
        import tensorflow as tf

        Interpreter: Any = tf.lite.Interpreter
    interpreter: Any = Interpreter(model_path=str(path))
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(x: np.ndarray) -> np.ndarray:
        if tuple(given["shape"]) != x.shape:
            interpreter.resize_tensor_input(given["index"], x.shape)
            given["shape"] = x.shape
            interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(found["index"])

    interpreter.allocate_tensors()
    return run


def onnx(model: Any, folder: Path) -> Run:
    import onnxruntime

    path = folder / "model.onnx"
    written(model, path, "onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options)
    return lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]


def torch_export(model: Any, folder: Path) -> Run:
    import torch

    path = folder / "model.pt2"
    varies = [i for i, size in enumerate(model.inputs[0].shape) if size is None]
    shapes = {i: torch.export.Dim.DYNAMIC for i in varies} or None
    written(model, path, "torch", dynamic_shapes=shapes)
    program = torch.export.load(path).module()
    return lambda x: program(torch.from_numpy(x)).detach().numpy()


def jax_export(model: Any, folder: Path) -> Run:
    import jax
    from jax import export

    batch, steps, inputs = model.inputs[0].shape
    shape = export.symbolic_shape(f"{batch or 'b'}, {steps or 't'}, {inputs}")
    given = jax.ShapeDtypeStruct(shape, np.float32)
    stored = export.export(jax.jit(lambda x: model(x, training=False)))(given).serialize()
    loaded = export.deserialize(stored)
    return lambda x: np.asarray(loaded.call(x))


FORMATS: dict[str, dict[str, Callable[[Any, Path], Run]]] = {
    "tensorflow": {"SavedModel": saved_model, "LiteRT": litert, "ONNX": onnx},
    "jax": {"SavedModel": saved_model, "ONNX": onnx, "jax.export": jax_export},
    "torch": {"ONNX": onnx, "LiteRT": litert, "torch.export": torch_export},
}


def layers(case: str) -> list[Any]:
    """The layers of a model."""
    gru = LayerNormGRU(UNITS, stateful=case == "stateful")
    return {
        "LSTM": [LayerNormLSTM(UNITS)],
        "GRU": [gru],
        "SimpleRNN": [LayerNormSimpleRNN(UNITS)],
        "Bidirectional": [keras.layers.Bidirectional(gru)],
        "masks": [keras.layers.Masking(MISSING), gru],
        "stateful": [gru],
    }[case]


CASES = ("LSTM", "GRU", "SimpleRNN", "Bidirectional", "masks", "stateful")


def sequences(batch: int, steps: int) -> np.ndarray:
    x = np.random.default_rng(batch).standard_normal((batch, steps, INPUTS)).astype("float32")
    x[:, 1] = MISSING
    return x


def computes(
    case: str,
    make: Callable[[Any, Path], Run],
    steps: int | None,
    shapes: list[tuple[int, int]],
) -> bool:
    """Whether an export gives what the model does, in calls with inputs of some shapes."""
    keras.utils.set_random_seed(1)
    batch = 2 if case == "stateful" else None
    built = layers(case)
    model = keras.Sequential([keras.Input((steps, INPUTS), batch_size=batch), *built])
    model(sequences(2, 6))
    if batch:
        built[-1].reset_states()
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = make(model, Path(folder))
            found = [run(sequences(*shape)) for shape in shapes]
    except Exception as error:  # of a converter or a runtime: it is what the table is about
        if os.environ.get("VERBOSE"):
            print(case, make.__name__, steps, type(error), str(error)[-1500:], file=sys.stderr)
        return False
    if batch:
        built[-1].reset_states()
    wanted = [keras.ops.convert_to_numpy(model(sequences(*shape))) for shape in shapes]
    return all(np.allclose(f, w, atol=1e-5) for f, w in zip(found, wanted, strict=True))


def said(case: str, make: Callable[[Any, Path], Run]) -> str:
    """What is to be said of a format and a case."""
    once = [(2, 6)]
    if case == "stateful":
        if computes(case, make, 6, once * 2):
            return "carries"
        return "begins anew" if computes(case, make, 6, once) else "no"
    if computes(case, make, None, [(3, 6), (2, 9)]):
        return "any"
    if computes(case, make, 6, [(3, 6), (1, 6)]):
        return "fixed T"
    return "fixed B, T" if computes(case, make, 6, [(1, 6)]) else "no"


def main() -> None:
    warnings.simplefilter("ignore")
    only = sys.argv[1:]
    for name, make in FORMATS[BACKEND].items():
        if not only or name in only:
            found = [
                said(case, make) for case in CASES if not set(CASES) & set(only) or case in only
            ]
            print("|", " | ".join([name, BACKEND, *found]), "|", flush=True)


if __name__ == "__main__":
    main()
