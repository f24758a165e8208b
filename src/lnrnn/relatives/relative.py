"""What a relative computes: a cell outside of `Variant`, as a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from lnrnn.variant import Variant

RelativeCell = Literal["block_gru", "atr", "lrn", "olrn", "sru"]
SmoothActivation = Literal["silu", "gelu"]


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

    Args:
        cell: one of those.
        norm: `"layer"` or `"rms"`.
        epsilon: added to the mean of squares.
        activation: phi of a block_gru, `"silu"` or `"gelu"` (with tanh).
        update_bias: beta of a block_gru.

    Raises:
        ValueError: a value out of range.

    Example:
        >>> Relative(cell="lrn", epsilon=1e-8).states
        ('h',)
    """

    cell: RelativeCell
    norm: Literal["layer", "rms"] = "layer"
    epsilon: float = 1e-5
    activation: SmoothActivation = "silu"
    update_bias: float = 0.0
    # a variant with this norm, for what normalises; made here, as no compiler traces its checks
    statistics: Variant = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        allowed = {
            "cell": get_args(RelativeCell),
            "norm": ("layer", "rms"),
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
        norm = Variant(cell="simple", norm=self.norm, epsilon=self.epsilon)
        object.__setattr__(self, "statistics", norm)

    @property
    def states(self) -> tuple[str, ...]:
        """The states that a step carries: h, and c of an sru."""
        return ("h", "c") if self.cell == "sru" else ("h",)


DREAMER = Relative(cell="block_gru", norm="rms", epsilon=1e-4, update_bias=-1.0)
