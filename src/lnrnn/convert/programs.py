"""Runs the original program of a dialect on given weights; a script that stands alone.

`python programs.py REQUEST.npz RESULT.npz`, in any Python that has NumPy and the original
program.  The request holds `x` (T, B, I), the original weights `w/<name>`, and `about`, JSON
with the name of the form, the sizes `inputs`, `units` and others, and the fields of the variant or
relative; the
result holds `y` (T, B, R).  Exit status 3: the program is not installed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

Array = Any
Program = Callable[[Mapping[str, Any], Mapping[str, Array], Array], Array]

NOT_INSTALLED = 3


def tensorflow_addons(about: Mapping[str, Any], weights: Mapping[str, Array], x: Array) -> Array:
    """The cells of TensorFlow Addons 0.23 under TensorFlow 2.15."""
    import tensorflow as tf
    import tensorflow_addons as tfa  # pyright: ignore[reportMissingImports]

    units, variant = about["units"], about["variant"]
    if about["form"] == "tfa_lnlstm":
        cell = tfa.rnn.LayerNormLSTMCell(
            units,
            activation=_keras2(variant["activation"]),
            recurrent_activation=_keras2(variant["recurrent_activation"]),
            norm_epsilon=variant["epsilon"],
        )
    else:
        cell = tfa.rnn.LayerNormSimpleRNNCell(
            units,
            activation=_keras2(variant["activation"]),
            layernorm_epsilon=variant["epsilon"],
        )
    return _keras_cell(tf, cell, weights, x)


def keras_layernorm_rnn(about: Mapping[str, Any], weights: Mapping[str, Array], x: Array) -> Array:
    """The cells of keras-layernorm-rnn 0.2.1 under TensorFlow 2.15."""
    import keras_layernorm_rnn as original  # pyright: ignore[reportMissingImports]
    import tensorflow as tf

    variant, form = about["variant"], about["form"]
    options: dict[str, Any] = {
        "activation": _keras2(variant["activation"]),
        "layernorm_epsilon": variant["epsilon"],
    }
    if form == "kerasln_simplernn":
        name = "LayernormSimpleRNNCell"
    else:
        name = f"LayernormLSTM{form[len('kerasln_lstm')]}Cell"
        options["recurrent_activation"] = _keras2(variant["recurrent_activation"])
    cell = getattr(original, name)(about["units"], use_layernorm=True, **options)
    return _keras_cell(tf, cell, weights, x)


def torchaudio(about: Mapping[str, Any], weights: Mapping[str, Array], x: Array) -> Array:
    """The LSTM of torchaudio's RNN-T."""
    import torch
    from torchaudio.models.rnnt import _CustomLSTM  # pyright: ignore[reportMissingImports]

    cell = _CustomLSTM(
        about["inputs"],
        about["units"],
        layer_norm=True,
        layer_norm_epsilon=about["variant"]["epsilon"],
    )
    with torch.no_grad():
        return _torch(torch, cell, weights)(torch.tensor(x), None)[0].numpy()


def speechbrain(about: Mapping[str, Any], weights: Mapping[str, Array], x: Array) -> Array:
    """SpeechBrain's LiGRU and SLiGRU."""
    import torch
    from speechbrain.nnet import RNN  # pyright: ignore[reportMissingImports]

    form = about["form"]
    options: dict[str, Any] = {"normalization": "layernorm"}
    if "sligru" in form:
        affine = not form.endswith("-affine")
        options = {"ff_normalization": "layernorm", "recurrent_elementwise_affine": affine}
    layer = getattr(RNN, "SLiGRU_Layer" if "sligru" in form else "LiGRU_Layer")(
        about["inputs"],
        about["units"],
        num_layers=1,
        batch_size=x.shape[1],
        nonlinearity=about["variant"]["activation"],
        **options,
    )
    layer.eval()
    with torch.no_grad():
        _torch(torch, layer, weights)
        return layer(torch.tensor(x).transpose(0, 1)).transpose(0, 1).numpy()


def haste(about: Mapping[str, Any], weights: Mapping[str, Array], x: Array) -> Array:
    """haste's layers for PyTorch."""
    import haste_pytorch  # pyright: ignore[reportMissingImports]
    import torch

    name = {
        "haste_lnlstm": "LayerNormLSTM",
        "haste_lngru": "LayerNormGRU",
        "haste_lnindrnn": "LayerNormIndRNN",
    }[about["form"]]
    layer = getattr(haste_pytorch, name)(
        about["inputs"], about["units"], zoneout=about["zoneout"], batch_first=False
    )
    layer.eval()
    with torch.no_grad():
        return _torch(torch, layer, weights)(torch.tensor(x))[0].numpy()


def labml(about: Mapping[str, Any], weights: Mapping[str, Array], x: Array) -> Array:
    """The cells of labml-nn 0.5.1, from zero states."""
    import torch
    from labml_nn.hypernetworks.hyper_lstm import (  # pyright: ignore[reportMissingImports]
        HyperLSTMCell,
    )
    from labml_nn.lstm import LSTMCell  # pyright: ignore[reportMissingImports]

    inputs, units, small = about["inputs"], about["units"], about.get("hyper", 0)
    if small:
        cell, widths = HyperLSTMCell(inputs, units, small, about["projection"]), [units, small]
    else:
        cell, widths = LSTMCell(inputs, units, layer_norm=True), [units]
    _torch(torch, cell, weights)
    states = [torch.zeros(x.shape[1], width) for width in widths for _ in "hc"]
    emitted = []
    with torch.no_grad():
        for one in torch.tensor(x):
            states = cell(one, *states)
            emitted.append(states[0])
    return torch.stack(emitted).numpy()


def torchrl(about: Mapping[str, Any], weights: Mapping[str, Array], x: Array) -> Array:
    """TorchRL's block GRU, batch first."""
    import torch
    from torchrl.modules.models.model_based import (  # pyright: ignore[reportMissingImports]
        DreamerV3BlockGRU,
    )

    layer = DreamerV3BlockGRU(
        about["inputs"],
        about["units"],
        projection_size=about["projection"],
        num_blocks=about["blocks"],
        num_layers=about["layers"],
        norm_eps=about["variant"]["epsilon"],
        update_bias=about["variant"]["update_bias"],
    )
    with torch.no_grad():
        outputs = _torch(torch, layer, weights)(torch.tensor(x).transpose(0, 1))[0]
    return outputs.transpose(0, 1).numpy()


def sheeprl(about: Mapping[str, Any], weights: Mapping[str, Array], x: Array) -> Array:
    """SheepRL's GRU cell, from a zero state."""
    import torch

    models = _alone("sheeprl.models.models", "sheeprl", "sheeprl.models")
    cell = models.LayerNormGRUCell(
        about["inputs"],
        about["units"],
        bias=not about["form"].endswith("_nobias"),
        layer_norm_cls=torch.nn.LayerNorm,
        layer_norm_kw={"eps": about["variant"]["epsilon"]},
    )
    _torch(torch, cell, weights)
    h, emitted = torch.zeros(x.shape[1], about["units"]), []
    with torch.no_grad():
        for one in torch.tensor(x):
            h = cell(one, h)
            emitted.append(h)
    return torch.stack(emitted).numpy()


def di_engine(about: Mapping[str, Any], weights: Mapping[str, Array], x: Array) -> Array:
    """DI-engine's LSTM of one layer."""
    import torch

    network = "ding.torch_utils.network"
    rnn = _alone(f"{network}.rnn", "ding.torch_utils", network)
    layer = rnn.LSTM(about["inputs"], about["units"], 1, norm_type="LN")
    _set_epsilon(torch, layer, about["variant"]["epsilon"])
    _torch(torch, layer, weights)
    with torch.no_grad():
        return layer(torch.tensor(x), None)[0].numpy()


def nemo(about: Mapping[str, Any], weights: Mapping[str, Array], x: Array) -> Array:
    """NeMo's LSTM for transducers."""
    import torch

    common = "nemo.collections.common"
    rnn = _alone(f"{common}.parts.rnn", common, f"{common}.parts")
    layer = rnn.LSTMLayer(rnn.LayerNormLSTMCell, about["inputs"], about["units"], 0.0)
    _set_epsilon(torch, layer, about["variant"]["epsilon"])
    _torch(torch, layer, weights)
    zeros = torch.zeros(x.shape[1], about["units"])
    with torch.no_grad():
        return layer(torch.tensor(x), (zeros, zeros))[0].numpy()


def sockeye(about: Mapping[str, Any], weights: Mapping[str, Array], x: Array) -> Array:
    """The cells of Sockeye 1 under MXNet, from zero states."""
    import mxnet as mx  # pyright: ignore[reportMissingImports]
    from sockeye import rnn  # pyright: ignore[reportMissingImports]

    norm, kind = about["form"].removeprefix("sockeye_ln").rpartition("pergate")[1:]
    name = f"LayerNorm{'PerGate' if norm else ''}{kind.upper()}Cell"
    cell = getattr(rnn, name)(about["units"], prefix="")
    states = {f"state {i}": np.zeros((x.shape[1], about["units"])) for i in range(len(cell.state_info))}
    outputs, _ = cell.unroll(
        len(x),
        mx.sym.Variable("x"),
        [mx.sym.Variable(state) for state in states],
        layout="TNC",
        merge_outputs=True,
    )
    given = {**weights, **states, "x": x}
    bound = outputs.bind(mx.cpu(), {n: mx.nd.array(v) for n, v in given.items()})
    return bound.forward()[0].asnumpy()


def tensorflow_lite(about: Mapping[str, Any], weights: Mapping[str, Array], x: Array) -> Array:
    """TensorFlow Lite, on the model that the request brings."""
    try:
        from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    interpreter = Interpreter(model_content=bytes(weights["model"]))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


PROGRAMS: dict[str, tuple[str, Program]] = {
    "tfa_*": ("tensorflow_addons", tensorflow_addons),
    "kerasln_*": ("keras_layernorm_rnn", keras_layernorm_rnn),
    "torchaudio_*": ("torchaudio", torchaudio),
    "speechbrain_*": ("speechbrain", speechbrain),
    "haste_ln*": ("haste_pytorch", haste),
    "labml_*": ("labml_nn", labml),
    "torchrl_*": ("torchrl", torchrl),
    "sheeprl_*": ("sheeprl", sheeprl),
    "diengine_*": ("ding", di_engine),
    "pytorch_fastrnns_lnlstm": ("nemo", nemo),
    "sockeye_*": ("sockeye", sockeye),
    "tflite_*": ("tensorflow", tensorflow_lite),
}
"""Names of forms: the module of their original program, and what runs that."""


def program_of(form: str) -> tuple[str, Program] | None:
    """The module of a form's original program and what runs it; None where there is none."""
    return next((found for name, found in PROGRAMS.items() if fnmatchcase(form, name)), None)


def _alone(name: str, *packages: str) -> Any:
    """A module without what these packages above it import when they are loaded."""
    for package in packages:
        spec = find_spec(package)
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError(f"{package} is no package")
        bare = ModuleType(package)
        bare.__path__ = list(spec.submodule_search_locations)
        sys.modules[package] = bare
    return import_module(name)


def _keras_cell(tf: Any, cell: Any, weights: Mapping[str, Array], x: Array) -> Array:
    """A Keras cell over a sequence, its weights set by the ends of their names."""
    layer = tf.keras.layers.RNN(cell, return_sequences=True)
    layer(np.swapaxes(x, 0, 1))  # which builds the norms inside as well
    left = dict(weights)
    for variable in cell.weights:
        name = variable.name.removesuffix(":0")
        key = max((k for k in left if name.endswith(k)), key=len)
        variable.assign(left.pop(key))
    if left:
        raise ValueError(f"The original has no weights {sorted(left)}.")
    return np.swapaxes(layer(np.swapaxes(x, 0, 1)).numpy(), 0, 1)


def _torch(torch: Any, module: Any, weights: Mapping[str, Array]) -> Any:
    """A module with all of its parameters set; those of inner modules by the ends of names."""
    given = {name: torch.tensor(value) for name, value in weights.items()}
    state = module.state_dict()
    for name in state:
        key = max((k for k in given if name == k or name.endswith("." + k)), key=len, default=None)
        if key is not None:
            state[name] = given.pop(key)
    if given:
        raise ValueError(f"The original has no weights {sorted(given)}.")
    module.load_state_dict(state)
    return module


def _set_epsilon(torch: Any, module: Any, epsilon: float) -> None:
    for one in module.modules():
        if isinstance(one, torch.nn.LayerNorm):
            one.eps = epsilon


def _keras2(name: str) -> str:
    return "hard_sigmoid" if name == "keras2_hard_sigmoid" else name


def main(request: str, result: str) -> int:
    """Run the program of a request."""
    with np.load(request, allow_pickle=False) as arrays:
        about = json.loads(str(arrays["about"]))
        weights = {n[2:]: arrays[n] for n in arrays.files if n.startswith("w/")}
        x = arrays["x"]
    found = program_of(about["form"])
    if found is None:
        return NOT_INSTALLED
    try:
        y = found[1](about, weights, x)
    except ImportError as error:
        print(error, file=sys.stderr)
        return NOT_INSTALLED
    np.savez(result, y=y)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
