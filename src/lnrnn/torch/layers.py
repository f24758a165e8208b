"""Layers: cells over whole sequences, with the conventions of `nn.LSTM` around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lnrnn.frontends import arguments, beginnings, families
from lnrnn.frontends.warn import warn
from lnrnn.torch import graph, inputs, stock
from lnrnn.torch.inputs import Layout, States
from lnrnn.torch.recurrent import Options, Recurrent

_LSTM: Any = nn.LSTM


class LayerNormRNNBase(Recurrent, stock.RNNBase):
    """What the three layers share; see [LayerNormLSTM][lnrnn.torch.LayerNormLSTM]."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            bias=bias,
            proj_size=proj_size,
            dropout=dropout,
            **options,
        )
        num_layers = arguments.size("num_layers", num_layers, example=1)
        if dropout and num_layers == 1:
            warn(
                "dropout acts between layers, so that it needs num_layers above 1; got "
                f"dropout={dropout} and num_layers=1: use recurrent_dropout or nn.Dropout."
            )
        self.num_layers = num_layers
        self.batch_first = arguments.flag("batch_first", batch_first)
        self.bidirectional = arguments.switch("bidirectional", bidirectional)
        for index in range(num_layers * self._directions):
            inputs = self._directions * self.output_size
            first = index < self._directions
            self._create(self._suffix(index), self.input_size if first else inputs, device, dtype)
        self.reset_parameters()
        self._load_ahead()

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        reset_state: Any = None,
        burn_in: int = 0,
    ) -> tuple[Any, Any]:
        """Run the layers over a sequence.

        Args:
            input: (T, B, I), with `batch_first` (B, T, I), without batch (T, I), or a
                PackedSequence.
            hx: initial h (L D, B, R), for an LSTM (h, c) with c (L D, B, H), where D is the
                number of directions; without batch they have no B.  None is the learned state
                of `learn_initial_state=True`, otherwise zeros.
            lengths: (B,), the number of valid steps of each sequence of padded input.
            mask: as input without I, boolean; False at steps to skip, in any pattern.  A
                skipped step, as one beyond its length, emits zeros and holds the states, so
                that outputs and states are those of the sequence without it, in both
                directions.
            reset: as `mask`; True at the first step of an episode: no state crosses from
                the step before, in either direction.  At a skipped step it has no effect.
            reset_state: what the states become where an episode begins, in the form of `hx`;
                None is as of `hx`.
            burn_in: the number of steps, the first ones in time, whose outputs and states come
                without gradient, and for which nothing is kept for a backward pass.  The reverse
                direction comes to them last, so that its final states have none.

        Returns:
            The outputs (T, B, D R) of the last layer, laid out as the input, and the final
            states, in the form of `hx`.
        """
        tracer = graph.tracer(input, hx)
        if tracer is not None:
            flags = {"lengths": lengths, "mask": mask, "reset": reset}
            flags |= {"reset_state": reset_state, "burn_in": burn_in or None}
            return graph.node(tracer, self, "forward", input, hx, **flags)
        beginnings.check_reset_state(reset_state, reset)
        if isinstance(input, PackedSequence):
            if not (lengths is None and mask is None and reset is None):
                raise ValueError(
                    "A PackedSequence has its lengths; got lengths, mask or reset beside it: "
                    "pass the padded input with them."
                )
            return self._forward_packed(input, hx, burn_in)
        inputs.check_input(
            input, self._weight_ih("_l0"), ("TI", "BTI" if self.batch_first else "TBI")
        )
        layout = Layout(input.dim() == 3, self.batch_first)
        x = inputs.sequence(input, layout)
        dtype, scope = inputs.precision(x)
        burn_in = beginnings.burn_in(burn_in, x.shape[0])
        batch = (x.shape[1],) if layout.batched else ()
        before = self._before(hx, batch, x, dtype)
        again = None
        if reset_state is not None:
            again = self._before(reset_state, batch, x, dtype, what="reset_state")
        valid = inputs.valid_steps(lengths, mask, layout, x)
        reset = inputs.flags("reset", reset, layout, x)
        if valid is not None:  # a NaN at a skipped step would reach the gradients
            x = x.masked_fill(~valid.unsqueeze(-1), 0.0)
        with scope:
            y, states = self._run(inputs.converted(x, dtype), before, valid, reset, again, burn_in)
        if not layout.batched:
            states = tuple(s.squeeze(1) for s in states)
        return layout.restored(y), self._hx(states)

    def step(
        self,
        input: Tensor,
        hx: Any = None,
        *,
        reset: Tensor | None = None,
        reset_state: Any = None,
    ) -> tuple[Tensor, Any]:
        """Advance all layers by one step, for streams and acting.

        Args:
            input: (B, I), or (I,) without batch.
            hx: the states, in the form of `forward`; None as there.
            reset: as input without I, boolean; True where it is the first step of an episode.
            reset_state: what the states become there, in the form of `hx`; None is as of `hx`.

        Returns:
            The output (B, R) of the last layer, and the new states.

        Raises:
            ValueError: the module is bidirectional, so that it needs the whole sequence.

        Example:
            >>> lstm = LayerNormLSTM(3, 5)
            >>> state = None
            >>> for x_t in torch.randn(4, 3):
            ...     y_t, state = lstm.step(x_t, state)
        """
        tracer = graph.tracer(input, hx)
        if tracer is not None:
            flags = {"reset": reset, "reset_state": reset_state}
            return graph.node(tracer, self, "step", input, hx, **flags)
        beginnings.check_reset_state(reset_state, reset)
        if self.bidirectional:
            raise ValueError(
                "The reverse direction begins at the end of a sequence; got step() with "
                "bidirectional=True: use a module of one direction."
            )
        inputs.check_input(input, self._weight_ih("_l0"), ("I", "BI"))
        batched = input.dim() == 2
        dtype, scope = inputs.precision(input)
        batch = input.shape[:-1]
        before = self._before(hx, batch, input, dtype)
        if reset is not None:
            again = self._before(reset_state, batch, input, dtype, what="reset_state")
            before = inputs.begun_anew(reset, input, before, again)
        finals = []
        with scope:
            x = inputs.converted(input if batched else input.unsqueeze(0), dtype)
            for index, suffix in enumerate(self._stems):
                finals.append(self._step(suffix, self._dropped(x, index), before[index]))
                x = finals[-1][0]
        states = _stacked(finals)
        if not batched:
            x, states = x.squeeze(0), tuple(s.squeeze(1) for s in states)
        return x, self._hx(states)

    def params(self, layer: int = 0, reverse: bool = False) -> dict[str, np.ndarray]:
        """The weights of one layer and direction under canonical names, see [lnrnn.params][]."""
        return self._params(self._suffix_of(layer, reverse))

    def load_params(self, params: Mapping[str, Any], layer: int = 0, reverse: bool = False) -> None:
        """Set the weights of one layer and direction from canonical ones.

        Where `bias_ih` and `bias_hh` are summands of one bias, the second becomes zero.

        Args:
            params: name to array, as [lnrnn.params.shapes][] says.
            layer: from 0.
            reverse: the second direction.

        Raises:
            ValueError: no such layer, or other names or shapes; nothing is set then.
        """
        self._load_params(params, self._suffix_of(layer, reverse))

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _suffix(self, index: int) -> str:
        layer, reverse = divmod(index, self._directions)
        return f"_l{layer}{'_reverse' if reverse else ''}"

    def _suffix_of(self, layer: int, reverse: bool) -> str:
        suffix = f"_l{layer}{'_reverse' if reverse else ''}"
        if suffix not in self._stems:
            raise ValueError(
                f"There are the layers 0 to {self.num_layers - 1}, with {self._directions} "
                f"direction(s) each; got layer={layer}, reverse={reverse}: choose among them."
            )
        return suffix

    def _defaults(self) -> dict[str, Any]:
        own = {"num_layers": 1, "batch_first": False, "bidirectional": False}
        return {**own, **super()._defaults()}

    def _dropped(self, x: Tensor, index: int) -> Tensor:
        """The input of a layer and direction: dropout acts on that of all layers but the first."""
        if not self.dropout or index < self._directions:
            return x
        return nn.functional.dropout(x, self.dropout, self.training)

    def _before(
        self,
        hx: Any,
        batch: tuple[int, ...],
        x: Tensor,
        dtype: torch.dtype,
        order: Tensor | None = None,
        what: str = "hx",
    ) -> Sequence[States]:
        """The initial states of each layer and direction, (B, .), in an order of the batch."""
        if hx is None and self.learn_initial_state:
            rows = batch[0] if batch else 1
            return [self._learned(suffix, rows, dtype) for suffix in self._stems]
        if hx is None:
            return [self._states(None, batch or (1,), x, dtype)] * len(self._stems)
        states = self._states(hx, (len(self._stems), *batch), x, dtype, what)
        if not batch:
            states = tuple(s.unsqueeze(1) for s in states)
        return list(zip(*(s.unbind(0) for s in _permuted(states, order)), strict=True))

    def _run(
        self,
        x: Tensor,
        before: Sequence[States],
        mask: Tensor | None,
        reset: Tensor | None,
        again: Sequence[States] | None,
        burn_in: int,
    ) -> tuple[Tensor, States]:
        """All layers and directions: x (T, B, I), flags (T, B), final states (L D, B, .)."""
        finals: list[States] = []
        suffixes, directions = list(self._stems), self._directions
        for layer in range(self.num_layers):
            x = self._dropped(x, layer * directions)
            outputs = []
            for reverse in range(directions):
                index = layer * directions + reverse
                run = self._run_reversed if reverse else self._sequence
                resets = None if again is None else again[index]
                y, final = run(suffixes[index], x, before[index], mask, reset, resets, burn_in)
                outputs.append(y)
                finals.append(final)
            x = torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]
        return x, _stacked(finals)

    def _run_reversed(
        self,
        suffix: str,
        x: Tensor,
        states: States,
        mask: Tensor | None,
        reset: Tensor | None,
        reset_states: States | None,
        burn_in: int,
    ) -> tuple[Tensor, States]:
        if reset is not None:
            reset = inputs.reversed_reset(reset, mask).flip(0)
        mask = None if mask is None else mask.flip(0)
        y, final = self._sequence(
            suffix, x.flip(0), states, mask, reset, reset_states, burn_in, backwards=True
        )
        return y.flip(0), final

    def _forward_packed(
        self, packed: PackedSequence, hx: Any, burn_in: int
    ) -> tuple[PackedSequence, Any]:
        """`forward` on padded input, the sequences in the packed (sorted) order."""
        inputs.check_input(packed.data, self._weight_ih("_l0"), ("BI",))
        plain = PackedSequence(packed.data, packed.batch_sizes)
        x, lengths = pad_packed_sequence(plain)
        dtype, scope = inputs.precision(x)
        burn_in = beginnings.burn_in(burn_in, x.shape[0])
        before = self._before(hx, (x.shape[1],), packed.data, dtype, packed.sorted_indices)
        valid = inputs.valid_steps(lengths, None, Layout(True, False), x)
        with scope:
            y, states = self._run(inputs.converted(x, dtype), before, valid, None, None, burn_in)
        y = pack_padded_sequence(y, lengths).data
        packed = PackedSequence(
            y, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
        )
        return packed, self._hx(_permuted(states, packed.unsorted_indices))


class LayerNormLSTM(LayerNormRNNBase):
    r"""LSTM with layer normalisation inside the recurrence; replaces `torch.nn.LSTM`.

    By default haste's equations, those of Ba, Kiros and Hinton without the redundant
    biases: with gates i, f, g, o side by side,

    $$(i, f, g, o) = \mathrm{LN}(x_t W; \gamma_x) + \mathrm{LN}(h_{t-1} U; \gamma_h) + b$$

    $$c_t = \sigma(f) \odot c_{t-1} + \sigma(i) \odot \tanh(g)$$

    $$h_t = \sigma(o) \odot \tanh(\mathrm{LN}(c_t; \gamma_c, \beta_c))$$

    Parameters have the names and shapes of `nn.LSTM`'s: `weight_ih_l0` is $W^T$,
    `weight_hh_l0` is $U^T$, and b is `bias_ih_l0 + bias_hh_l0`.  Those of the norms come
    in addition, such as `gain_hh_l0` and `shift_cell_l0`.  So a state dict of an `nn.LSTM`
    loads with `strict=False`, and only norms are missing.

    Args:
        input_size: I, the number of features.
        hidden_size: H, the size of c and (without projection) of h.
        num_layers: L; each layer reads the outputs of the one before.
        bias: False removes every bias of the pre-activations; a cell norm keeps its own.
        batch_first: input, outputs, masks are (B, T, ...); the states are not affected.
        dropout: rate of dropout on the outputs of each layer but the last.
        bidirectional: a second direction, of which the outputs are concatenated.
        proj_size: R, the size of a projected h, of any width; 0 for no projection.
        device: of the parameters.
        dtype: of the parameters.
        **options: the mathematics and regularisers, see [Options][lnrnn.torch.Options].

    Returns:
        The call on input (T, B, I) returns the outputs (T, B, D R) and (h, c) of the
        shapes (L D, B, R) and (L D, B, H), D being the number of directions; see
        `forward`.

    Raises:
        ValueError: an argument out of range, or one that contradicts the variant.  Of a wrong
            type it is an [ArgumentTypeError][lnrnn.frontends.errors.ArgumentTypeError], and of
            tensors that do not fit a [TensorError][lnrnn.frontends.errors.TensorError].

    Example:
        >>> lstm = LayerNormLSTM(3, 64, num_layers=2, batch_first=True)
        >>> output, (h, c) = lstm(torch.randn(8, 20, 3))
        >>> output.shape, h.shape
        (torch.Size([8, 20, 64]), torch.Size([2, 8, 64]))

    Source: Ba, Kiros and Hinton 2016, arXiv 1607.06450; lmnt-com/haste @ceba32ec.
    Initial gains and biases depart from haste's; `variant="haste_lnlstm"` keeps them.
    """

    family = families.LSTM
    mode = "LSTM"

    get_expected_cell_size = _LSTM.get_expected_cell_size
    check_forward_args = _LSTM.check_forward_args
    permute_hidden = _LSTM.permute_hidden


class LayerNormGRU(LayerNormRNNBase):
    r"""GRU with layer normalisation inside the recurrence; replaces `torch.nn.GRU`.

    By default haste's equations: with gates r, z, n side by side,
    $X = \mathrm{LN}(x_t W; \gamma_x, \beta_x)$ and
    $H = \mathrm{LN}(h_{t-1} U; \gamma_h, \beta_h)$,

    $$r = \sigma(X_r + H_r), \quad z = \sigma(X_z + H_z), \quad n = \tanh(X_n + r \odot H_n)$$

    $$h_t = z \odot h_{t-1} + (1 - z) \odot n$$

    `bias_ih_l0` is $\beta_x$ and `bias_hh_l0` is $\beta_h$.  The arguments are those of
    [LayerNormLSTM][lnrnn.torch.LayerNormLSTM] without `proj_size` and `zoneout_cell`.

    Returns:
        The call on input (T, B, I) returns the outputs (T, B, D H) and h (L D, B, H).

    Raises:
        ValueError: an argument out of range, or one that contradicts the variant.  Of a wrong
            type it is an [ArgumentTypeError][lnrnn.frontends.errors.ArgumentTypeError], and of
            tensors that do not fit a [TensorError][lnrnn.frontends.errors.TensorError].

    Example:
        >>> output, h = LayerNormGRU(3, 64)(torch.randn(20, 8, 3))
        >>> output.shape, h.shape
        (torch.Size([20, 8, 64]), torch.Size([1, 8, 64]))

    Source: lmnt-com/haste @ceba32ec.  Initial gains and biases depart from haste's;
    `variant="haste_lngru"` keeps them.
    """

    family = families.GRU
    mode = "GRU"


class LayerNormRNN(LayerNormRNNBase):
    r"""Simple RNN with layer normalisation; replaces `torch.nn.RNN`.

    By default the norm of the sum, as in the main text of Ba, Kiros and Hinton:

    $$h_t = \tanh(\mathrm{LN}(x_t W + h_{t-1} U + b; \gamma, \beta))$$

    with b being `bias_ih_l0 + bias_hh_l0`.

    Args:
        input_size: I, the number of features.
        hidden_size: H, the size of h.
        num_layers: L; each layer reads the outputs of the one before.
        nonlinearity: `"tanh"`, `"relu"` or another activation of a
            [Variant][lnrnn.Variant]; None is the variant's own.
        bias: False removes every bias.
        batch_first: as in [LayerNormLSTM][lnrnn.torch.LayerNormLSTM], as all that follow.
        dropout: between layers.
        bidirectional: a second direction.
        device: of the parameters.
        dtype: of the parameters.
        **options: see [Options][lnrnn.torch.Options].

    Returns:
        The call on input (T, B, I) returns the outputs (T, B, D H) and h (L D, B, H).

    Raises:
        ValueError: an argument out of range, or one that contradicts the variant.  Of a wrong
            type it is an [ArgumentTypeError][lnrnn.frontends.errors.ArgumentTypeError], and of
            tensors that do not fit a [TensorError][lnrnn.frontends.errors.TensorError].

    Example:
        >>> output, h = LayerNormRNN(3, 64, nonlinearity="relu")(torch.randn(20, 8, 3))
        >>> output.shape, h.shape
        (torch.Size([20, 8, 64]), torch.Size([1, 8, 64]))

    Source: Ba, Kiros and Hinton 2016, arXiv 1607.06450, equation 4.  Initial gains and
    biases depart from ones and zeros; `variant="book_lnsimplernn"` keeps those.
    """

    family = families.SIMPLE

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str | None = None,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
            nonlinearity=nonlinearity,  # pyright: ignore[reportCallIssue]
            **options,
        )

    @property
    def nonlinearity(self) -> str:
        """The activation, `"tanh"` by default."""
        return self.variant.activation

    @property
    def mode(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """`"RNN_TANH"`, `"RNN_RELU"`, or another after the activation."""
        return f"RNN_{self.nonlinearity.upper()}"


def _stacked(finals: Sequence[States]) -> States:
    return tuple(map(torch.stack, zip(*finals, strict=True)))


def _permuted(states: States, order: Tensor | None) -> States:
    return states if order is None else tuple(s.index_select(1, order) for s in states)
