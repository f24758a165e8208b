"""Cells: one step, for `nnx.RNN`, `nnx.Bidirectional` and loops of one's own."""

from __future__ import annotations

from typing import Any, Unpack

import jax
from flax import nnx

# the base that nnx.RNN's annotations name; nnx exports it under this module only
from flax.nnx.nn.recurrent import RNNCellBase

import lnrnn.jax
from lnrnn.frontends import families
from lnrnn.nnx.recurrent import Options, Recurrent, carry_of


class LayerNormCell(Recurrent, RNNCellBase):
    """What the three cells share; see [LayerNormLSTMCell][lnrnn.nnx.LayerNormLSTMCell]."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(in_features, hidden_features, rngs=rngs, **options)

    def __call__(self, carry: Any, inputs: jax.Array) -> tuple[Any, jax.Array]:
        """One step.

        Args:
            carry: as of `initialize_carry`.
            inputs: (*batch, I).

        Returns:
            The new carry, in the dtype of the old one, and the output (*batch, R).
        """
        x = self._promoted(inputs)
        state = self._state(carry, x.dtype)
        y, new = lnrnn.jax.step(self._weights(), x, state, **self._keywords())
        return carry_of(new, carry), y


class LayerNormLSTMCell(LayerNormCell):
    """One step of a [LayerNormLSTM][lnrnn.nnx.LayerNormLSTM]; replaces `nnx.LSTMCell`.

    Args:
        in_features: I.
        hidden_features: H, the size of c and (without projection) of h.
        rngs: of the weights, and its stream `dropout` of the masks.
        **options: see [Options][lnrnn.nnx.Options].

    Returns:
        The call on the carry (c, h) and inputs (*batch, I) returns the new carry and h.

    Raises:
        ValueError: an argument out of range, or one that contradicts the variant.

    Example:
        >>> rnn = nnx.RNN(LayerNormLSTMCell(3, 8, rngs=nnx.Rngs(0)))
        >>> rnn(np.ones((4, 10, 3))).shape
        (4, 10, 8)
    """

    family = families.LSTM


class LayerNormGRUCell(LayerNormCell):
    """One step of a [LayerNormGRU][lnrnn.nnx.LayerNormGRU]; replaces `nnx.GRUCell`.

    The arguments are those of [LayerNormLSTMCell][lnrnn.nnx.LayerNormLSTMCell].

    Example:
        >>> cell = LayerNormGRUCell(3, 8, rngs=nnx.Rngs(0))
        >>> h, y = cell(cell.initialize_carry((4, 3)), np.ones((4, 3)))
    """

    family = families.GRU


class LayerNormSimpleCell(LayerNormCell):
    """One step of a [LayerNormSimpleRNN][lnrnn.nnx.LayerNormSimpleRNN]; replaces `nnx.SimpleCell`.

    The arguments are those of [LayerNormLSTMCell][lnrnn.nnx.LayerNormLSTMCell].

    Example:
        >>> cell = LayerNormSimpleCell(3, 8, rngs=nnx.Rngs(0))
        >>> h, y = cell(cell.initialize_carry((4, 3)), np.ones((4, 3)))
    """

    family = families.SIMPLE
