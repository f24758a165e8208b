"""What cells and layers share: parameters, options, the carry, and random masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import lnrnn.jax
from lnrnn.frontends import arguments, beginnings, families, noise
from lnrnn.frontends.advice import about_inputs, about_units
from lnrnn.frontends.families import Family, VariantArgument
from lnrnn.frontends.warn import warn
from lnrnn.jax import advice, initial
from lnrnn.params import Sizes, check, shapes


class Options(noise.Options, total=False):
    """Keyword arguments that all modules take.

    Attributes:
        variant: the mathematics: a dialect's name (see [lnrnn.dialects][]), `"none"` for the
            cell without norms, a [Variant][lnrnn.Variant], or None for the default.
        norm_epsilon: in place of the variant's epsilon.
        projection_features: R, the width of h of a variant with a projection.
        dtype: of the computation; None is that to which inputs and weights promote.
        param_dtype: of the weights.
        metadata: by the name of a weight the keywords of its `nnx.Param`, such as
            `{"kernel": {"out_sharding": (None, "model")}}` (`sharding_names` in Flax 0.12.0).
        deterministic: whether random masks are off; `train()` and `eval()` of NNX set it.
        zoneout: as of [lnrnn.jax.Options][], as those below.
        zoneout_cell: of c; LSTM only.
        weight_dropout: DropConnect.
        recurrent_dropout: rate.
        recurrent_dropout_mode: `"sequence"`, `"step"` or `"candidate"`; in a cell a mask is
            drawn at each step.
        recurrent_gradient_clip: a bound or None.
        learn_initial_state: whether the carry that a sequence begins with, and that a reset goes
            to, is of weights, `initial_h` (and `initial_c`), where none is given.
    """

    variant: VariantArgument
    norm_epsilon: float | None
    projection_features: int | None
    dtype: Any
    param_dtype: Any
    metadata: Mapping[str, Mapping[str, Any]] | None
    deterministic: bool
    learn_initial_state: bool


class Recurrent(nnx.Module, noise.Regularized):
    """One cell's weights, each an `nnx.Param` of its canonical name."""

    family: ClassVar[Family]

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        rngs: nnx.Rngs,
        variant: VariantArgument = None,
        norm_epsilon: float | None = None,
        projection_features: int | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
        deterministic: bool = False,
        learn_initial_state: bool = False,
        **regularizers: Unpack[noise.Options],
    ) -> None:
        self.in_features = arguments.size("in_features", in_features)
        self.hidden_features = arguments.size("hidden_features", hidden_features)
        self.variant, dialect = families.find(self.family, variant)
        if norm_epsilon is not None:
            epsilon = arguments.number("norm_epsilon", norm_epsilon)
            self.variant = self.variant.replace(epsilon=epsilon)
        if self.variant.projection is not (projection_features is not None):
            raise ValueError(
                "projection_features is the size of a variant's projection; got "
                f"projection_features={projection_features!r} with a variant of "
                f"projection={self.variant.projection}: pass both or neither."
            )
        self.output_features = (
            self.hidden_features
            if projection_features is None
            else arguments.size("projection_features", projection_features)
        )
        self.dtype, self.param_dtype = dtype, param_dtype
        self.deterministic = arguments.flag("deterministic", deterministic)
        self.regularize(self.variant, regularizers)
        for sentence in (
            *about_inputs(self.variant, self._sizes),
            *about_units(self.variant, self._sizes),
        ):
            warn(sentence)
        self.learn_initial_state = arguments.flag("learn_initial_state", learn_initial_state)
        self._names = tuple(shapes(self.variant, self._sizes, self.learn_initial_state))
        metadata = metadata or {}
        unknown = sorted(set(metadata) - set(self._names))
        if unknown:
            raise ValueError(
                f"metadata is by names of weights, {', '.join(self._names)}; got {unknown[0]!r}: "
                "use one of them."
            )
        drawn = initial.draw(
            rngs.params(), self.variant, dialect, self._sizes, param_dtype, self.learn_initial_state
        )
        for name, value in drawn.items():
            setattr(self, name, nnx.Param(value, **metadata.get(name, {})))
        self._note(drawn)
        random = any(getattr(self, rate) for rate in noise.RATES)
        self.rngs = rngs.dropout.fork() if random else nnx.data(None)

    def params(self) -> dict[str, np.ndarray]:
        """The weights under their canonical names, see [lnrnn.params][]."""
        return {name: np.asarray(value) for name, value in self._weights().items()}

    def load_params(self, params: Mapping[str, Any]) -> None:
        """Set the weights from canonical ones.

        Raises:
            ValueError: other names or shapes than this module has; nothing is set then.
        """
        beginnings.check_learned(params, self.learn_initial_state)
        check(self.variant, params, self._sizes)
        for name, value in params.items():
            getattr(self, name)[...] = jnp.asarray(value, self.param_dtype)
        self._note(self._weights())

    def initialize_carry(
        self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None
    ) -> Any:
        """The carry from which a sequence begins, as of `nnx.LSTMCell`: learned, or zeros.

        Args:
            input_shape: (*batch, I) of one step.
            rngs: given to `carry_init`.
            carry_init: an initialiser of JAX, called with a key, a shape and a dtype, in place of
                the learned carry or zeros.

        Returns:
            h (*batch, R), for an LSTM (c, h) with c (*batch, H).
        """
        dtype = self.param_dtype if self.dtype is None else self.dtype
        batch = input_shape[:-1]
        if carry_init is None:
            state = lnrnn.jax.initial_state(
                self._weights(), batch, variant=self.variant, dtype=dtype
            )
            return carry_of(state)
        widths = (self.output_features, self.hidden_features)[: len(self.variant.states)]
        wanted = [(*batch, width) for width in widths]
        stream: Any = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
        if stream is None:
            raise ValueError("carry_init draws from a key; got rngs=None: pass rngs=nnx.Rngs(...).")
        return _carry(tuple(carry_init(stream(), shape, dtype) for shape in wanted))

    @property
    def num_feature_axes(self) -> int:
        """One: the last axis of an input."""
        return 1

    @property
    def _sizes(self) -> Sizes:
        return Sizes(self.in_features, self.hidden_features, self.output_features)

    def _note(self, weights: Mapping[str, jax.Array]) -> None:
        """Keep what a call that trains has to say of these weights."""
        self._notice = advice.about(self.variant, weights, self.recurrent_gradient_clip)

    def _weights(self) -> dict[str, jax.Array]:
        return {name: getattr(self, name)[...] for name in self._names}

    def _promoted(self, x: Any) -> jax.Array:
        x = jnp.asarray(x)
        return x.astype(self.dtype or jnp.result_type(x, self.param_dtype))

    def _state(self, carry: Any, dtype: Any) -> Any:
        """The state of `lnrnn.jax` of a carry."""
        cast = jax.tree.map(lambda s: jnp.asarray(s, dtype), carry)
        return (cast[1], cast[0]) if len(self.variant.states) > 1 else cast

    def _keywords(self) -> dict[str, Any]:
        """Options as `lnrnn.jax` takes them, and a key where masks are drawn."""
        if self._notice is not None and not self.deterministic:
            warn(self._notice)
        key = None if self.rngs is None or self.deterministic else self.rngs()
        options = {name: getattr(self, name) for name in noise.Options.__annotations__}
        return {"variant": self.variant, "key": key, **options}


def carry_of(state: Any, like: Any = None) -> Any:
    """The carry of NNX of a state of `lnrnn.jax`, in the dtypes of another carry."""
    carry = _carry(state if isinstance(state, tuple) else (state,))
    return carry if like is None else jax.tree.map(lambda s, o: s.astype(o.dtype), carry, like)


def _carry(states: Any) -> Any:
    return states[::-1] if len(states) > 1 else states[0]
