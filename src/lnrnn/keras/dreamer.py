"""Dreamer's block GRU as a Keras cell and layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from lnrnn.engines import select
from lnrnn.frontends import arguments, block_gru
from lnrnn.keras.cells import device, tensor_of
from lnrnn.relatives.relative import SmoothActivation
from lnrnn.relatives.weights import check, shapes, start


@keras.saving.register_keras_serializable(package="lnrnn")
class DreamerBlockGRUCell(keras.layers.Layer):
    """One step of [DreamerBlockGRU][lnrnn.keras.DreamerBlockGRU], for `keras.layers.RNN`.

    Args:
        units: H, a multiple of `blocks`.
        projection: P, the size of each projection.
        blocks: K.
        layers: of the block-diagonal layers before the gates.
        actions: how many of the last features are the action.
        activation: `"silu"` or `"gelu"`.
        norm_epsilon: added to the mean of squares.
        update_bias: added to the update gate.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: sizes that do not fit, or an activation of another name.

    Example:
        >>> cell = DreamerBlockGRUCell(32, projection=16)
        >>> tuple(keras.layers.RNN(cell)(np.ones((4, 10, 6), "float32")).shape)
        (4, 32)
    """

    def __init__(
        self,
        units: int,
        *,
        projection: int = 512,
        blocks: int = 8,
        layers: int = 1,
        actions: int = 0,
        activation: SmoothActivation = "silu",
        norm_epsilon: float = 1e-4,
        update_bias: float = -1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sizes = block_gru.sizes(
            inputs=1,  # known where the cell is built
            units=units,
            projection=projection,
            blocks=blocks,
            layers=layers,
            actions=actions,
        )
        self.units = self.state_size = self.output_size = self.sizes.units
        self.relative = block_gru.relative(activation, norm_epsilon, update_bias)

    def build(self, input_shape: Any) -> None:
        """Create the weights, by the names of [lnrnn.relatives.weights][]."""
        self.sizes = self.sizes._replace(inputs=input_shape[-1])
        self.weight_names = tuple(shapes(self.relative, self.sizes))
        for name, shape in shapes(self.relative, self.sizes).items():
            mean, deviation = start(name, shape)
            initializer = (
                keras.initializers.TruncatedNormal(mean, deviation)
                if deviation
                else keras.initializers.Constant(mean)
            )
            weight = self.add_weight(name=name, shape=shape, initializer=initializer)
            setattr(self, name, weight)
        self.built = True

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, list[Any]]:
        """One step: inputs (B, I) and [h (B, H)] to the output and [h]."""
        given = states[0] if isinstance(states, (list, tuple)) else states
        step = select.relative(keras.backend.backend(), "step")
        (h,) = step(self.relative, self.tensors(self.compute_dtype), inputs, (given,))
        return h, [h]

    def tensors(self, dtype: str) -> dict[str, Any]:
        """The weights by name, in a dtype."""
        return {n: tensor_of(getattr(self, n), dtype) for n in self.weight_names}

    def params(self) -> dict[str, np.ndarray]:
        """The weights under their canonical names, see [lnrnn.relatives.weights][]."""
        return {n: np.array(ops.convert_to_numpy(getattr(self, n))) for n in self.weight_names}

    def load_params(self, params: Mapping[str, Any]) -> None:
        """Set the weights of a built cell from canonical ones.

        Raises:
            ValueError: other names or shapes than this cell has; nothing is set then.
        """
        check(self.relative, params, self.sizes)
        for name, value in params.items():
            getattr(self, name).assign(np.asarray(value))

    def get_config(self) -> dict[str, Any]:
        """All constructor arguments, as `from_config` takes them."""
        return {
            **super().get_config(),
            "units": self.units,
            **{n: getattr(self.sizes, n) for n in ("projection", "blocks", "layers", "actions")},
            "activation": self.relative.activation,
            "norm_epsilon": self.relative.epsilon,
            "update_bias": self.relative.update_bias,
        }


@keras.saving.register_keras_serializable(package="lnrnn")
class DreamerBlockGRU(keras.layers.RNN):
    r"""The recurrent core of DreamerV3: a block-diagonal GRU behind normed projections.

    N is the root mean square norm with a gain, s the sigmoid and $\phi$ the activation. h, the
    input and, if there are actions, $a / \max(1, |a|)$ are projected, $e_v = \phi(N(v W_v + b_v))$.
    Each block k of the units sees $u_k = [h_k; e_h; e_x; e_a]$; with block-diagonal D and W, and N
    over all units, layer after layer $u \leftarrow \phi(N(u D + d))$, then $(r, n, z) = u W + w$,

    $$n = \tanh(s(r) \odot n), \quad z = s(z + \beta)$$

    $$h_t = z \odot n + (1 - z) \odot h_{t-1}$$

    Args:
        units: H, a multiple of `blocks`.
        projection: P, the size of each projection.
        blocks: K.
        layers: of the block-diagonal layers before the gates.
        actions: how many of the last features are the action, with a projection of their own; 0
            projects all features together.
        activation: `"silu"` or `"gelu"` (with tanh), which danijar's repository has.
        norm_epsilon: added to the mean of squares.
        update_bias: beta.
        engine: `"auto"` or the name of an engine; a named engine runs or raises.
        dtype: of weights and computation, or a policy.
        **options: of `keras.layers.RNN`: `return_sequences`, `return_state`, `go_backwards`,
            `stateful`, `unroll`, `zero_output_for_mask`, `name`.

    Returns:
        The call on sequences (B, T, I) returns (B, T, H), or (B, H) without
        `return_sequences`; with `return_state` also h (B, H).

    Raises:
        ValueError: sizes that do not fit, or an activation of another name.

    Example:
        >>> layer = DreamerBlockGRU(32, projection=16)
        >>> tuple(layer(np.ones((4, 10, 6), "float32")).shape)
        (4, 32)

    Source: danijar/dreamerv3 @f8817c40; defaults as TorchRL 0.14.1 has them.
    """

    def __init__(
        self,
        units: int,
        *,
        projection: int = 512,
        blocks: int = 8,
        layers: int = 1,
        actions: int = 0,
        activation: SmoothActivation = "silu",
        norm_epsilon: float = 1e-4,
        update_bias: float = -1.0,
        engine: str = "auto",
        dtype: Any = None,
        **options: Any,
    ) -> None:
        cell = DreamerBlockGRUCell(
            units,
            projection=projection,
            blocks=blocks,
            layers=layers,
            actions=actions,
            activation=activation,
            norm_epsilon=norm_epsilon,
            update_bias=update_bias,
            dtype=dtype,
        )
        super().__init__(cell, dtype=dtype, **options)
        self.engine = select.check_name(arguments.word("engine", engine))

    def inner_loop(
        self, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> tuple[Any, Any, list[Any]]:
        """The hook of `keras.layers.RNN`: last output, outputs and final states."""
        mask = keras.tree.flatten(mask)[0] if keras.tree.is_nested(mask) else mask
        states = tuple(keras.tree.flatten(initial_state))
        x: Any = ops.transpose(ops.cast(sequences, self.compute_dtype), (1, 0, 2))
        mask = None if mask is None else ops.transpose(ops.cast(mask, "bool"))
        if self.go_backwards:
            x = ops.flip(x, axis=0)
            mask = None if mask is None else ops.flip(mask, axis=0)
        if mask is not None:  # a NaN at a skipped step would reach the gradients
            x = ops.where(mask[..., None], x, ops.zeros_like(x))
        request = self._request()
        engine = select.choose(self.engine, request)
        outputs, states = engine.load(request)(
            self.cell.relative,
            self.cell.tensors(engine.weights_dtype(request)),
            x,
            states,
            mask=mask,
            masked_output="zero" if self.zero_output_for_mask else "repeat",
            unroll=self.unroll,
            return_sequences=self.return_sequences,
        )
        if not self.return_sequences:
            return outputs, outputs, list(states)
        return outputs[-1], ops.transpose(outputs, (1, 0, 2)), list(states)

    def engine_report(self) -> dict[str, select.Yes | select.No]:
        """What each engine answers to computing this layer, in the order in which `"auto"` asks."""
        return select.report(self._request())

    def params(self) -> dict[str, np.ndarray]:
        """The weights under their canonical names, see [lnrnn.relatives.weights][]."""
        return self.cell.params()

    def load_params(self, params: Mapping[str, Any]) -> None:
        """Set the weights of a built layer from canonical ones; see `params`."""
        self.cell.load_params(params)

    def get_config(self) -> dict[str, Any]:
        """All constructor arguments, as `from_config` takes them."""
        config = super().get_config()
        del config["cell"]
        of_cell = self.cell.get_config()
        for name in ("name", "dtype", "trainable"):
            del of_cell[name]
        return {**config, **of_cell, "engine": self.engine}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> DreamerBlockGRU:
        """The layer that `get_config` described."""
        return cls(**config)

    def _request(self) -> select.Request:
        return select.Request(
            self.cell.relative,
            framework=keras.backend.backend(),
            dtype=self.compute_dtype,
            unroll=self.unroll,
            device=device(),
            named=self.engine != "auto",
        )
