"""Dreamer's block GRU as a PyTorch module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lnrnn.engines import select
from lnrnn.frontends import arguments, block_gru
from lnrnn.relatives.relative import SmoothActivation
from lnrnn.relatives.weights import check, shapes, start
from lnrnn.torch import inputs
from lnrnn.torch.inputs import Layout
from lnrnn.torch.parameters import array, assign


class DreamerBlockGRU(nn.Module):
    r"""The recurrent core of DreamerV3: a block-diagonal GRU behind normed projections.

    N is the root mean square norm with a gain, s the sigmoid and $\phi$ the activation. h, the
    input and, if there are actions, $a / \max(1, |a|)$ are projected,

    $$e_v = \phi(N(v W_v + b_v))$$

    Each block k of the units sees $u_k = [h_k; e_h; e_x; e_a]$. With block-diagonal D and W, and
    N over all units, layer after layer

    $$u \leftarrow \phi(N(u D + d)), \quad (r, n, z) = u W + w$$

    $$n = \tanh(s(r) \odot n), \quad z = s(z + \beta)$$

    $$h_t = z \odot n + (1 - z) \odot h_{t-1}$$

    Parameters have the names and shapes of [lnrnn.relatives.weights][].

    Args:
        input_size: I, the number of features, with the actions.
        hidden_size: H, a multiple of `num_blocks`.
        projection_size: P, the size of each projection.
        num_blocks: K.
        num_layers: of the block-diagonal layers before the gates.
        action_size: how many of the last features are the action, with a projection of their own
            within the bound; 0, as in TorchRL, projects all features together.
        activation: `"silu"` or `"gelu"` (with tanh).
        norm_epsilon: added to the mean of squares.
        update_bias: beta.
        engine: `"auto"` or the name of an engine; a named engine runs or raises.
        batch_first: whether inputs and outputs are (B, T, .).
        device: of the parameters.
        dtype: of the parameters.

    Returns:
        The call returns outputs (T, B, H) and the final h (1, B, H), as `nn.GRU`.

    Raises:
        ValueError: sizes that do not fit, or an activation of another name.

    Example:
        >>> gru = DreamerBlockGRU(6, 32, projection_size=16)
        >>> y, h = gru(torch.randn(10, 4, 6))
        >>> y.shape, h.shape
        (torch.Size([10, 4, 32]), torch.Size([1, 4, 32]))

    Source: danijar/dreamerv3 @f8817c40; defaults and projections as TorchRL 0.14.1 has them.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        projection_size: int = 512,
        num_blocks: int = 8,
        num_layers: int = 1,
        action_size: int = 0,
        activation: SmoothActivation = "silu",
        norm_epsilon: float = 1e-4,
        update_bias: float = -1.0,
        engine: str = "auto",
        batch_first: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.relative = block_gru.relative(activation, norm_epsilon, update_bias)
        self.sizes = block_gru.sizes(
            input_size=input_size,
            hidden_size=hidden_size,
            projection_size=projection_size,
            num_blocks=num_blocks,
            num_layers=num_layers,
            action_size=action_size,
        )
        self.engine = select.check_name(arguments.word("engine", engine))
        self.batch_first = arguments.flag("batch_first", batch_first)
        self._names = tuple(shapes(self.relative, self.sizes))
        for name, shape in shapes(self.relative, self.sizes).items():
            parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, parameter)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as Dreamer does: gains 1, biases 0, matrices by fan in."""
        for name in self._names:
            parameter = getattr(self, name)
            mean, deviation = start(name, tuple(parameter.shape))
            if deviation:
                nn.init.trunc_normal_(parameter, mean, deviation, -2 * deviation, 2 * deviation)
            else:
                nn.init.constant_(parameter, mean)

    def forward(
        self,
        input: Tensor,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the layer over a sequence.

        Args:
            input: (T, B, I), with `batch_first` (B, T, I), without batch (T, I).
            hx: initial h (1, B, H), without batch (1, H); None is zeros.  A parameter of yours,
                expanded, is a learned one.
            lengths: (B,), the number of valid steps of each sequence.
            mask: as input without I, boolean; False at steps to skip.  A skipped step emits
                zeros and holds h.
            reset: as `mask`; True at the first step of an episode, where h starts at zero.

        Returns:
            The outputs, laid out as the input, and the final h.
        """
        self._check(input, ("TI", "BTI" if self.batch_first else "TBI"))
        layout = Layout(input.dim() == 3, self.batch_first)
        x = inputs.sequence(input, layout)
        valid = inputs.valid_steps(lengths, mask, layout, x)
        fresh = inputs.flags("reset", reset, layout, x)
        if valid is not None:  # a NaN at a skipped step would reach the gradients
            x = x.masked_fill(~valid.unsqueeze(-1), 0.0)
        dtype, scope = inputs.precision(x)
        before = self._before(hx, x.shape[1:2] if layout.batched else (), input, dtype)
        with scope:
            request = self._request(dtype, x.device)
            # an export is always the portable engine's
            engine = select.choose(
                "portable" if torch.compiler.is_exporting() else self.engine, request
            )
            y, (h,) = engine.load(request)(
                self.relative,
                self._weights(getattr(torch, engine.weights_dtype(request))),
                inputs.converted(x, dtype),
                (before,),
                mask=valid,
                reset=fresh,
                masked_output="zero",
            )
        return layout.restored(y), h.unsqueeze(0) if layout.batched else h

    def step(
        self, input: Tensor, hx: Tensor | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Advance by one step, for streams and acting.

        Args:
            input: (B, I), or (I,) without batch.
            hx: h, as of `forward`; None is zeros.
            reset: as input without I, boolean; True where it is the first step of an episode.

        Returns:
            The output (B, H), and the new h, as of `forward`.
        """
        self._check(input, ("I", "BI"))
        batched = input.dim() == 2
        dtype, scope = inputs.precision(input)
        before = self._before(hx, input.shape[:-1], input, dtype)
        if reset is not None:
            again = (torch.zeros_like(before),)
            ((before,),) = inputs.begun_anew(reset, input, [(before,)], [again])
        with scope:
            x = inputs.converted(input if batched else input.unsqueeze(0), dtype)
            step = select.relative("torch", "step")
            (h,) = step(self.relative, self._weights(dtype), x, (before,))
        return (h, h.unsqueeze(0)) if batched else (h.squeeze(0), h)

    def engine_report(self) -> dict[str, select.Yes | select.No]:
        """What each engine answers to this module, in the order in which `"auto"` asks."""
        parameter = next(self.parameters())
        return select.report(self._request(parameter.dtype, parameter.device))

    def params(self) -> dict[str, np.ndarray]:
        """The weights under their canonical names, see [lnrnn.relatives.weights][]."""
        return {name: array(getattr(self, name)) for name in self._names}

    def load_params(self, params: Mapping[str, Any]) -> None:
        """Set the weights from canonical ones, as `to_canonical` of a published form gives them.

        Raises:
            ValueError: other names or shapes than this module has; nothing is set then.
        """
        check(self.relative, params, self.sizes)
        assign(self, {n: torch.as_tensor(np.asarray(p)) for n, p in params.items()})

    def extra_repr(self) -> str:
        """The sizes."""
        return ", ".join(f"{name}={size}" for name, size in self.sizes._asdict().items())

    def _check(self, input: Tensor, axes: Sequence[str]) -> None:
        like = next(self.parameters()).new_empty((0, self.sizes.inputs))
        inputs.check_input(input, like, axes)

    def _request(self, dtype: torch.dtype, device: torch.device) -> select.Request:
        return select.Request(
            self.relative,
            framework="torch",
            dtype=str(dtype).removeprefix("torch."),
            device=device.type,
            named=self.engine != "auto",
        )

    def _weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        return {name: inputs.converted(getattr(self, name), dtype) for name in self._names}

    def _before(self, hx: Any, batch: Sequence[int], input: Tensor, dtype: torch.dtype) -> Tensor:
        """h (B, H): the caller's, or zeros."""
        shape = (1, *batch, self.sizes.units)
        if hx is None:
            given = torch.zeros(shape, dtype=dtype, device=input.device)
        else:
            (given,) = inputs.check_states(hx, {"h": shape}, input)
        return inputs.converted(given.squeeze(0) if batch else given, dtype)
