"""What layers and cells share: parameters, options, random masks, and the way to an engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import Any, ClassVar, Self, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from lnrnn.dialects import Dialect
from lnrnn.engines import select
from lnrnn.frontends import arguments, beginnings, families, noise
from lnrnn.frontends.advice import about_inputs, about_units
from lnrnn.frontends.errors import ArgumentTypeError, TensorError
from lnrnn.frontends.families import Family, VariantArgument
from lnrnn.frontends.warn import warn
from lnrnn.params import STATES, Sizes, check, learned_states, shapes
from lnrnn.torch import advice, initial, inputs, names
from lnrnn.torch.inputs import States
from lnrnn.torch.parameters import array, assign
from lnrnn.variant import Variant

_RATES = ("dropout", *noise.RATES)
_STATES = tuple(STATES.values())
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# what computes, and the dtype of the weights that it takes
_Function = tuple[Callable[..., Any], torch.dtype]


class Options(noise.Options, total=False):
    """Keyword arguments that PyTorch's modules do not have and all of ours take.

    All rates are in [0, 1) and act in training only, if not said otherwise.

    Attributes:
        variant: the mathematics: a dialect's name (see [lnrnn.dialects][]), `"none"` for
            PyTorch's own cell, a [Variant][lnrnn.Variant], or None for the default.
        norm_epsilon: in place of the variant's epsilon.
        zoneout: probability that a unit of h keeps its previous value at a step; in
            evaluation h is the expectation $p h_{t-1} + (1 - p) h_t$ (Krueger et al. 2017).
        zoneout_cell: the same of c; LSTM only.
        weight_dropout: DropConnect, inverted dropout of the recurrent matrix, one mask
            for a call (Wan et al. 2013; Merity et al. 2018).
        recurrent_dropout: rate of the dropout that `recurrent_dropout_mode` describes.
        recurrent_dropout_mode: `"sequence"`: one mask on h for the whole sequence where it
            enters the recurrent product (Gal and Ghahramani 2016); `"step"`: a fresh mask
            on h at each step; `"candidate"`: a fresh mask at each step on the activated
            candidate only, so that the cell keeps its memory (Semeniuta et al. 2016).
            Inverted scaling in all three.  A cell draws anew at each call.
        recurrent_gradient_clip: bound on each element of the derivatives of the loss that
            return at each step (after Graves 2013): with respect to $h_{t-1} U$, to $w c$ of
            peepholes, and to what the norms of cell and output are taken of; or None.
        learn_initial_state: whether the h (and c) that a sequence begins with, and that a
            reset goes to, are parameters, `initial_h` (and `initial_c`), used where no state
            is given.  They start small and random.
        engine: `"auto"` or the name of an engine; a named engine runs or raises.
    """

    variant: VariantArgument
    norm_epsilon: float | None
    learn_initial_state: bool
    engine: str


class Recurrent(nn.Module, noise.Regularized):
    """Sets of weights of one variant, each set under a suffix of its names.

    The arguments are those of [LayerNormLSTM][lnrnn.torch.LayerNormLSTM] that concern one
    cell, and [Options][lnrnn.torch.Options].
    """

    family: ClassVar[Family]
    _advised = False  # whether its weights were looked at
    learn_initial_state = False  # in pickles of 0.1.0

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool,
        proj_size: int = 0,
        dropout: float = 0.0,
        nonlinearity: str | None = None,
        variant: VariantArgument = None,
        norm_epsilon: float | None = None,
        learn_initial_state: bool = False,
        engine: str = "auto",
        **regularizers: Unpack[noise.Options],
    ) -> None:
        super().__init__()
        self.input_size = arguments.size("input_size", input_size)
        self.hidden_size = arguments.size("hidden_size", hidden_size)
        self.bias = arguments.flag("bias", bias)
        self.proj_size = arguments.size("proj_size", proj_size, least=0, example=0)
        self.dropout = arguments.rate("dropout", dropout, with_one=True)  # as nn.LSTM takes it
        self.learn_initial_state = arguments.flag("learn_initial_state", learn_initial_state)
        self.engine = select.check_name(arguments.word("engine", engine))
        self._check_options(nonlinearity, regularizers.get("zoneout_cell"))
        self.variant, self._dialect = self._resolve(variant, norm_epsilon, nonlinearity)
        self.regularize(self.variant, regularizers)
        self._given_variant = variant
        # for each suffix the stems of its parameters, and the canonical weights they are part of
        self._stems: dict[str, dict[str, str]] = {}

    @property
    def output_size(self) -> int:
        """R, the width of h."""
        return self.proj_size or self.hidden_size

    def reset_parameters(self) -> None:
        r"""Draw all parameters anew.

        Without any norm all are uniform in $\pm 1/\sqrt{H}$, as in `nn.LSTM`.  Otherwise they
        start as in the dialect that was chosen by name, or as in the default, which lets
        gradients through leading zero inputs: gains of recurrent norms at 0.1 (of sum norms
        at 0.25), biases at normal noise of deviation 0.1, forget biases at one.

        A parametrised weight is set through its right inverse.  Where parameters are sharded
        over processes, all of these call it together, and the draws of the first count.

        Raises:
            ValueError: a weight whose parametrisation has no right inverse.
        """
        variant = self.variant
        if not variant.norms and variant.cell_norm == "none" and not variant.hidden_norm:
            bound = 1 / math.sqrt(self.hidden_size)
            for suffix, stems in self._stems.items():
                drawn = {}
                for name in (f"{stem}{suffix}" for stem in stems):
                    like = getattr(self, name)
                    value = torch.empty(like.shape, dtype=like.dtype, device=like.device)
                    drawn[name] = nn.init.uniform_(value, -bound, bound)
                assign(self, drawn)
            return
        for suffix in self._stems:
            weight = self._weight_ih(suffix)
            if not weight.is_meta:
                drawn = initial.draw(
                    variant,
                    self._dialect,
                    self._sizes(suffix),
                    weight.device,
                    self.learn_initial_state,
                )
                self._assign(drawn, suffix)

    def engine_report(self) -> dict[str, select.Yes | select.No]:
        """What each engine answers to this module, in the order in which `"auto"` asks."""
        weight = next(self.parameters())
        return select.report(self._request(weight.dtype, weight.device))

    def noise(self, leading: tuple[int, ...], like: Tensor) -> dict[str, Any]:
        """Zoneout and the dropout of the recurrence, for one sequence or one step.

        Args:
            leading: (T, B) of a sequence, (B,) of a step.
            like: has the dtype and device of the masks.

        Returns:
            Keywords of [lnrnn.engines.portable.sequence.sequence][].
        """
        if not (self.zoneout or self.zoneout_cell or self.recurrent_dropout):
            return {}
        planned = noise.plan(
            leading,
            self.output_size,
            self.hidden_size,
            self.training,
            zoneout=self.zoneout,
            zoneout_cell=self.zoneout_cell,
            recurrent_dropout=self.recurrent_dropout,
            recurrent_dropout_mode=self.recurrent_dropout_mode,
        )
        drawn = (_drawn(p, like) if isinstance(p, noise.Draw) else p for p in planned.values())
        return dict(zip(planned, drawn, strict=True))

    def extra_repr(self) -> str:
        """The sizes and the arguments that are not at their defaults."""
        given = self._given_variant
        shown: dict[str, tuple[Any, Any]] = {
            **{name: (getattr(self, name), default) for name, default in self._defaults().items()},
            "variant": (given if isinstance(given, str) else given and self.variant, None),
        }
        changed = [f"{name}={value!r}" for name, (value, plain) in shown.items() if value != plain]
        return ", ".join([str(self.input_size), str(self.hidden_size), *changed])

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle or a copy; in a pickle of 0.1.0 the parameters have other names."""
        super().__setstate__(state)
        stems = {suffix: self._renamed(stems) for suffix, stems in self._stems.items()}
        if stems != self._stems:
            self._stems, self._parameters = stems, self._renamed(self._parameters)
        self._keep_former_names()
        self._load_ahead()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **keywords: Any
    ) -> None:
        """Read a state dict; in one of 0.1.0 the parameters have other names."""
        own = {n: state_dict.pop(n) for n in tuple(state_dict) if n.startswith(prefix)}
        own = self._renamed({name.removeprefix(prefix): value for name, value in own.items()})
        state_dict |= {prefix + name: value for name, value in own.items()}
        super()._load_from_state_dict(state_dict, prefix, *rest, **keywords)

    def _renamed(self, values: dict[str, Any]) -> dict[str, Any]:
        return {names.renamed(name, self.variant): value for name, value in values.items()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `cuda` and `to_empty` call: the device may be another now."""
        super()._apply(fn, recurse)
        self._load_ahead()
        return self

    def _defaults(self) -> dict[str, Any]:
        """The arguments that `extra_repr` shows where they differ from these."""
        defaults: dict[str, Any] = {"bias": True, "proj_size": 0}
        if self.family is families.SIMPLE:
            own, _ = families.find(self.family, self._given_variant)
            defaults["nonlinearity"] = own.activation
        rates = dict.fromkeys(_RATES, 0.0)
        others = {"recurrent_gradient_clip": None, "learn_initial_state": False, "engine": "auto"}
        return {**defaults, **rates, **others}

    def _create(self, suffix: str, inputs: int, device: Any, dtype: Any) -> None:
        """Register the parameters of one cell, not yet filled."""
        sizes = Sizes(inputs, self.hidden_size, self.output_size)
        self._stems[suffix] = names.stems(self.variant, sizes, self.learn_initial_state)
        for stem, name in self._stems[suffix].items():
            shape = shapes(self.variant, sizes, self.learn_initial_state)[name][::-1]
            parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(f"{stem}{suffix}", parameter)
        self._keep_former_names()

    def _keep_former_names(self) -> None:
        """Let parameters answer to their names of 0.1.0, with a warning."""
        for before in filter(None, map(names.former, self._parameters)):
            if not hasattr(type(self), before):
                setattr(type(self), before, names.Former(before))

    def _parameter(self, name: str) -> Tensor:
        # the dict first: attributes of a module that are parameters are looked up last and in
        # Python; not there are those which a parametrization or a hook computes
        held = self._parameters.get(name)
        return getattr(self, name) if held is None else held

    def _weight_ih(self, suffix: str) -> Tensor:
        return self._parameter(f"weight_ih{suffix}")

    def _sizes(self, suffix: str) -> Sizes:
        return Sizes(self._weight_ih(suffix).shape[1], self.hidden_size, self.output_size)

    def _canonical(self, suffix: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """The weights of one cell as an engine takes them, DropConnect applied in training."""
        values = {stem: self._parameter(f"{stem}{suffix}") for stem in self._stems[suffix]}
        values = inputs.all_converted(values, dtype)

        def parameter(stem: str) -> Tensor:
            value = values[stem]
            if stem in ("weight_hh", "scale_hh") and self.weight_dropout:
                value = nn.functional.dropout(value, self.weight_dropout, self.training)
            return value

        return names.to_canonical(self._stems[suffix], parameter)

    def _params(self, suffix: str) -> dict[str, np.ndarray]:
        def parameter(stem: str) -> np.ndarray:
            return array(getattr(self, f"{stem}{suffix}"))

        return names.to_canonical(self._stems[suffix], parameter)

    def _load_params(self, params: Mapping[str, Any], suffix: str) -> None:
        beginnings.check_learned(params, self.learn_initial_state)
        check(self.variant, params, self._sizes(suffix))
        self._assign({n: torch.as_tensor(np.asarray(p)) for n, p in params.items()}, suffix)

    def _assign(self, params: Mapping[str, Tensor], suffix: str) -> None:
        values = names.from_canonical(self._stems[suffix], params)
        assign(self, {f"{stem}{suffix}": value for stem, value in values.items()})

    def _states(
        self, hx: Any, leading: tuple[int, ...], x: Tensor, dtype: torch.dtype, what: str = "hx"
    ) -> States:
        """The states of the shapes (*leading, R) and (*leading, H): the caller's, or zeros."""
        widths = {"h": self.output_size, "c": self.hidden_size}
        wanted = {name: (*leading, widths[name]) for name in self.variant.states}
        if hx is None:
            return tuple(torch.zeros(s, dtype=dtype, device=x.device) for s in wanted.values())
        return tuple(inputs.converted(s, dtype) for s in inputs.check_states(hx, wanted, x, what))

    def _learned(self, suffix: str, batch: int, dtype: torch.dtype) -> States:
        """The learned states in which a sequence begins, (B, .)."""
        own = {s: self._parameter(f"{s}{suffix}") for s in self._stems[suffix] if s in _STATES}
        # a traced scan wants dense tensors of its own
        return tuple(inputs.converted(w, dtype).repeat(batch, 1) for w in learned_states(own))

    def _hx(self, states: States) -> Any:
        """States as a caller sees them: (h, c) of an LSTM, else h."""
        return states if len(self.variant.states) > 1 else states[0]

    def _step(self, suffix: str, x: Tensor, states: States) -> States:
        """One step of one cell, all in one dtype: x (B, I)."""
        self._advise()
        function, weights_dtype = self._function("step", x.dtype, x.device)
        return function(
            self.variant,
            beginnings.without_states(self._canonical(suffix, weights_dtype)),
            x,
            states,
            recurrent_gradient_clip=self.recurrent_gradient_clip,
            **self.noise((x.shape[0],), x),
        )

    def _sequence(
        self,
        suffix: str,
        x: Tensor,
        states: States,
        mask: Tensor | None,
        reset: Tensor | None,
        reset_states: States | None,
        burn_in: int,
        backwards: bool = False,
    ) -> tuple[Tensor, States]:
        """A sequence of one cell, all in one dtype: x (T, B, I).

        A masked step emits zeros and holds the states.  Learned states take the place of those
        that resets go to where they are None.
        """
        self._advise()
        if reset is not None and reset_states is None and self.learn_initial_state:
            reset_states = self._learned(suffix, x.shape[1], x.dtype)
        function, weights_dtype = self._function("sequence", x.dtype, x.device)
        options = dict(
            mask=mask,
            reset=reset,
            reset_states=reset_states,
            masked_output="zero",
            recurrent_gradient_clip=self.recurrent_gradient_clip,
            **self.noise((x.shape[0], x.shape[1]), x),
        )
        return beginnings.run(
            partial(function, self.variant),
            self._canonical(suffix, weights_dtype),
            x,
            states,
            options,
            burn_in=burn_in,
            stop=Tensor.detach,
            join=torch.cat,
            backwards=backwards,
        )

    def _advise(self) -> None:
        if self._advised or not self.training or torch.compiler.is_compiling():
            return
        if advice.given(self):  # a module is slow to set an attribute
            self._advised = True

    def _request(self, dtype: torch.dtype, device: torch.device) -> select.Request:
        return select.Request(
            self.variant,
            framework="torch",
            dtype=_name(dtype),
            device=device.type,
            named=self.engine != "auto",
        )

    def _function(self, use: str, dtype: torch.dtype, device: torch.device) -> _Function:
        """What computes a `"sequence"` or a `"step"`.

        In an export it is always the portable engine.
        """
        if torch.compiler.is_exporting():
            if self.recurrent_gradient_clip is not None and self.training:
                raise ValueError(
                    "An exported program does not clip gradients within the recurrence; got "
                    f"recurrent_gradient_clip={self.recurrent_gradient_clip} in training mode: "
                    "export module.eval() for inference, or train with torch.compile."
                )
            use = use if use == "step" else "export"
        key = use, dtype, device.type
        if key not in self._functions:
            self._functions[key] = self._load(use, dtype, device)
        return self._functions[key]

    def _load(self, use: str, dtype: torch.dtype, device: torch.device) -> _Function:
        if dtype not in _DTYPES:
            raise TensorError(
                f"Recurrent modules compute in {', '.join(map(_name, _DTYPES))}; got "
                f"{_name(dtype)}: convert the module and its input, for example with .float()."
            )
        request = self._request(dtype, device)
        if use == "step":
            return select.step(request, self.engine), dtype
        engine = select.choose("portable" if use == "export" else self.engine, request)
        return engine.load(request), getattr(torch, engine.weights_dtype(request))

    def _load_ahead(self) -> None:
        """Find the functions of an engine before a tracer comes, which traces no import."""
        self._functions = _Functions()
        # a module on meta may get its weights, on the CPU as a rule, by assignment alone
        devices = {torch.device("cpu"), *(p.device for p in self.parameters())}
        for dtype, device in product(_DTYPES, devices):
            named = select.report(self._request(dtype, device)).get(self.engine)
            for use in ("sequence", "export", "step"):
                if use in ("export", "step") or not isinstance(named, select.No):
                    self._function(use, dtype, device)

    def _resolve(
        self, given: VariantArgument, norm_epsilon: float | None, nonlinearity: str | None
    ) -> tuple[Variant, Dialect | None]:
        """The variant after the arguments, and its dialect if it was named."""
        variant, dialect = families.find(self.family, given)
        if not self.bias:
            variant = families.without_bias(variant)
        if norm_epsilon is not None:
            variant = variant.replace(epsilon=arguments.number("norm_epsilon", norm_epsilon))
        if nonlinearity is not None:
            variant = variant.replace(activation=nonlinearity)
        if self.proj_size and not variant.projection:
            variant = variant.replace(projection=True)
        if variant.projection and not self.proj_size:
            raise ValueError(
                "A variant with a projection needs its size; got proj_size=0: pass proj_size."
            )
        sizes = Sizes(self.input_size, self.hidden_size, self.output_size)
        for sentence in (*about_inputs(variant, sizes), *about_units(variant, sizes)):
            warn(sentence)
        return variant, dialect

    def _check_options(self, nonlinearity: str | None, zoneout_cell: float | None) -> None:
        own = {
            "proj_size": (self.proj_size, families.LSTM),
            "zoneout_cell": (zoneout_cell, families.LSTM),
            "nonlinearity": (nonlinearity, families.SIMPLE),
        }
        for name, (given, family) in own.items():
            if given and self.family is not family:
                raise ArgumentTypeError(
                    f"{name} is an argument of the {family.name}; got {name}={given!r} for "
                    f"{type(self).__name__}: leave it out."
                )


class _Functions(dict[tuple[str, torch.dtype, str], _Function]):
    """Functions of engines by use, dtype and kind of device.

    They refer to modules of Python, which nothing copies or pickles: a copy has the same ones,
    and a pickle has none.
    """

    def __deepcopy__(self, memo: Any) -> _Functions:
        return _Functions(self)

    def __reduce__(self) -> Any:
        return _Functions, ()


def _drawn(mask: noise.Draw, like: Tensor) -> Tensor:
    ones = torch.rand(mask.shape, device=like.device) < mask.keep
    return ones.to(like.dtype) * mask.scale


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
