"""Cells: the weights, options and random masks of one recurrent step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from numbers import Integral
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops, tree

# keras.layers.RNN draws and clears the dropout masks of a cell only through this mixin,
# which Keras does not export
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

from lnrnn.dialects import Dialect
from lnrnn.engines import select
from lnrnn.frontends import arguments, beginnings, families, noise
from lnrnn.frontends.advice import about_inputs, about_units
from lnrnn.frontends.families import VariantArgument
from lnrnn.frontends.initial import FORGET_BIASES, groups
from lnrnn.frontends.keras_weights import KERAS, ORDERS, KerasLayout
from lnrnn.frontends.warn import warn
from lnrnn.keras import advice, cell_variant, files, initial
from lnrnn.keras.cell_variant import CellKind
from lnrnn.keras.signature import in_order_of
from lnrnn.params import Sizes, check, gates_of, learned_states
from lnrnn.variant import Variant

# arguments that are saved as they were given
_PLAIN_ARGUMENTS = (
    "units",
    "use_bias",
    "unit_forget_bias",
    "dropout",
    "recurrent_dropout",
    "reset_after",
    "seed",
    "norm_epsilon",
    "zoneout",
    "zoneout_cell",
    "weight_dropout",
    "recurrent_dropout_mode",
    "recurrent_gradient_clip",
    "projection_units",
    "learn_initial_state",
    "engine",
    "weight_order",
)
# how the weights are grouped under Keras's `<group>_initializer`, `_regularizer`, `_constraint`
_GROUPS = {
    "kernel": ("kernel",),
    "recurrent_kernel": ("recurrent",),
    "recurrent_scale": ("recurrent",),
    "bias": ("bias",),
    "bias_x": ("bias",),
    "bias_h": ("bias",),
    "projection_bias": ("bias",),
}
GROUPS = ("kernel", "recurrent", "bias", "gain", "norm_bias")
_HANDLERS: dict[str, Any] = {
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
}
_FLAGS = ("use_bias", "unit_forget_bias", "reset_after")
_RATES = ("dropout", *noise.RATES)


def groups_of(weight: str, variant: Variant) -> tuple[str, ...]:
    """The groups of arguments that govern a canonical weight, the first that is set wins."""
    if weight.endswith("_norm_gain"):
        return ("gain",)
    if weight in ("x_norm_bias", "h_norm_bias", "sum_norm_bias"):
        # where a variant has no bias of its own, those of its gate norms take its place
        own = variant.bias or variant.bias_x or variant.bias_h
        return ("norm_bias",) if own else ("bias", "norm_bias")
    if weight.endswith("_norm_bias"):
        return ("norm_bias",)
    return _GROUPS.get(weight, ())


@cache
def device() -> str:
    """The kind of device that Keras computes on, `"cpu"` or another."""
    if keras.backend.backend() == "torch":
        import torch

        return "accelerator" if torch.accelerator.is_available() else "cpu"
    return keras.distribution.list_devices()[0].split(":")[0].lower()


def tensor_of(variable: Any, dtype: Any) -> Any:
    """The value of a variable in a dtype, which a traced scan may hold."""
    value: Any = ops.cast(ops.convert_to_tensor(variable), dtype)
    if keras.backend.backend() == "torch":
        import torch

        # torch.export makes fakes of what modules hold, and not of what variables of Keras hold
        if torch.compiler.is_exporting():
            return value.clone()
    return value


class LayerNormCell(DropoutRNNCell, keras.layers.Layer):
    """What the three cells share; see [LayerNormLSTMCell][lnrnn.keras.LayerNormLSTMCell]."""

    kind: ClassVar[CellKind]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" in vars(cls):
            stock = getattr(keras.layers, f"{cls.kind.stock}Cell")
            init = LayerNormCell.__init__
            ordered = in_order_of(stock, init, without=cell_variant.foreign(cls.kind))
            cls.__init__ = ordered(init)

    def __init__(
        self,
        units: int,
        *,
        activation: Any = "auto",
        recurrent_activation: Any = "auto",
        use_bias: bool = True,
        kernel_initializer: Any = "auto",
        recurrent_initializer: Any = "auto",
        bias_initializer: Any = "auto",
        unit_forget_bias: bool | None = None,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        reset_after: bool | None = None,
        seed: int | None = None,
        variant: VariantArgument = None,
        norm_epsilon: float | None = None,
        gain_initializer: Any = "auto",
        norm_bias_initializer: Any = "auto",
        gain_regularizer: Any = None,
        norm_bias_regularizer: Any = None,
        gain_constraint: Any = None,
        norm_bias_constraint: Any = None,
        zoneout: float = 0.0,
        zoneout_cell: float = 0.0,
        weight_dropout: float = 0.0,
        recurrent_dropout_mode: str = "sequence",
        recurrent_gradient_clip: float | None = None,
        projection_units: int | None = None,
        learn_initial_state: bool = False,
        engine: str = "auto",
        **kwargs: Any,
    ) -> None:
        weight_order = kwargs.pop("weight_order", KERAS)
        implementation = kwargs.pop("implementation", 2)
        super().__init__(**kwargs)
        self.weight_order = weight_order
        self.implementation = implementation  # of Keras; both are one here
        self.units = units
        self.use_bias = use_bias
        self.unit_forget_bias = unit_forget_bias
        self.reset_after = reset_after
        self.dropout = dropout or 0.0  # Keras takes None and False
        self.recurrent_dropout = recurrent_dropout or 0.0
        self.recurrent_dropout_mode = recurrent_dropout_mode
        self.zoneout = zoneout
        self.zoneout_cell = zoneout_cell
        self.weight_dropout = weight_dropout
        self.recurrent_gradient_clip = recurrent_gradient_clip
        self.norm_epsilon = norm_epsilon
        self.projection_units = projection_units
        self.learn_initial_state = arguments.flag("learn_initial_state", learn_initial_state)
        self.engine = select.check_name(engine)
        # NumPy's integers are none for Keras
        self.seed = int(seed) if isinstance(seed, Integral) else seed
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.activation = _get(keras.activations, activation)
        self.recurrent_activation = _get(keras.activations, recurrent_activation)
        # arguments that are left to the variant; their attributes say what that comes to
        self._auto: frozenset[str] = frozenset()
        for group, *roles in (
            ("kernel", kernel_initializer, kernel_regularizer, kernel_constraint),
            ("recurrent", recurrent_initializer, recurrent_regularizer, recurrent_constraint),
            ("bias", bias_initializer, bias_regularizer, bias_constraint),
            ("gain", gain_initializer, gain_regularizer, gain_constraint),
            ("norm_bias", norm_bias_initializer, norm_bias_regularizer, norm_bias_constraint),
        ):
            for (role, handler), given in zip(_HANDLERS.items(), roles, strict=True):
                setattr(self, f"{group}_{role}", _get(handler, given))
        self._given_variant = variant
        self._check_options()
        units, width = self.units, self.projection_units or self.units
        self.variant, self._dialect, self.functions = self._resolve()
        self.state_size = [width, units] if self.kind is cell_variant.LSTM else width
        self.output_size = width
        self._resolve_attributes()
        self._weight_mask = None
        self._inside_rnn = False
        self._advised = False
        for sentence in about_units(self.variant, Sizes(1, units, width)):
            warn(sentence)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights: Keras's own, then those of the norms."""
        inputs = input_shape[-1]
        if inputs is None:
            raise ValueError(
                f"{self.kind.name} needs the number of features; got input shape {input_shape}: "
                "give the last axis a size."
            )
        for sentence in about_inputs(self.variant, Sizes(inputs, self.units, self.output_size)):
            warn(sentence)
        self.layout = self._laid_out(inputs)
        self.weight_names = tuple(self.layout.weights)
        self.bias = None
        for name, (shape, names) in self.layout.weights.items():
            weight = self.add_weight(
                name=name,
                shape=shape,
                initializer=self._initializer(names),
                regularizer=self._argument(names[0], "regularizer"),
                constraint=self._argument(names[0], "constraint"),
                autocast=False,  # the engine says in which dtype it takes them
            )
            setattr(self, name, weight)
        self.built = True

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """One step.

        Args:
            inputs: (B, I).
            states: [h], and of an LSTM [h, c]; h (B, R) and c (B, H).  A single h may stand
                without a list.
            training: whether dropout masks are drawn.

        Returns:
            The output h (B, R), and the new states in the form of the given ones.

        Raises:
            ValueError: in `keras.layers.RNN` on JAX, noise that differs from step to step.

        Example:
            >>> cell = LayerNormGRUCell(8)
            >>> y, states = cell(np.ones((2, 3), "float32"), cell.get_initial_state(2))
            >>> tuple(y.shape), len(states)
            ((2, 8), 1)
        """
        nested = isinstance(states, (list, tuple))
        states = list(states) if nested else [states]
        inputs = ops.cast(inputs, self.compute_dtype)
        noise: dict[str, Any] = {}
        if training:
            advice.before_training(self)
            mask = self.get_dropout_mask(inputs)
            # drawn by keras.layers.RNN in its own dtype, which may be another
            inputs = inputs if mask is None else inputs * ops.cast(mask, self.compute_dtype)
            self._refuse_moving_noise()
            noise["recurrent_mask"] = self.sequence_mask(states[0])
        leading: Any = ops.shape(inputs)
        noise |= self.noise(leading[:1], training)
        new = select.step(self.request(), self.engine)(
            self.variant,
            beginnings.without_states(self.tensors(training)),
            inputs,
            states,
            functions=self.functions,
            recurrent_gradient_clip=self.recurrent_gradient_clip,
            gates=self.gates,
            **noise,
        )
        return new[0], list(new) if nested else new[0]

    @property
    def variables(self) -> list[Any]:
        """All variables; what trains a model asks for them first."""
        advice.remember(self)
        return super().variables

    def get_initial_state(self, batch_size: int | None = None) -> list[Any]:
        """The states that a sequence begins with: h (B, R), and c (B, H) of an LSTM.

        Zeros, or with `learn_initial_state=True` the learned ones in each row.
        """
        sizes = tree.flatten(self.state_size)
        zeros = [ops.zeros((batch_size, size), self.compute_dtype) for size in sizes]
        if not self.learn_initial_state:
            return zeros
        self._check_built()
        held = {n: getattr(self, n) for n in self.weight_names}
        return [
            state + ops.cast(ops.convert_to_tensor(learned), self.compute_dtype)
            for state, learned in zip(zeros, learned_states(held), strict=True)
        ]

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...], *_: Any
    ) -> tuple[tuple[int | None, int], list[tuple[int | None, int]]]:
        """Shapes of what `call` returns."""
        states = [(input_shape[0], size) for size in tree.flatten(self.state_size)]
        return states[0], states

    def request(self, unroll: bool = False) -> select.Request:
        """What is asked of an engine."""
        return select.Request(
            self.variant,
            framework=keras.backend.backend(),
            dtype=self.compute_dtype,
            unroll=unroll,
            functions=tuple(self.functions),
            device=device(),
            named=self.engine != "auto",
            batch_first=True,
        )

    @property
    def gates(self) -> str:
        """The order in which the gates stand in the weights."""
        return self.layout.gates

    def tensors(self, training: bool = False, dtype: str | None = None) -> dict[str, Any]:
        """The weights as tensors, in the compute dtype or another; in training with DropConnect.

        Their names are canonical; their gates stand in the order of `gates`.
        """
        dtype = dtype or self.compute_dtype
        found: dict[str, Any] = {
            name: tensor_of(getattr(self, name), dtype) for name in self.weight_names
        }
        if training and self.weight_dropout:
            name = "recurrent_scale" if self.variant.cell == "indrnn" else "recurrent_kernel"
            found[name] = found[name] * ops.cast(self._get_weight_mask(name), dtype)
        return self.layout.split(found)

    def noise(self, leading: tuple[Any, ...], training: bool) -> dict[str, Any]:
        """Zoneout and the dropout masks that differ from step to step.

        Args:
            leading: (B,) for one step, (T, B) for a sequence.
            training: whether masks are drawn; in inference zoneout is its expectation.
        """
        one_mask = self.recurrent_dropout_mode == "sequence"  # drawn by `sequence_mask`
        planned = noise.plan(
            leading,
            self.output_size,
            self.units,
            training,
            zoneout=self.zoneout,
            zoneout_cell=self.zoneout_cell,
            recurrent_dropout=0.0 if one_mask else self.recurrent_dropout,
            recurrent_dropout_mode=self.recurrent_dropout_mode,
        )
        return {n: self._drawn(p) if isinstance(p, noise.Draw) else p for n, p in planned.items()}

    def sequence_mask(self, h: Any) -> Any:
        """The factor on h (B, R) that is fixed over a sequence; None in the other modes."""
        if self.recurrent_dropout_mode != "sequence":
            return None
        mask = super().get_recurrent_dropout_mask(h)
        return None if mask is None else ops.cast(mask, self.compute_dtype)

    def get_recurrent_dropout_mask(self, step_input: Any) -> Any:
        """What `keras.layers.RNN` calls before its loop, in which JAX can draw nothing."""
        self._inside_rnn = True
        if self.weight_dropout:
            self._get_weight_mask(self.weight_names[1])
        return self.sequence_mask(step_input)

    def reset_recurrent_dropout_mask(self) -> None:
        """Forget the masks of the last sequence that concern h."""
        super().reset_recurrent_dropout_mask()
        self._weight_mask = None
        self._inside_rnn = False

    def reset_masks(self) -> None:
        """Forget all masks of the last sequence."""
        self.reset_dropout_mask()
        self.reset_recurrent_dropout_mask()

    def params(self) -> dict[str, np.ndarray]:
        """The weights under their canonical names and in that order, see [lnrnn.params][].

        Raises:
            ValueError: the cell is not built, so it has no weights.
        """
        self._check_built()
        return self.layout.to_canonical(
            {n: np.asarray(ops.convert_to_numpy(getattr(self, n))) for n in self.weight_names}
        )

    def load_params(self, params: Mapping[str, Any]) -> None:
        """Set the weights from canonical ones.

        Raises:
            ValueError: other names or shapes than this cell has; nothing is set then.
        """
        self._check_built()
        beginnings.check_learned(params, self.learn_initial_state)
        check(self.variant, params, Sizes(self.kernel.shape[0], self.units, self.output_size))
        values = {n: np.asarray(ops.convert_to_numpy(v)) for n, v in params.items()}
        for name, value in self.layout.from_canonical(values).items():
            getattr(self, name).assign(value)

    def save_own_variables(self, store: Any) -> None:
        """What Keras calls to write the weights, as they are held."""
        super().save_own_variables(store)
        if self.built:
            files.mark(store, self.weight_order, self._layouts())

    def load_own_variables(self, store: Any) -> None:
        """What Keras calls to read them: of this release, of 0.1.0, or of Keras's own cell."""
        store, stock = files.of_stock(store)
        held = None
        if self.built:
            held = files.read(store, self.weight_order, self._layouts(), stock)
        if held is None:
            super().load_own_variables(store)  # says what is wrong
        else:
            self.load_params(held)

    def get_config(self) -> dict[str, Any]:
        """All constructor arguments, as `from_config` takes them."""
        config = {name: getattr(self, name) for name in _PLAIN_ARGUMENTS}
        for name in ("activation", "recurrent_activation"):
            config[name] = _serialize(keras.activations, getattr(self, name))
        for group in GROUPS:
            for role, handler in _HANDLERS.items():
                name = f"{group}_{role}"
                config[name] = _serialize(handler, getattr(self, name))
        config |= {n: None if n in _FLAGS else "auto" for n in self._auto}
        given = self._given_variant
        config["variant"] = given.to_dict() if isinstance(given, Variant) else given
        foreign = cell_variant.foreign(self.kind)
        return {**super().get_config(), **{k: v for k, v in config.items() if k not in foreign}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LayerNormCell:
        """The cell that `get_config` described, in this release or in 0.1.0."""
        return cls(**files.completed(config))

    def _resolve(self) -> tuple[Variant, Dialect | None, dict[str, Any]]:
        """The variant after Keras's arguments, its dialect if named, unnamed activations."""
        variant, dialect = families.find(self.kind.family, self._given_variant)
        if self.reset_after is not None:
            variant = cell_variant.with_reset(variant, self.reset_after)
        if not self.use_bias:
            variant = families.without_bias(variant)
        if self.norm_epsilon is not None:
            variant = variant.replace(epsilon=self.norm_epsilon)
        if self.projection_units is not None and not variant.projection:
            variant = variant.replace(projection=True)
        if variant.projection and self.projection_units is None:
            raise ValueError(
                "A variant with a projection needs its size; got projection_units=None: "
                "pass projection_units."
            )
        variant, functions = cell_variant.with_activations(
            variant, self.activation, self.recurrent_activation
        )
        noise.check_mode(self.recurrent_dropout_mode, variant)
        return variant, dialect, functions

    def _resolve_attributes(self) -> None:
        """Put in the place of `"auto"` and None what they come to, as Keras's own cell has it."""
        variant, dialect = self.variant, self._dialect
        arguments = ("activation", "recurrent_activation", *_FLAGS[1:])
        arguments += tuple(f"{group}_initializer" for group in GROUPS)
        self._auto = frozenset(
            n for n in arguments if getattr(self, n) is None or _is_auto(getattr(self, n))
        )
        found: dict[str, Any] = {
            name: cell_variant.activation(getattr(variant, name))
            for name in ("activation", "recurrent_activation")
        }
        if self.kind is cell_variant.LSTM:
            starts = dialect is not None and any(dialect.forget_bias_init.values())
            found["unit_forget_bias"] = starts or (dialect is None and variant.forget_bias == 0)
        if self.kind is cell_variant.GRU:
            found["reset_after"] = variant.reset != "before"
        held = self._laid_out(1).weights
        recurrent = list(held)[1]
        for group, name in (("kernel", "kernel"), ("recurrent", recurrent), ("bias", "bias")):
            start = self._start(held[name].names[0]) if name in held else "zeros"
            found[f"{group}_initializer"] = keras.initializers.get(start)
        for name in self._auto & found.keys():
            setattr(self, name, found[name])

    def _laid_out(self, inputs: int, order: str = "") -> KerasLayout:
        """How the weights are held, here or in another order."""
        sizes = Sizes(inputs, self.units, self.output_size)
        return KerasLayout(
            self.variant, sizes, order or self.weight_order, self.learn_initial_state
        )

    def _layouts(self) -> dict[str, KerasLayout]:
        """How a file may hold the weights, by order."""
        return {order: self._laid_out(self.kernel.shape[0], order) for order in ORDERS}

    def _argument(self, name: str, role: str) -> Any:
        """The user's initialiser, regulariser or constraint of a weight, or None."""
        given = (f"{group}_{role}" for group in groups_of(name, self.variant))
        found = (getattr(self, argument) for argument in given if argument not in self._auto)
        return next((f for f in found if f is not None), None)

    def _initializer(self, names: tuple[str, ...]) -> Any:
        """The initialiser of a weight that holds these canonical ones."""
        given = self._argument(names[0], "initializer")
        if given is None:
            starts = [self._start(name, by_gate=True) for name in names]
            given = starts[0] if len(starts) == 1 else initial.rows(starts)
        for row, name in enumerate(names):
            forget = self._forget_bias(name)
            if forget is not None:
                given = initial.with_forget(given, self.layout.gates_of(name), forget, row)
        return given

    def _start(self, name: str, by_gate: bool = False) -> Any:
        """The initialiser of a canonical weight that the user gave none: the dialect's, or ours."""
        variant, dialect = self.variant, self._dialect
        given = initial.start(name, variant, dialect)
        apart = groups(name, variant, dialect) if by_gate else ()
        return initial.in_groups(given, variant.gates, apart) if apart else given

    def _forget_bias(self, name: str) -> float | None:
        """The initial value of the forget columns of a bias, if it has one of its own."""
        variant = self.variant
        if self.kind is not cell_variant.LSTM or "bias" not in name:
            return None
        if "f" not in gates_of(variant, name):
            return None
        if "unit_forget_bias" in self._auto and self._dialect is not None:
            return self._dialect.forget_bias_init.get(name)
        biases = (n for n in FORGET_BIASES if "f" in gates_of(variant, n))
        return 1.0 if self.unit_forget_bias and name == next(biases) else None

    def _get_weight_mask(self, name: str) -> Any:
        """The mask of DropConnect, one for a whole sequence."""
        if self._weight_mask is None:
            keep = 1 - self.weight_dropout
            self._weight_mask = self._drawn(noise.Draw(getattr(self, name).shape, keep, 1 / keep))
        return self._weight_mask

    def _drawn(self, mask: noise.Draw) -> Any:
        drawn = keras.random.uniform(mask.shape, dtype="float32", seed=self.seed_generator)
        kept: Any = ops.cast(drawn < mask.keep, self.compute_dtype)
        return kept * mask.scale

    def _refuse_moving_noise(self) -> None:
        """Inside keras.layers.RNN on JAX nothing random can be drawn step by step."""
        moving = self.zoneout or self.zoneout_cell
        moving = moving or (self.recurrent_dropout and self.recurrent_dropout_mode != "sequence")
        if moving and self._inside_rnn and keras.backend.backend() == "jax":
            raise ValueError(
                "keras.layers.RNN on JAX cannot draw a mask for each step; got a cell with "
                f"zoneout={self.zoneout}, zoneout_cell={self.zoneout_cell}, recurrent_dropout="
                f"{self.recurrent_dropout} ({self.recurrent_dropout_mode}): use the layer "
                f"{self.kind.name}, which draws them before its loop."
            )

    def _check_built(self) -> None:
        if not self.built:
            raise ValueError(
                f"{self.kind.name} has weights once it is built; got one without an input shape: "
                "call it on an input, or build((batch, steps, features))."
            )

    def _check_options(self) -> None:
        """Plain values of the arguments, which a configuration can hold."""
        self.units = arguments.size("units", self.units)
        if self.projection_units is not None:
            self.projection_units = arguments.size("projection_units", self.projection_units)
        for name in _FLAGS:
            if name == "use_bias" or getattr(self, name) is not None:
                setattr(self, name, arguments.switch(name, getattr(self, name)))
        for name in _RATES:
            setattr(self, name, arguments.rate(name, getattr(self, name)))
        if self.norm_epsilon is not None:
            self.norm_epsilon = arguments.number("norm_epsilon", self.norm_epsilon)
        self.recurrent_gradient_clip = arguments.bound(
            "recurrent_gradient_clip", self.recurrent_gradient_clip
        )
        if self.weight_order not in ORDERS:
            raise ValueError(f"weight_order is one of {ORDERS}; got {self.weight_order!r}.")
        for name, owner in cell_variant.foreign(self.kind).items():
            given = getattr(self, name)
            if given is not None and (given != 0 or given is False):
                raise ValueError(
                    f"{name} is an argument of {owner}; got {name}={given} for {self.kind.name}: "
                    "leave it out."
                )


@keras.saving.register_keras_serializable(package="lnrnn")
class LayerNormSimpleRNNCell(LayerNormCell):
    r"""Cell of a fully connected RNN with layer normalisation.

    $$h_t = \phi(\mathrm{LN}(x_t W + h_{t-1} U + b))$$

    in the default variant.  Runs in `keras.layers.RNN`; the arguments are those of
    [LayerNormSimpleRNN][lnrnn.keras.LayerNormSimpleRNN] that concern one step.

    Example:
        >>> layer = keras.layers.RNN(LayerNormSimpleRNNCell(20), return_sequences=True)
    """

    kind = cell_variant.SIMPLE


@keras.saving.register_keras_serializable(package="lnrnn")
class LayerNormLSTMCell(LayerNormCell):
    """Cell of an LSTM with layer normalisation.

    Runs in `keras.layers.RNN`; the equations and arguments are those of
    [LayerNormLSTM][lnrnn.keras.LayerNormLSTM] that concern one step.

    Example:
        >>> layer = keras.layers.RNN(LayerNormLSTMCell(20), return_sequences=True)
    """

    kind = cell_variant.LSTM


@keras.saving.register_keras_serializable(package="lnrnn")
class LayerNormGRUCell(LayerNormCell):
    """Cell of a GRU with layer normalisation.

    Runs in `keras.layers.RNN`; the equations and arguments are those of
    [LayerNormGRU][lnrnn.keras.LayerNormGRU] that concern one step.

    Example:
        >>> layer = keras.layers.RNN(LayerNormGRUCell(20), return_sequences=True)
    """

    kind = cell_variant.GRU


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == "auto"


def _get(handler: Any, value: Any) -> Any:
    return value if _is_auto(value) else handler.get(value)


def _serialize(handler: Any, value: Any) -> Any:
    return value if _is_auto(value) or value is None else handler.serialize(value)
