"""Cells: one step, for loops of one's own; they replace those of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from lnrnn.frontends import families
from lnrnn.torch import graph, inputs, stock
from lnrnn.torch.recurrent import Options, Recurrent


class LayerNormCell(Recurrent, stock.RNNCellBase):
    """What the three cells share; see [LayerNormLSTMCell][lnrnn.torch.LayerNormLSTMCell]."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(input_size, hidden_size, bias=bias, **options)
        self._create("", self.input_size, device, dtype)
        for name in ("bias_ih", "bias_hh"):
            if name not in self._parameters:
                self.register_parameter(name, None)
        self.reset_parameters()
        self._load_ahead()

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """One step.

        Args:
            input: (B, I), or (I,) without batch.
            hx: h (B, H), for an LSTM (h, c); None is the learned state of
                `learn_initial_state=True`, otherwise zeros.

        Returns:
            The new states, in the form of `hx`.
        """
        tracer = graph.tracer(input, hx)
        if tracer is not None:
            return graph.node(tracer, self, "forward", input, hx)
        inputs.check_input(input, self._weight_ih(""), ("I", "BI"))
        dtype, scope = inputs.precision(input)
        if hx is None and self.learn_initial_state:
            states = tuple(
                s.reshape(*input.shape[:-1], -1)
                for s in self._learned("", input.shape[:-1].numel(), dtype)
            )
        else:
            states = self._states(hx, input.shape[:-1], input, dtype)
        with scope:
            x = inputs.converted(input, dtype)
            if x.dim() == 2:
                new = self._step("", x, states)
            else:
                new = self._step("", x.unsqueeze(0), tuple(s.unsqueeze(0) for s in states))
                new = tuple(s.squeeze(0) for s in new)
        if torch.is_grad_enabled():
            # a norm keeps c for its derivative, and callers may change it in place
            new = (new[0], *(s.clone() for s in new[1:]))
        return self._hx(new)

    def params(self) -> dict[str, np.ndarray]:
        """The weights under their canonical names, see [lnrnn.params][]."""
        return self._params("")

    def load_params(self, params: Mapping[str, Any]) -> None:
        """Set the weights from canonical ones.

        Raises:
            ValueError: other names or shapes than this cell has; nothing is set then.
        """
        self._load_params(params, "")


class LayerNormLSTMCell(LayerNormCell):
    """One step of a [LayerNormLSTM][lnrnn.torch.LayerNormLSTM]; replaces `torch.nn.LSTMCell`.

    Args:
        input_size: I, the number of features.
        hidden_size: H, the size of h and c.
        bias: False removes every bias of the pre-activations.
        device: of the parameters.
        dtype: of the parameters.
        **options: see [Options][lnrnn.torch.Options]; masks are drawn anew at each call.

    Returns:
        The call on input (B, I) and (h, c) of the shape (B, H) returns the new (h, c).

    Raises:
        ValueError: an argument out of range, or one that contradicts the variant.  Of a wrong
            type it is an [ArgumentTypeError][lnrnn.frontends.errors.ArgumentTypeError], and of
            tensors that do not fit a [TensorError][lnrnn.frontends.errors.TensorError].

    Example:
        >>> cell = LayerNormLSTMCell(3, 64)
        >>> h, c = cell(torch.randn(8, 3))
        >>> h, c = cell(torch.randn(8, 3), (h, c))
    """

    family = families.LSTM


class LayerNormGRUCell(LayerNormCell):
    """One step of a [LayerNormGRU][lnrnn.torch.LayerNormGRU]; replaces `torch.nn.GRUCell`.

    The arguments are those of [LayerNormLSTMCell][lnrnn.torch.LayerNormLSTMCell].

    Example:
        >>> h = LayerNormGRUCell(3, 64)(torch.randn(8, 3))
    """

    family = families.GRU


class LayerNormRNNCell(LayerNormCell):
    """One step of a [LayerNormRNN][lnrnn.torch.LayerNormRNN]; replaces `torch.nn.RNNCell`.

    Args:
        input_size: I, the number of features.
        hidden_size: H, the size of h.
        bias: False removes every bias.
        nonlinearity: `"tanh"`, `"relu"` or another; None is the variant's own.
        device: of the parameters.
        dtype: of the parameters.
        **options: see [Options][lnrnn.torch.Options].

    Example:
        >>> h = LayerNormRNNCell(3, 64)(torch.randn(8, 3))
    """

    family = families.SIMPLE

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            bias,
            device,
            dtype,
            nonlinearity=nonlinearity,  # pyright: ignore[reportCallIssue]
            **options,
        )

    @property
    def nonlinearity(self) -> str:
        """The activation, `"tanh"` by default."""
        return self.variant.activation
