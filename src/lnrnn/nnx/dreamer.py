"""Dreamer's block GRU as a Flax NNX module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import lnrnn.jax
from lnrnn.engines import select
from lnrnn.frontends import arguments, block_gru
from lnrnn.relatives.relative import SmoothActivation
from lnrnn.relatives.weights import check, sizes_of


class DreamerBlockGRU(nnx.Module):
    """The recurrent core of DreamerV3: a block-diagonal GRU behind normed projections.

    The equations are those of [the PyTorch module][lnrnn.torch.DreamerBlockGRU].

    Args:
        in_features: I, the number of features, with the actions.
        hidden_features: H, a multiple of `blocks`.
        rngs: of the weights.
        projection_features: P, the size of each projection.
        blocks: K.
        layers: of the block-diagonal layers before the gates.
        action_features: how many of the last features are the action, with a projection of
            their own; 0 projects all features together.
        activation: `"silu"` or `"gelu"`, which danijar's repository has.
        norm_epsilon: added to the mean of squares.
        update_bias: added to the update gate.
        engine: `"auto"` or the name of an engine; a named engine runs or raises.
        param_dtype: of the weights.
        time_major: whether time is the first axis.
        return_carry: whether calls return the final h, too.

    Returns:
        The call on inputs (*batch, T, I) returns outputs (*batch, T, H); see `__call__`.

    Raises:
        ValueError: sizes that do not fit, or an activation of another name.

    Example:
        >>> gru = DreamerBlockGRU(6, 32, rngs=nnx.Rngs(0), projection_features=16)
        >>> gru(np.ones((4, 10, 6))).shape
        (4, 10, 32)

    Source: danijar/dreamerv3 @f8817c40.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        rngs: nnx.Rngs,
        projection_features: int = 512,
        blocks: int = 8,
        layers: int = 1,
        action_features: int = 0,
        activation: SmoothActivation = "silu",
        norm_epsilon: float = 1e-4,
        update_bias: float = -1.0,
        engine: str = "auto",
        param_dtype: Any = jnp.float32,
        time_major: bool = False,
        return_carry: bool = False,
    ) -> None:
        self.relative = block_gru.relative(activation, norm_epsilon, update_bias)
        self.engine = select.check_name(arguments.word("engine", engine))
        self.param_dtype = param_dtype
        self.time_major = arguments.flag("time_major", time_major)
        self.return_carry = arguments.flag("return_carry", return_carry)
        drawn = lnrnn.jax.dreamer_block_gru_init(
            rngs.params(),
            in_features,
            hidden_features,
            projection=projection_features,
            blocks=blocks,
            layers=layers,
            actions=action_features,
            dtype=param_dtype,
        )
        self.sizes = sizes_of(self.relative, drawn)
        self._names = tuple(drawn)
        for name, value in drawn.items():
            setattr(self, name, nnx.Param(value))

    def __call__(
        self,
        inputs: Any,
        *,
        initial_carry: Any = None,
        seq_lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
    ) -> Any:
        """Run the layer over a sequence.

        Args:
            inputs: (*batch, T, I), with `time_major` (T, *batch, I).
            initial_carry: h (*batch, H); None is zeros.
            seq_lengths: (*batch), the number of valid steps of each sequence.
            mask: as inputs without I, boolean; False at steps to skip.
            reset: as `mask`; True at the first step of an episode.

        Returns:
            Outputs, as inputs with H in place of I, or with `return_carry` the final h and the
            outputs.
        """
        x = self._promoted(inputs)
        y, h = lnrnn.jax.dreamer_block_gru(
            self._weights(),
            x,
            None if initial_carry is None else jnp.asarray(initial_carry, x.dtype),
            relative=self.relative,
            mask=mask,
            lengths=seq_lengths,
            reset=reset,
            time_major=self.time_major,
            engine=self.engine,
        )
        return (h, y) if self.return_carry else y

    def step(self, carry: Any, inputs: Any, *, reset: Any = None) -> tuple[jax.Array, jax.Array]:
        """Advance by one step, as a cell of NNX: the new h and the output, which is the same.

        Args:
            carry: h (*batch, H); None is zeros.
            inputs: (*batch, I).
            reset: (*batch), boolean; True where it is the first step of an episode.
        """
        x = self._promoted(inputs)
        h = lnrnn.jax.dreamer_block_gru_step(
            self._weights(),
            x,
            None if carry is None else jnp.asarray(carry, x.dtype),
            relative=self.relative,
            reset=reset,
        )
        return h, h

    def params(self) -> dict[str, np.ndarray]:
        """The weights under their canonical names, see [lnrnn.relatives.weights][]."""
        return {name: np.asarray(value) for name, value in self._weights().items()}

    def load_params(self, params: Mapping[str, Any]) -> None:
        """Set the weights from canonical ones.

        Raises:
            ValueError: other names or shapes than this module has; nothing is set then.
        """
        check(self.relative, params, self.sizes)
        for name, value in params.items():
            getattr(self, name)[...] = jnp.asarray(value, self.param_dtype)

    def _weights(self) -> dict[str, jax.Array]:
        return {name: getattr(self, name)[...] for name in self._names}

    def _promoted(self, x: Any) -> jax.Array:
        x = jnp.asarray(x)
        return x.astype(jnp.result_type(x, self.param_dtype))
