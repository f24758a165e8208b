"""Layers: a cell over a whole sequence, with Keras's conventions around it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
from keras import ops, tree

from lnrnn.engines import select
from lnrnn.frontends import arguments, beginnings
from lnrnn.keras import advice, cell_variant, files
from lnrnn.keras.cells import (
    LayerNormCell,
    LayerNormGRUCell,
    LayerNormLSTMCell,
    LayerNormSimpleRNNCell,
)
from lnrnn.keras.signature import in_order_of
from lnrnn.params import learned_states, sizes_of


class _Steps(NamedTuple):
    """What a call says of its steps: `keras.layers.RNN` hands it on in the place of a mask."""

    mask: Any
    reset: Any
    reset_states: tuple[Any, ...] | None


class LayerNormRNN(keras.layers.RNN):
    """What the three layers share: the sequence, masks, states and random masks."""

    cell_class: ClassVar[type[LayerNormCell]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "cell_class" in vars(cls):
            kind = cls.cell_class.kind
            inits = (LayerNormRNN.__init__, LayerNormCell.__init__)
            stock = getattr(keras.layers, kind.stock)
            ordered = in_order_of(stock, *inits, without=cell_variant.foreign(kind))
            cls.__init__ = ordered(LayerNormRNN.__init__)
            for name, value in vars(stock).items():
                # what Keras's own layer shows of its cell
                if isinstance(value, property):
                    setattr(cls, name, _of_cell(name))

    def __init__(
        self,
        units: int,
        *,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        burn_in: int = 0,
        activity_regularizer: Any = None,
        use_cudnn: bool | str = "auto",
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        **cell_options: Any,
    ) -> None:
        if use_cudnn not in ("auto", False):
            raise ValueError(
                f"cuDNN has no layer-normalised cell; got use_cudnn={use_cudnn!r}: use 'auto'."
            )
        of_layer = {k: cell_options.pop(k) for k in _LAYER_OPTIONS & set(cell_options)}
        cell = self.cell_class(
            units,
            dtype=dtype,
            trainable=trainable,
            name=self.cell_class.kind.scope,
            **cell_options,
        )
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            zero_output_for_mask=zero_output_for_mask,
            activity_regularizer=activity_regularizer,
            name=name,
            dtype=dtype,
            trainable=trainable,
            **of_layer,
        )
        for flag in _FLAGS:
            setattr(self, flag, arguments.switch(flag, getattr(self, flag)))
        self.burn_in = beginnings.burn_in(burn_in, None)
        self._check_beginnings()
        self.use_cudnn = use_cudnn
        self.input_spec = keras.layers.InputSpec(ndim=3)
        if keras.backend.backend() == "tensorflow":
            # XLA compiles the portable definition only: without it the core computes
            request = cell.request(unroll=unroll)
            self.supports_jit = select.choose(cell.engine, request).name != "native"

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        """Create the weights, and the state variables of a stateful layer."""
        super().build(sequences_shape, initial_state_shape)
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: sequences_shape[-1]})

    def call(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool = False,
        reset: Any = None,
        reset_state: Any = None,
        sequences_mask: Any = None,
    ) -> Any:
        """Run the layer over sequences (B, T, I).

        Args:
            sequences: inputs (B, T, I).
            initial_state: list of the states, h (B, R) and for an LSTM c (B, H); None is the
                learned ones of `learn_initial_state=True`, otherwise zeros.
            mask: (B, T), False at steps to skip: a skipped step holds the states, and
                repeats the previous output (zeros before the first valid step), or emits
                zeros with `zero_output_for_mask`.
            training: whether dropout masks are drawn.
            reset: (B, T), True at the first step of an episode: no state crosses from the step
                before, with `go_backwards` neither.  At a skipped step it has no effect.
            reset_state: what the states become where an episode begins, in the form of
                `initial_state`; None is the learned ones, otherwise zeros.
            sequences_mask: the mask that `sequences` carry, which Keras finds where `reset` is
                given, too; it stands where `mask` is None.

        Returns:
            Outputs (B, T, R) with `return_sequences`, else the last (B, R); with
            `return_state` followed by the final states.
        """
        if sequences.shape[1] == 0:
            raise ValueError(
                f"A sequence has one step or more; got sequences of shape {sequences.shape}: "
                "leave empty sequences out."
            )
        beginnings.check_reset_state(reset_state, reset)
        if initial_state is not None:
            self._check_states("initial_state", sequences, initial_state)
        if reset is not None:
            mask = sequences_mask if mask is None else mask
            again = self._reset_states(sequences, reset_state)
            mask = _Steps(mask, ops.convert_to_tensor(reset), again)
        return super().call(sequences, initial_state, mask=mask, training=training)

    def inner_loop(
        self, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> tuple[Any, Any, list[Any]]:
        """The hook of `keras.layers.RNN`: last output, outputs and final states."""
        cell = self.cell
        steps = mask if isinstance(mask, _Steps) else _Steps(mask, None, None)
        mask = tree.flatten(steps.mask)[0] if tree.is_nested(steps.mask) else steps.mask
        mask = _flags("mask", mask, sequences)
        reset = _flags("reset", steps.reset, sequences)
        states = _flat(initial_state)
        if self.stateful:
            # the state variables are assigned later, while autograd may still need these values
            states = [ops.copy(s) for s in states]
        x: Any = ops.transpose(ops.cast(sequences, self.compute_dtype), (1, 0, 2))
        if self.go_backwards:
            x = ops.flip(x, axis=0)
            reset = None if reset is None else ops.flip(_reversed_reset(reset, mask), axis=0)
            mask = None if mask is None else ops.flip(mask, axis=0)
        if mask is not None:  # a NaN at a skipped step would reach the gradients
            x = ops.where(mask[..., None], x, ops.zeros_like(x))
        leading: Any = ops.shape(x)
        noise = cell.noise(tuple(leading[:2]), training)
        if training:
            advice.before_training(cell)
            cell.reset_masks()
            dropped = cell.get_dropout_mask(x[0])
            x = x if dropped is None else x * dropped
            noise.setdefault("recurrent_mask", cell.sequence_mask(states[0]))
        request = cell.request(unroll=self.unroll)
        engine = select.choose(cell.engine, request)
        burn_in = beginnings.burn_in(self.burn_in, sequences.shape[1])
        # of two parts the second does not know what the first one repeats
        repeats = bool(burn_in) and mask is not None and not self.zero_output_for_mask
        masked_output = "zero" if self.zero_output_for_mask else "hold" if repeats else "repeat"
        outputs, states = beginnings.run(
            partial(engine.load(request), cell.variant),
            cell.tensors(training, engine.weights_dtype(request)),
            x,
            tuple(states),
            dict(
                mask=mask,
                reset=reset,
                reset_states=steps.reset_states,
                masked_output=masked_output,
                functions=cell.functions,
                gates=cell.gates,
                recurrent_gradient_clip=cell.recurrent_gradient_clip,
                unroll=self.unroll,
                return_sequences=self.return_sequences,
                **noise,
            ),
            burn_in=burn_in,
            stop=ops.stop_gradient,
            join=ops.concatenate,
            backwards=self.go_backwards,
        )
        if repeats:
            valid: Any = ops.cumsum(ops.cast(mask, "int32"), axis=0)
            valid = valid if self.return_sequences else valid[-1]
            shown: Any = ops.where(valid[..., None] > 0, outputs, ops.zeros_like(outputs))
            outputs = shown
        if not self.return_sequences:
            return outputs, outputs, list(states)
        return outputs[-1], ops.transpose(outputs, (1, 0, 2)), list(states)

    @property
    def variables(self) -> list[Any]:
        """All variables; on JAX also the states of a stateful layer, which are no `weights`.

        Keras lists no states of its layers, and so loses them on JAX, where a compiled step
        returns the listed variables only.
        """
        carried = keras.backend.backend() == "jax" and self.stateful and self.states
        return [*super().variables, *(tree.flatten(self.states) if carried else [])]

    def engine_report(self) -> dict[str, select.Yes | select.No]:
        """What each engine answers to computing this layer, in the order in which `"auto"` asks."""
        return select.report(self.cell.request(unroll=self.unroll))

    def params(self) -> dict[str, np.ndarray]:
        """The weights under their canonical names, see [lnrnn.params][]."""
        return self.cell.params()

    def load_params(self, params: Mapping[str, Any]) -> None:
        """Set the weights from canonical ones; see `params`."""
        self.cell.load_params(params)

    @classmethod
    def from_params(cls, source: Any, **options: Any) -> LayerNormRNN:
        """A built layer with trained weights.

        Args:
            source: what [lnrnn.load][lnrnn.convert.load] gives, or one of its layers: anything
                with `variant`, `params`, `zoneout` and `zoneout_cell`.
            options: other arguments of the layer, such as `return_sequences`; `dtype` is that
                of the weights if not given.

        Returns:
            The layer; its variant, units and zoneout are those of the source, and
            `go_backwards` is True for a file with the path `layers.0.reverse`.

        Raises:
            ValueError: a variant of another class of layers, or a source of another kind or
                with several layers.

        Example:
            >>> import lnrnn
            >>> trained = LayerNormLSTM(8)
            >>> trained.build((None, None, 3))
            >>> lnrnn.save("lstm.safetensors", trained)
            >>> layer = LayerNormLSTM.from_params(lnrnn.load("lstm.safetensors"))
            >>> layer.cell.units
            8
        """
        whole, source = source, getattr(source, "single", source)
        if not isinstance(getattr(source, "params", None), Mapping) or not hasattr(
            source, "variant"
        ):
            raise ValueError(
                "from_params takes what lnrnn.load gives, or one of its layers; got "
                f"{type(source).__name__}: use load_params for a dict of weights."
            )
        if whole is not source and next(iter(whole)).endswith(".reverse"):
            options.setdefault("go_backwards", True)
        sizes = sizes_of(source.variant, source.params)
        fixed = {"variant": source.variant, "zoneout": source.zoneout}
        if "zoneout_cell" not in cell_variant.foreign(cls.cell_class.kind):
            fixed["zoneout_cell"] = source.zoneout_cell
        fixed["learn_initial_state"] = bool(learned_states(source.params))
        if source.variant.projection:
            fixed["projection_units"] = sizes.hidden
        options.setdefault("dtype", source.params["kernel"].dtype.name)
        layer = cls(sizes.units, **fixed, **options)
        layer.build((None, None, sizes.inputs))
        layer.load_params(source.params)
        return layer

    def get_config(self) -> dict[str, Any]:
        """All constructor arguments, as `from_config` takes them."""
        config = super().get_config()
        del config["cell"]
        of_cell = self.cell.get_config()
        for name in ("name", "dtype", "trainable"):
            del of_cell[name]
        regularizer = keras.regularizers.serialize(self.activity_regularizer)
        own = {"burn_in": self.burn_in, "activity_regularizer": regularizer}
        return {**config, **of_cell, **own}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> LayerNormRNN:
        """The layer that `get_config` described, in this release or in 0.1.0."""
        return cls(**files.completed(config))

    def _check_beginnings(self) -> None:
        if self.stateful and self.cell.learn_initial_state:
            raise ValueError(
                "A stateful layer begins with the states of the batch before; got stateful=True "
                "with learn_initial_state=True: use one of them."
            )
        if self.burn_in and self.cell.learn_initial_state:
            raise ValueError(
                "A state before steps without gradient does not learn; got "
                f"burn_in={self.burn_in} with learn_initial_state=True: use one of them."
            )
        if self.burn_in and self.go_backwards and not self.return_sequences:
            raise ValueError(
                "The last output of a layer with go_backwards=True is that of the first step, "
                f"which has no gradient; got burn_in={self.burn_in} with return_sequences=False: "
                "use return_sequences=True, or no burn_in."
            )

    def _reset_states(self, sequences: Any, reset_state: Any) -> tuple[Any, ...] | None:
        """What the states become where an episode begins; None is zeros."""
        dtype = self.cell.compute_dtype
        if reset_state is not None:
            self._check_states("reset_state", sequences, reset_state)
            return tuple(ops.convert_to_tensor(s, dtype) for s in _flat(reset_state))
        if not self.cell.learn_initial_state:
            return None
        return tuple(self.get_initial_state(batch_size=ops.shape(sequences)[0]))

    def _check_states(self, what: str, sequences: Any, states: Any) -> None:
        batch = sequences.shape[0]
        expected = [(batch, size) for size in self.state_size]
        given = [tuple(s.shape) for s in _flat(states)]
        fits = len(given) == len(expected) and all(
            len(shape) == 2
            and all(a == b or None in (a, b) for a, b in zip(shape, want, strict=True))
            for shape, want in zip(given, expected, strict=True)
        )
        if not fits:
            names = ", ".join(self.cell.variant.states)
            raise ValueError(
                f"{what} is [{names}] of the shapes {expected}; got {given}: pass those "
                "states, or None for zeros."
            )

    def _create_state_variables(self, batch_size: int) -> None:
        super()._create_state_variables(batch_size)
        for state in tree.flatten(self.states):
            # an autocast variable of the torch backend assigns to a copy of itself
            state._autocast = False

    def _maybe_config_dropout_masks(self, cell: Any, input_sequence: Any, input_state: Any) -> None:
        """Keras draws the masks of its cells here, in inference too; `inner_loop` draws ours."""


def _of_cell(name: str) -> property:
    """An attribute of a layer that is its cell's."""
    return property(lambda layer: getattr(layer.cell, name))


def _flat(states: Any) -> list[Any]:
    """`tree.flatten` of lists; Keras's own holds what it has flattened in a cycle on torch."""
    if not isinstance(states, (list, tuple)):
        return [states]
    return [tensor for part in states for tensor in _flat(part)]


def _flags(name: str, given: Any, sequences: Any) -> Any:
    """A mask or resets of a caller, (B, T), as booleans (T, B)."""
    if given is None:
        return None
    expected, found = tuple(sequences.shape[:2]), tuple(given.shape)
    pairs = zip(found, expected, strict=False)
    if len(found) != 2 or any(a != b and None not in (a, b) for a, b in pairs):
        raise ValueError(
            f"{name} has one value for each step, (B, T) = {expected}; got shape {found}: "
            "reduce it over the features."
        )
    return ops.transpose(ops.cast(given, "bool"))


def _reversed_reset(reset: Any, mask: Any) -> Any:
    """Where the reverse direction starts anew: at the last valid step before each reset.

    Args:
        reset: (T, B), True where an episode begins; of no effect at a masked step.
        mask: (T, B), True at valid steps, or None.

    Returns:
        (T, B), in the order of time; of no meaning at masked steps.
    """
    if mask is None:
        return ops.concatenate([reset[1:], ops.zeros_like(reset[:1])])
    shape: Any = ops.shape(reset)
    steps, batch = shape
    # whether the n-th valid step of a row begins an episode, and then that of the next one
    seen = ops.cumsum(ops.cast(mask, "int32"), axis=0)
    places = seen * batch + ops.arange(batch, dtype="int32")
    begins = ops.segment_sum(
        ops.reshape(ops.cast(ops.logical_and(reset, mask), "int32"), (-1,)),
        ops.reshape(places, (-1,)),
        num_segments=(steps + 2) * batch,
    )
    return ops.take(begins, places + batch) > 0


_FLAGS = (
    "return_sequences",
    "return_state",
    "go_backwards",
    "stateful",
    "unroll",
    "zero_output_for_mask",
)
_LAYER_OPTIONS = {"batch_input_shape", "batch_shape", "input_shape", "autocast"}


@keras.saving.register_keras_serializable(package="lnrnn")
class LayerNormLSTM(LayerNormRNN):
    r"""LSTM with layer normalisation inside the recurrence; replaces `keras.layers.LSTM`.

    By default haste's equations, those of Ba, Kiros and Hinton without the redundant
    biases: with gates i, f, g, o side by side,

    $$(i, f, g, o) = \mathrm{LN}(x_t W; \gamma_x) + \mathrm{LN}(h_{t-1} U; \gamma_h) + b$$

    $$c_t = \sigma(f) \odot c_{t-1} + \sigma(i) \odot \tanh(g)$$

    $$h_t = \sigma(o) \odot \tanh(\mathrm{LN}(c_t; \gamma_c, \beta_c))$$

    Args:
        units: H, the size of c and (without projection) of h.
        activation: of candidate and output; `"auto"` is the variant's own (tanh), None
            is linear.
        recurrent_activation: of the gates; `"auto"` is the variant's own (sigmoid).
        use_bias: False removes every bias of the pre-activations; a cell norm keeps its own.
        kernel_initializer: of `kernel` (I, 4 H).  Every initialiser's `"auto"` is that of
            a dialect chosen by name, otherwise Keras's own with two exceptions that let
            gradients through leading zero inputs: gains of recurrent norms start at 0.1
            (of sum norms at 0.25) and biases at normal noise of deviation 0.1.
        recurrent_initializer: of `recurrent_kernel` (R, 4 H).
        bias_initializer: of `bias` (4 H,), or (2, 4 H) in a variant with one on each side;
            where a variant has none of its own, the biases of its gate norms stand there.
        unit_forget_bias: start the forget columns of the bias at one; None does so unless
            the variant adds a constant or its dialect has other initial values.
        kernel_regularizer: of `kernel`; likewise `recurrent_`, `bias_`, `gain_` and
            `norm_bias_regularizer`.
        kernel_constraint: of `kernel`; likewise `recurrent_`, `bias_`, `gain_` and
            `norm_bias_constraint`.
        activity_regularizer: of the output.
        dropout: probability of dropping each input feature, one mask for all steps of a
            sequence, inverted scaling (Gal and Ghahramani 2016).  All rates are in [0, 1)
            and act in training only, if not said otherwise.
        recurrent_dropout: rate of the dropout that `recurrent_dropout_mode` describes.
        recurrent_dropout_mode: `"sequence"`: one mask on h for the whole sequence where it
            enters the recurrent product (Gal and Ghahramani 2016); `"step"`: a fresh mask
            on h at each step; `"candidate"`: a fresh mask at each step on the activated
            candidate only, so that the cell keeps its memory (Semeniuta et al. 2016).
            Inverted scaling in all three.
        weight_dropout: DropConnect, inverted dropout of the recurrent matrix, one mask
            for a call (Wan et al. 2013; Merity et al. 2018).
        zoneout: probability that a unit of h keeps its previous value at a step; in
            inference h is the expectation $p h_{t-1} + (1 - p) h_t$ (Krueger et al. 2017).
            The zoned-out h is what is emitted.
        zoneout_cell: the same of c.
        seed: of all random masks.
        return_sequences: return all outputs, not only the last.
        return_state: return the final states as well.
        go_backwards: process the sequence in reverse and return it reversed.
        stateful: carry the final states over to the next batch.
        unroll: a Python loop over time in place of the backend's.
        zero_output_for_mask: emit zeros at masked steps, not the previous output.
        burn_in: the number of steps, the first ones in time, whose outputs and states come
            without gradient, and for which nothing is kept for a backward pass.
        use_cudnn: `"auto"` or False, as no cuDNN kernel normalises.
        variant: the mathematics: a dialect's name (see [lnrnn.dialects][]), `"none"` for
            Keras's own cell, a [Variant][lnrnn.Variant], or None for the default.
        norm_epsilon: in place of the variant's epsilon.
        gain_initializer: of the gains of all norms.
        norm_bias_initializer: of the biases of all norms.
        recurrent_gradient_clip: bound on each element of the derivatives of the loss that
            return at each step (after Graves 2013): with respect to $h_{t-1} U$, to $w c$ of
            peepholes, and to what the norms of cell and output are taken of; or None.
        projection_units: R, the size of a projected h, for variants with a projection.
        learn_initial_state: whether the h (and c) that a sequence begins with, and that a
            reset goes to, are weights, `initial_h` (and `initial_c`), used where no state is
            given.  They start small and random.
        engine: `"auto"` or the name of an engine; a named engine runs or raises.
        name: of the layer.
        dtype: dtype or dtype policy.
        trainable: whether the weights are trained.

    Returns:
        The call on sequences (B, T, I) returns (B, T, R), or (B, R) without
        `return_sequences`; with `return_state` also h (B, R) and c (B, H).

    Raises:
        ValueError: an argument out of range, or one that contradicts the variant.

    Example:
        >>> layer = LayerNormLSTM(64, return_sequences=True)
        >>> tuple(layer(np.zeros((8, 20, 3), "float32")).shape)
        (8, 20, 64)

    Source: Ba, Kiros and Hinton 2016, arXiv 1607.06450; lmnt-com/haste @ceba32ec.
    Initial gains and biases depart from haste's; `variant="haste_lnlstm"` keeps them.
    """

    cell_class = LayerNormLSTMCell


@keras.saving.register_keras_serializable(package="lnrnn")
class LayerNormGRU(LayerNormRNN):
    r"""GRU with layer normalisation inside the recurrence; replaces `keras.layers.GRU`.

    By default haste's equations: with gates r, z, n side by side,
    $X = \mathrm{LN}(x_t W; \gamma_x, \beta_x)$ and
    $H = \mathrm{LN}(h_{t-1} U; \gamma_h, \beta_h)$,

    $$r = \sigma(X_r + H_r), \quad z = \sigma(X_z + H_z), \quad n = \tanh(X_n + r \odot H_n)$$

    $$h_t = z \odot h_{t-1} + (1 - z) \odot n$$

    The weights are as in Keras, gates in the order z, r, h: `kernel` (I, 3 H),
    `recurrent_kernel` (H, 3 H) and `bias` (2, 3 H), whose rows are $\beta_x$ and $\beta_h$.

    Args:
        units: H, the size of h.
        reset_after: False applies r before the recurrent product of n, whose norm then has
            statistics of its own; None (as True, for the default) keeps the variant's form.

    The other arguments are those of [LayerNormLSTM][lnrnn.keras.LayerNormLSTM], without
    `unit_forget_bias`, `zoneout_cell` and `projection_units`.

    Returns:
        The call on sequences (B, T, I) returns (B, T, H), or (B, H) without
        `return_sequences`; with `return_state` also h (B, H).

    Raises:
        ValueError: an argument out of range, or one that contradicts the variant.

    Example:
        >>> layer = LayerNormGRU(64)
        >>> tuple(layer(np.zeros((8, 20, 3), "float32")).shape)
        (8, 64)

    Source: lmnt-com/haste @ceba32ec.  Initial gains and biases depart from haste's;
    `variant="haste_lngru"` keeps them.
    """

    cell_class = LayerNormGRUCell


@keras.saving.register_keras_serializable(package="lnrnn")
class LayerNormSimpleRNN(LayerNormRNN):
    r"""Fully connected RNN with layer normalisation; replaces `keras.layers.SimpleRNN`.

    By default the norm of the sum, as in the main text of Ba, Kiros and Hinton:

    $$h_t = \tanh(\mathrm{LN}(x_t W + h_{t-1} U + b; \gamma, \beta))$$

    Args:
        units: H, the size of h.

    The other arguments are those of [LayerNormLSTM][lnrnn.keras.LayerNormLSTM], without
    `unit_forget_bias`, `zoneout_cell` and `projection_units`; there is no
    `recurrent_dropout_mode="candidate"`.

    Returns:
        The call on sequences (B, T, I) returns (B, T, H), or (B, H) without
        `return_sequences`; with `return_state` also h (B, H).

    Raises:
        ValueError: an argument out of range, or one that contradicts the variant.

    Example:
        >>> layer = LayerNormSimpleRNN(64)
        >>> tuple(layer(np.zeros((8, 20, 3), "float32")).shape)
        (8, 64)

    Source: Ba, Kiros and Hinton 2016, arXiv 1607.06450, equation 4.  Initial gains and
    biases depart from ones and zeros; `variant="book_lnsimplernn"` keeps those.
    """

    cell_class = LayerNormSimpleRNNCell
