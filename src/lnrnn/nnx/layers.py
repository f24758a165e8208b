"""Layers: whole sequences by the fused engine, with the conventions of `nnx.RNN` around them."""

from __future__ import annotations

from typing import Any, Unpack

import jax
from flax import nnx

# as nnx.RNN turns padded sequences round; nnx exports it under this module only
from flax.nnx.nn.recurrent import flip_sequences

import lnrnn.jax
from lnrnn.engines import select
from lnrnn.frontends import arguments, families
from lnrnn.nnx.recurrent import Options, Recurrent, carry_of


class LayerNormRNNBase(Recurrent):
    """What the three layers share; see [LayerNormLSTM][lnrnn.nnx.LayerNormLSTM]."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        rngs: nnx.Rngs,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        engine: str = "auto",
        unroll: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(in_features, hidden_features, rngs=rngs, **options)
        self.time_major = arguments.flag("time_major", time_major)
        self.return_carry = arguments.flag("return_carry", return_carry)
        self.reverse = arguments.flag("reverse", reverse)
        self.keep_order = arguments.flag("keep_order", keep_order)
        self.engine = select.check_name(arguments.word("engine", engine))
        self.unroll = arguments.flag("unroll", unroll)

    def __call__(
        self,
        inputs: jax.Array,
        *,
        initial_carry: Any = None,
        seq_lengths: jax.Array | None = None,
        mask: jax.Array | None = None,
        reset: jax.Array | None = None,
        reset_carry: Any = None,
        burn_in: int = 0,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: Any = None,
    ) -> Any:
        """Run the layer over a sequence.

        Args:
            inputs: (*batch, T, I), with `time_major` (T, *batch, I).
            initial_carry: as of `initialize_carry`; None is what that gives.
            seq_lengths: (*batch), the number of valid steps of each sequence.
            mask: as inputs without I, boolean; False at steps to skip, in any pattern.  A
                skipped step, as one beyond its length, emits zeros and holds the carry.
            reset: as `mask`; True at the first step of an episode: no state crosses from the
                step before, in either direction.
            reset_carry: what the carry becomes where an episode begins; None is as of
                `initial_carry`.
            burn_in: the number of steps, the first ones in time, that come without gradient and
                keep nothing for a backward pass.
            return_carry: None, as of those below, is the module's own.
            time_major: whether time is the first axis.
            reverse: from the last valid step to the first.
            keep_order: whether outputs of the reverse direction stand in the order of inputs.
            rngs: taken for the sake of `nnx.Bidirectional`; the carry draws nothing.

        Returns:
            Outputs, as inputs with R in place of I, or with `return_carry` the final carry and
            the outputs.
        """
        time_major = self.time_major if time_major is None else time_major
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order
        x = self._promoted(inputs)
        state = None if initial_carry is None else self._state(initial_carry, x.dtype)
        again = None if reset_carry is None else self._state(reset_carry, x.dtype)
        y, final = lnrnn.jax.apply(
            self._weights(),
            x,
            state,
            lengths=seq_lengths,
            mask=mask,
            reset=reset,
            reset_state=again,
            burn_in=burn_in,
            time_major=time_major,
            reverse=reverse,
            engine=self.engine,
            unroll=self.unroll,
            **self._keywords(),
        )
        if reverse and not keep_order:
            y = flip_sequences(y, seq_lengths, x.ndim - 2, time_major)
        return_carry = self.return_carry if return_carry is None else return_carry
        return (carry_of(final, initial_carry), y) if return_carry else y


class LayerNormLSTM(LayerNormRNNBase):
    r"""LSTM with layer normalisation inside the recurrence; in place of `nnx.RNN(nnx.LSTMCell)`.

    By default haste's equations: with gates i, f, g, o side by side,

    $$(i, f, g, o) = \mathrm{LN}(x_t W; \gamma_x) + \mathrm{LN}(h_{t-1} U; \gamma_h) + b$$

    $$c_t = \sigma(f) \odot c_{t-1} + \sigma(i) \odot \tanh(g)$$

    $$h_t = \sigma(o) \odot \tanh(\mathrm{LN}(c_t; \gamma_c, \beta_c))$$

    Args:
        in_features: I, the number of features.
        hidden_features: H, the size of c and (without projection) of h.
        rngs: of the weights, and its stream `dropout` of the masks.
        time_major: whether time is the first axis of inputs and outputs.
        return_carry: whether calls return the final carry, too.
        reverse: from the last step to the first.
        keep_order: whether outputs of the reverse direction stand in the order of inputs.
        engine: `"auto"` or the name of an engine; a named engine runs or raises.
        unroll: whether the loop of the portable engine is unrolled.
        **options: see [Options][lnrnn.nnx.Options].

    Returns:
        The call on inputs (*batch, T, I) returns outputs (*batch, T, R); see `__call__`.

    Raises:
        ValueError: an argument out of range, or one that contradicts the variant.

    Example:
        >>> lstm = LayerNormLSTM(3, 8, rngs=nnx.Rngs(0), return_carry=True)
        >>> (c, h), y = lstm(np.ones((4, 10, 3)))
        >>> y.shape, c.shape
        ((4, 10, 8), (4, 8))

    Source: Ba, Kiros and Hinton 2016, arXiv 1607.06450; lmnt-com/haste @ceba32ec.
    Initial gains and biases depart from haste's; `variant="haste_lnlstm"` keeps them.
    """

    family = families.LSTM


class LayerNormGRU(LayerNormRNNBase):
    r"""GRU with layer normalisation inside the recurrence; in place of `nnx.RNN(nnx.GRUCell)`.

    By default haste's equations: with gates r, z, n side by side,
    $X = \mathrm{LN}(x_t W; \gamma_x, \beta_x)$ and
    $H = \mathrm{LN}(h_{t-1} U; \gamma_h, \beta_h)$,

    $$r = \sigma(X_r + H_r), \quad z = \sigma(X_z + H_z), \quad n = \tanh(X_n + r \odot H_n)$$

    $$h_t = z \odot h_{t-1} + (1 - z) \odot n$$

    The arguments are those of [LayerNormLSTM][lnrnn.nnx.LayerNormLSTM].

    Example:
        >>> LayerNormGRU(3, 8, rngs=nnx.Rngs(0))(np.ones((4, 10, 3))).shape
        (4, 10, 8)

    Source: lmnt-com/haste @ceba32ec.  Initial gains and biases depart from haste's;
    `variant="haste_lngru"` keeps them.
    """

    family = families.GRU


class LayerNormSimpleRNN(LayerNormRNNBase):
    r"""Simple RNN with layer normalisation; in place of `nnx.RNN(nnx.SimpleCell)`.

    By default the norm of the sum:

    $$h_t = \tanh(\mathrm{LN}(x_t W + h_{t-1} U + b; \gamma, \beta))$$

    The arguments are those of [LayerNormLSTM][lnrnn.nnx.LayerNormLSTM].

    Example:
        >>> LayerNormSimpleRNN(3, 8, rngs=nnx.Rngs(0))(np.ones((4, 10, 3))).shape
        (4, 10, 8)

    Source: Ba, Kiros and Hinton 2016, arXiv 1607.06450, equation 4.
    """

    family = families.SIMPLE
