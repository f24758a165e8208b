"""Both directions over sequences in which episodes begin."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from lnrnn.frontends import beginnings
from lnrnn.keras.layers import LayerNormRNN


@keras.saving.register_keras_serializable(package="lnrnn")
class Bidirectional(keras.layers.Bidirectional):
    """`keras.layers.Bidirectional` of our layers, whose call takes `reset`, too.

    Arguments, attributes and weights are those of Keras's own.

    Returns:
        The call on sequences (B, T, I) returns what Keras's own returns; see `call`.

    Raises:
        ValueError: a call with `reset` of other layers than
            [LayerNormLSTM][lnrnn.keras.LayerNormLSTM] and those beside it.

    Example:
        >>> import numpy as np
        >>> from lnrnn.keras import LayerNormGRU
        >>> layer = Bidirectional(LayerNormGRU(8, return_sequences=True))
        >>> begins = np.zeros((2, 5), bool)
        >>> begins[0, 3] = True
        >>> tuple(layer(np.ones((2, 5, 3), "float32"), reset=begins).shape)
        (2, 5, 16)
    """

    def call(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: Any = None,
        reset: Any = None,
        reset_state: Any = None,
        sequences_mask: Any = None,
    ) -> Any:
        """Run both layers over sequences (B, T, I).

        Args:
            sequences: inputs (B, T, I).
            initial_state: list of the states of the forward layer, then those of the backward.
            mask: (B, T), False at steps to skip.
            training: whether dropout masks are drawn.
            reset: (B, T), True at the first step of an episode: no state crosses from the step
                before, in either direction.
            reset_state: what the states become where an episode begins, as `initial_state`.
            sequences_mask: as of [LayerNormLSTM][lnrnn.keras.LayerNormLSTM].

        Returns:
            The outputs of both, merged; with `return_state` followed by the final states.
        """
        beginnings.check_reset_state(reset_state, reset)
        if reset is None:
            return super().call(sequences, initial_state, mask=mask, training=training)
        layers = self.forward_layer, self.backward_layer
        for layer in layers:
            if not isinstance(layer, LayerNormRNN):
                raise ValueError(
                    "reset is an argument of the layers of lnrnn.keras; got it for "
                    f"{type(layer).__name__}: use LayerNormLSTM, LayerNormGRU or "
                    "LayerNormSimpleRNN."
                )
        found = [
            layer(
                sequences,
                initial_state=first,
                mask=sequences_mask if mask is None else mask,
                training=training,
                reset=reset,
                reset_state=again,
            )
            for layer, first, again in zip(
                layers, _halves(initial_state), _halves(reset_state), strict=True
            )
        ]
        states: tuple[Any, ...] = ()
        if self.return_state:
            states = tuple(state for _, *own in found for state in own)
            found = [y for y, *_ in found]
        y, back = (ops.cast(y, self.compute_dtype) for y in found)
        y = self._merged(y, ops.flip(back, axis=1) if self.return_sequences else back)
        if not self.return_state:
            return y
        return (*y, *states) if self.merge_mode is None else (y, *states)

    def _merged(self, y: Any, back: Any) -> Any:
        match self.merge_mode:
            case "concat":
                return ops.concatenate([y, back], axis=-1)
            case "sum":
                return y + back
            case "ave":
                return (y + back) / 2
            case "mul":
                return y * back
        return y, back


def _halves(states: Any) -> tuple[Any, Any]:
    """The states of the forward layer and of the backward one."""
    if states is None:
        return None, None
    return states[: len(states) // 2], states[len(states) // 2 :]
