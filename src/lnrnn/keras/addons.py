"""The cells of TensorFlow Addons under their registered names, so that old models load.

A `.keras` or `.h5` model whose configuration names `Addons>LayerNormLSTMCell` or
`Addons>LayerNormSimpleRNNCell` loads under Keras 3 once `lnrnn.keras` is imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import keras

# Keras exports the class under no name of its own
from keras.src.models.functional import Functional

from lnrnn import dialects
from lnrnn.keras.cell_variant import LSTM
from lnrnn.keras.cells import LayerNormCell, LayerNormLSTMCell, LayerNormSimpleRNNCell

# arguments of TensorFlow Addons that have another name here
_RENAMED = {
    "norm_gamma_initializer": "gain_initializer",
    "norm_beta_initializer": "norm_bias_initializer",
    "gamma_initializer": "gain_initializer",
    "gamma_regularizer": "gain_regularizer",
    "gamma_constraint": "gain_constraint",
    "layernorm_epsilon": "norm_epsilon",
}
_OWN = ("kernel", "recurrent_kernel", "bias")


class _Norm(keras.layers.Layer):
    """The place of a norm in the files of TensorFlow Addons; its weights are the cell's."""

    def __init__(self, owner: LayerNormCell, names: tuple[str, ...]) -> None:
        super().__init__()
        self._owner_and_names = _Hidden((owner, names))
        self.built = True

    def save_own_variables(self, store: Any) -> None:
        """Write the gain and the bias as a norm of its own would."""
        for place, weight in enumerate(self._held()):
            store[str(place)] = weight.numpy() if hasattr(weight, "numpy") else weight

    def load_own_variables(self, store: Any) -> None:
        """Read the gain and the bias of a norm into the cell."""
        for place, weight in enumerate(self._held()):
            weight.assign(store[str(place)])

    def _held(self) -> list[Any]:
        owner, names = self._owner_and_names.value
        return [getattr(owner, name) for name in names if hasattr(owner, name)]


class _Hidden:
    """Something that Keras does not look into for weights."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _AddonsCell(LayerNormCell):
    """What the two cells share: the configuration and the places of the weights."""

    dialect: ClassVar[str]
    places: ClassVar[Mapping[str, tuple[str, ...]]]

    def __init__(self, units: int, *args: Any, **kwargs: Any) -> None:
        given = {_RENAMED.get(name, name): value for name, value in kwargs.items()}
        bound = inspect.signature(super().__init__).bind(units, *args, **given).arguments
        given = bound.pop("kwargs", {}) | bound
        super().__init__(**(given if "variant" in given else self._original(given)))
        held = {*_OWN, *(name for names in self.places.values() for name in names)}
        strange = [name for name in self._laid_out(1).weights if name not in held]
        if strange:
            raise ValueError(
                f"A cell of TensorFlow Addons has the weights of {self.dialect}; got a variant "
                f"with {strange[0]}: use {self.kind.name}Cell."
            )
        for place, names in self.places.items():
            setattr(self, place, _Norm(self, names))

    @classmethod
    def _original(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Arguments of TensorFlow Addons with the variant that they mean."""
        changes: dict[str, Any] = {}
        if not given.get("use_bias", True):
            # there the norms keep their biases
            changes["bias"], given["use_bias"] = False, True
        for role in ("activation", "recurrent_activation"):
            if given.get(role) == "hard_sigmoid":
                # of Keras 2, which Keras 3 has no name for
                changes[role], given[role] = "keras2_hard_sigmoid", "auto"
        if cls.kind is LSTM and "activation" in changes:
            changes["output_activation"] = changes["activation"]
        variant = dialects.get(cls.dialect).variant
        return given | {"variant": variant.replace(**changes) if changes else cls.dialect}

    def save_own_variables(self, store: Any) -> None:
        """Write the weights that are not those of a norm."""
        for place, name in enumerate(n for n in _OWN if n in self.weight_names):
            store[str(place)] = keras.ops.convert_to_numpy(getattr(self, name))

    def load_own_variables(self, store: Any) -> None:
        """Read the weights that are not those of a norm."""
        for place, name in enumerate(n for n in _OWN if n in self.weight_names):
            getattr(self, name).assign(store[str(place)])


@keras.saving.register_keras_serializable(package="Addons", name="LayerNormLSTMCell")
class AddonsLSTMCell(_AddonsCell, LayerNormLSTMCell):
    """`tfa.rnn.LayerNormLSTMCell`, as old files name it.

    A [LayerNormLSTMCell][lnrnn.keras.LayerNormLSTMCell] with `variant="tfa_lnlstm"`, whose
    weights stand in files where those of TensorFlow Addons stood.  It takes the arguments of
    the original too: `norm_gamma_initializer`, `norm_beta_initializer`, and `hard_sigmoid` and
    `use_bias=False` as they are meant there.

    Example:
        >>> cell = AddonsLSTMCell(8, norm_epsilon=1e-3)
        >>> cell.variant.cell_norm
        'carry'
    """

    dialect = "tfa_lnlstm"
    places: ClassVar = {
        "kernel_norm": ("x_norm_gain", "x_norm_bias"),
        "recurrent_norm": ("h_norm_gain", "h_norm_bias"),
        "state_norm": ("cell_norm_gain", "cell_norm_bias"),
    }


@keras.saving.register_keras_serializable(package="Addons", name="LayerNormSimpleRNNCell")
class AddonsSimpleRNNCell(_AddonsCell, LayerNormSimpleRNNCell):
    """`tfa.rnn.LayerNormSimpleRNNCell`, as old files name it.

    A [LayerNormSimpleRNNCell][lnrnn.keras.LayerNormSimpleRNNCell] with
    `variant="tfa_lnsimplernn"`, whose weights stand in files where those of TensorFlow Addons
    stood.  It takes the arguments of the original too: `layernorm_epsilon`,
    `gamma_initializer`, `gamma_regularizer`, `gamma_constraint`.

    Example:
        >>> cell = AddonsSimpleRNNCell(8)
        >>> cell.variant.epsilon
        1e-05
    """

    dialect = "tfa_lnsimplernn"
    places: ClassVar = {"layernorm": ("sum_norm_gain",)}


# by the names of classes Keras finds the weights of a stack of cells
AddonsLSTMCell.__name__ = "LayerNormLSTMCell"
AddonsSimpleRNNCell.__name__ = "LayerNormSimpleRNNCell"


def _read_old_configurations() -> None:
    """Let Keras 3 read what Keras 2 wrote around these cells.

    Keras 3 refuses the argument `time_major`, which Keras 2 wrote for every RNN, and looks for
    functional models in a module that it no longer has.  Only configurations that hold a cell of
    this module are read otherwise than before.
    """
    build = keras.layers.RNN.from_config.__func__

    @classmethod
    def from_config(cls: Any, config: dict[str, Any], custom_objects: Any = None) -> Any:
        if config.get("time_major") is False and _holds_addons(config.get("cell")):
            config = {n: v for n, v in config.items() if n != "time_major"}
        return build(cls, config, custom_objects)

    keras.layers.RNN.from_config = from_config  # pyright: ignore[reportAttributeAccessIssue]
    keras.saving.get_custom_objects().setdefault("Functional", Functional)


def _holds_addons(cell: Any) -> bool:
    """Whether a cell's configuration, or one of a stack of cells, is of this module."""
    if not isinstance(cell, Mapping):
        return False
    if (cell.get("registered_name") or cell.get("class_name")) in _REGISTERED:
        return True
    held = (cell.get("config") or {}).get("cells")
    return isinstance(held, (list, tuple)) and any(_holds_addons(one) for one in held)


_REGISTERED = ("Addons>LayerNormLSTMCell", "Addons>LayerNormSimpleRNNCell")
_read_old_configurations()
