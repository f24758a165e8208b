"""What a relative computes: a cell outside of `Variant`, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from lnrnn.variant import Norm, Variant

RelativeCell = Literal[
    "block_gru",
    "atr",
    "lrn",
    "olrn",
    "sru",
    "sru_carry",
    "gru_twice",
    "hyper_lstm",
    "double_projection",
]
SmoothActivation = Literal["silu", "gelu"]

# the gates that stand side by side in a weight
_GATES: Mapping[str, str] = {
    "atr": "p",
    "lrn": "pqr",
    "olrn": "pqru",
    "sru": "rfgx",
    "sru_carry": "rfgx",
    "gru_twice": "rzn",
}
_STATES: Mapping[str, tuple[str, ...]] = {
    "sru": ("h", "c"),
    "sru_carry": ("h", "c"),
    "double_projection": ("h", "c"),
    "hyper_lstm": ("h", "c", "hyper_h", "hyper_c"),
}


@dataclass(frozen=True, kw_only=True)
class Relative:
    r"""A cell with norms in its recurrence that a [Variant][lnrnn.Variant] does not span.

    N is the norm with its own gain (and bias, of a layer norm), s the sigmoid.

    - `block_gru`, of Dreamer: with $e_v = \phi(N(v W_v + b_v))$ for h, the input and the action
      $a / \max(1, |a|)$, each block k of the units sees
      $[h_k; e_h; e_x; e_a]$; layers $v \leftarrow \phi(N(v D + d))$, D block-diagonal and N over
      all units; then $r, n, z$ of a block-diagonal product,
      $h' = s(z + \beta) \tanh(s(r) n) + (1 - s(z + \beta)) h$.
    - `atr`: $p = N(x W)$, $q = N(h U) + b$, $h' = s(p + q) p + s(p - q) h$.
    - `lrn`: $p, q, r = N(x W)$, $h' = s(p + h) r + s(q - h) h$; `olrn` emits and carries
      $s(u - h') h'$, with a fourth gate u.
    - `sru`: $r, f, g, x' = N(x W)$, $c' = s(f + v_f c) c + (1 - s(f + v_f c)) g$,
      $h' = s(r + v_r c) c' + (1 - s(r + v_r c)) x'$.
    - `sru_carry`: $r, f, g, x' = x W$ with a bias on $x'$, $c' = N(s(N(f)) c + (1 - s(N(f))) g)$
      without a bias and within the clip, $h' = s(N(r)) \tanh(c') + (1 - s(N(r))) x'$.
    - `gru_twice`: $X = N(x W) + b_x$, $H = N(h U) + b_h$, $n = \tanh(N(X_n + s(X_r + H_r) H_n))$,
      $h' = n + s(X_z + H_z) (h - n)$.
    - `hyper_lstm`: a small LSTM sees $[x; h]$; of its output e come, for each gate k of the large
      one, $a_k = (e Z_k + z_k) A_k$ for x, the like for h, and $b_k = e Z'_k B_k + d_k$. Its gates
      are $N(a^x_k (x W_k) + a^h_k (h U_k) + b_k)$.
    - `double_projection`: an LSTM with the gates $N(([x; h] P) W_k)$ and $h' = o \tanh(N(c')) Q$.

    The gates of these LSTMs are normed one by one, $\beta$ is added to f, c' is carried raw and
    $h' = o \tanh(N(c'))$.

    Args:
        cell: one of those.
        norm: `"layer"`, or `"rms"`, which has no biases; a block_gru has that.
        epsilon: added to the mean of squares.
        activation: phi of a block_gru, `"silu"` or `"gelu"` (with tanh).
        update_bias: beta of a block_gru.
        forget_bias: beta of the LSTMs.
        cell_clip: bound on c' of an sru_carry; None for none.
        hyper_bias: whether the small LSTM has a bias inside its norms.

    Raises:
        ValueError: a value out of range.

    Example:
        >>> Relative(cell="hyper_lstm", epsilon=1e-3).states
        ('h', 'c', 'hyper_h', 'hyper_c')
    """

    cell: RelativeCell
    norm: Literal["layer", "rms"] = "layer"
    epsilon: float = 1e-5
    activation: SmoothActivation = "silu"
    update_bias: float = 0.0
    forget_bias: float = 0.0
    cell_clip: float | None = None
    hyper_bias: bool = False
    # made here, as no compiler traces their checks: a variant with this norm, for what normalises,
    # and the LSTMs inside
    statistics: Variant = field(init=False, repr=False, compare=False)
    lstm: Variant = field(init=False, repr=False, compare=False)
    small_lstm: Variant = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        allowed = {
            "cell": get_args(RelativeCell),
            "norm": ("rms",) if self.cell == "block_gru" else ("layer", "rms"),
            "activation": get_args(SmoothActivation),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name} is one of {', '.join(map(repr, values))}; got "
                    f"{getattr(self, name)!r}: use one of them."
                )
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon is 0 or more; got {self.epsilon}: use for example 1e-5.")
        if self.cell_clip is not None and not self.cell_clip > 0:
            raise ValueError(f"cell_clip is a positive bound; got {self.cell_clip}: use None.")
        norm = Variant(cell="simple", norm=self.norm, epsilon=self.epsilon)
        object.__setattr__(self, "statistics", norm)
        biased = self.norm == "layer"
        lstm = Variant(
            cell="lstm",
            norm=self.norm,
            norms=tuple(Norm("sum", gate, bias=biased) for gate in "ifgo"),
            cell_norm="output",
            cell_norm_bias=biased,
            epsilon=self.epsilon,
            forget_bias=self.forget_bias,
            projection=self.cell == "double_projection",
        )
        object.__setattr__(self, "lstm", lstm)
        object.__setattr__(self, "small_lstm", lstm.replace(bias_h=self.hyper_bias))

    @property
    def states(self) -> tuple[str, ...]:
        """The states that a step carries; the first is h, which is the output."""
        return _STATES.get(self.cell, ("h",))

    @property
    def gates(self) -> str:
        """The gates that stand side by side in the weights, in this order."""
        return _GATES.get(self.cell, self.lstm.gates)


DREAMER = Relative(cell="block_gru", norm="rms", epsilon=1e-4, update_bias=-1.0)
