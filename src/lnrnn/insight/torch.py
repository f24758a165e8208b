"""Watching modules of PyTorch while they train."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from lnrnn.insight.diagnose import diagnose
from lnrnn.insight.trace import Trace, trace
from lnrnn.insight.watch import NotFiniteError, Record, Sink
from lnrnn.torch.layers import LayerNormRNNBase

_MOST_SEQUENCES = 4


class Watch:
    """Looks into the layers of a module every so many steps of an optimizer.

    Hooks keep the last input of each layer of [lnrnn.torch][]; before a step of the optimizer a
    few sequences of it are run again, in evaluation mode, and the
    [figures][lnrnn.insight.watch.figures] of each layer are written, and the norm of all
    gradients together as `gradient_norm`.  Before each step the gradients are looked at: when
    one is not finite, the training ends with the diagnosis, and the weights are still whole.

    Args:
        module: that is trained.
        optimizer: of its parameters.
        to: path of a CSV file, an object with `add_scalar(name, value, step)` such as
            TensorBoard's `SummaryWriter`, a function of (name, value, step), or None.
        every: steps from one look to the next.

    Raises:
        NotFiniteError: from `optimizer.step()`, when a gradient is NaN or infinite.
        ValueError: there is no layer of lnrnn in the module, `every` is below 1, or `to` is
            nothing that takes figures.

    Example:
        >>> from lnrnn.torch import LayerNormLSTM
        >>> lstm = LayerNormLSTM(3, 8)
        >>> optimizer = torch.optim.SGD(lstm.parameters())
        >>> watch = Watch(lstm, optimizer, to="watch.csv", every=2)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     lstm(torch.randn(5, 4, 3))[0].sum().backward()
        ...     optimizer.step()
        >>> sorted(watch.latest)
        ['', 'layers.0.forward']
        >>> watch.close()
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        to: Sink | None = None,
        every: int = 2000,
    ) -> None:
        if every < 1:
            raise ValueError(f"every is a number of steps, 1 or more; got {every}.")
        self._layers = {n: m for n, m in module.named_modules() if isinstance(m, LayerNormRNNBase)}
        if not self._layers:
            raise ValueError(
                "A watch looks into layers of lnrnn.torch; got none in "
                f"{type(module).__name__}: put one in, or watch the module that has it."
            )
        self.every = every
        self._record = Record(to)
        self._named = dict(module.named_parameters())
        self._calls: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._step = 0
        self._hooks = [optimizer.register_step_pre_hook(self._before_step)]
        for name, layer in self._layers.items():
            hook = layer.register_forward_pre_hook(self._keeper(name), with_kwargs=True)
            self._hooks.append(hook)

    @property
    def latest(self) -> dict[str, dict[str, float]]:
        """The figures of the last look, by the path of the layer; those of no layer by `""`."""
        return self._record.latest

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._calls.clear()

    def _keeper(self, name: str) -> Callable[..., None]:
        def keep(layer: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            # a look is in evaluation mode
            if layer.training and not torch.compiler.is_compiling():
                self._calls[name] = args, keywords

        return keep

    def _before_step(self, *_: Any) -> None:
        self._step += 1
        if not self._calls:
            raise ValueError(
                "A watch keeps what its layers read; got a step of the optimizer before any of "
                "them was called in training mode: watch modules that run, and are not compiled."
            )
        gradients = {n: p.grad for n, p in self._named.items() if p.grad is not None}
        norm = float(nn.utils.get_total_norm(gradients.values()))
        if not math.isfinite(norm):
            self._end(gradients)
        if self._step % self.every == 0:
            with torch.no_grad():
                found = self._of_each(lambda *call, **keywords: trace(*call, **keywords).layers)
            layers = {
                f"{name}.{path}" if name else path: layer
                for name, layers in found.items()
                for path, layer in layers.items()
            }
            self._record.take(Trace(layers), self._step, {"gradient_norm": norm})

    def _end(self, gradients: Mapping[str, Tensor]) -> None:
        infinite = [n for n, g in gradients.items() if not g.isfinite().all()]
        found = self._of_each(lambda *call, **keywords: diagnose(*call, loss=_squares, **keywords))
        raise NotFiniteError(
            f"The gradient of {infinite[0] if infinite else 'all weights together'} is not finite "
            f"at step {self._step}, which is not taken; the diagnosis of the weights:",
            found,
        )

    def _of_each(self, look: Callable[..., Any]) -> dict[str, Any]:
        """What `look` returns for each layer, in evaluation mode, and its last input."""
        found = {}
        for name, (args, keywords) in self._calls.items():
            layer = self._layers[name]
            layer.eval()
            try:
                args, keywords = _few(layer, *args, **keywords)
                found[name] = look(layer, *args, **keywords)
            finally:
                layer.train()
        return found


def _squares(output: Any) -> Tensor:
    """A loss of the outputs of a layer, where its own is not known."""
    return output[0].square().mean()


def _few(
    layer: LayerNormRNNBase, input: Any, hx: Any = None, **flags: Any
) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """The arguments of a call for the first sequences of its batch."""
    if isinstance(input, PackedSequence):
        input, flags["lengths"] = pad_packed_sequence(input, layer.batch_first)
    input = input.detach()
    if input.dim() < 3:
        return (input, hx), flags
    place = 0 if layer.batch_first else 1
    count = min(_MOST_SEQUENCES, input.shape[place])
    states = (hx,) if isinstance(hx, Tensor) else hx
    if states is not None:
        states = tuple(s[:, :count].detach() for s in states)
        hx = states[0] if isinstance(hx, Tensor) else states
    flags = {
        name: flag if flag is None else flag[:count] if name == "lengths" or place == 0
        else flag[:, :count]
        for name, flag in flags.items()
    }  # fmt: skip
    return (input.narrow(place, 0, count), hx), flags
