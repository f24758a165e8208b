"""`torch.fx`: a call of our modules is one node of a graph, as a call of `nn.LSTM` is."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy
from torch.fx.proxy import TraceError


def tracer(input: Any, hx: Any) -> Any:
    """The tracer whose values a call is given as input or states; None if there is none."""
    for given in (input, *hx) if isinstance(hx, (tuple, list)) else (input, hx):
        if isinstance(given, Proxy):
            return given.tracer
    return None


def node(tracer: Any, module: nn.Module, method: str, *arguments: Any, **keywords: Any) -> Any:
    """Record a call of a module, or of another method, without the arguments that are None.

    Raises:
        TraceError: a call that a graph cannot hold as one node.
    """
    path = tracer.path_of_module(module)
    problem = _problem(module, method, path)
    if problem:
        raise TraceError(f"torch.fx keeps a call of a recurrent module as one node; got {problem}.")
    arguments = tuple(a for a in arguments if a is not None)
    keywords = {name: value for name, value in keywords.items() if value is not None}
    if method == "forward":
        return tracer.create_proxy("call_module", path, arguments, keywords)
    owner = tracer.create_proxy("get_attr", path, (), {})
    return tracer.create_proxy("call_method", method, (owner, *arguments), keywords)


def _problem(module: nn.Module, method: str, path: str) -> str:
    """What would be computed twice, or not be in the graph; empty if nothing."""
    kind = type(module)
    if not path:
        return "the module itself as what to trace: trace one that holds it"
    if not getattr(kind, method).__module__.startswith("lnrnn."):
        return f"it within {kind.__name__}.{method}: make {kind.__name__} a leaf of your Tracer"
    if method == "forward" and (module._forward_hooks or module._forward_pre_hooks):
        return "one with forward hooks, which are traced as well: register them on the result"
    return ""
