"""The kernels on JAX: what the primitives of [lnrnn.engines.fused.jax_op][] have to know of them.

Products and sums are JAX's operations, which XLA fuses with what is around them; each kernel is one
operation, see [lnrnn.engines.triton.jax_launch][].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lnrnn.engines import counting
from lnrnn.engines.fused import call as fused
from lnrnn.engines.fused import definition
from lnrnn.engines.fused.call import Inputs, Numbers
from lnrnn.engines.fused.jax_op import AXES, Arrays, axes_of, bind, sharded, varying, widened
from lnrnn.engines.portable import ops_jax as ops
from lnrnn.engines.triton import (
    answers,
    arrays,
    choose,
    describe,
    device,
    jax_check,
    jax_launch,
    memory,
    parallel,
    prepare,
    rows,
    split,
    tile,
)
from lnrnn.engines.triton.arrays import Kept
from lnrnn.engines.triton.cell import INTERPRETED, constants
from lnrnn.engines.triton.choose import Kind, Tile
from lnrnn.engines.triton.describe import Cell
from lnrnn.engines.triton.device import Device
from lnrnn.engines.triton.jax_launch import launch
from lnrnn.variant import Variant

# the axes of what a forward pass keeps: time and one n, rows of U k and all else as in `Kept`
_AXES = AXES | {
    "h_all": "nbk",
    "c_all": "nbk",
    "gates": "tbgk",
    "normed": "tbgk",
    "gated": "tbk",
    "statistics": "tsb",
    "projected": "tbgk",
    "of_inputs": "atb",
    "u": "lgk",
    "w": "igk",
    "vectors": "vk",
}
_LIKE_X = ("x", "h", "h_all", "gates", "normed", "gated", "projected", "u", "w")
# of `Kept`, by their names as parameters of kernels
_KEPT = {"H_ALL": "h_all", "C_ALL": "c_all", "N": "normed", "A": "gated", "S": "statistics"}
_EXTRAS = (
    "mask", "reset", "reset_h", "reset_c", "take_h", "take_c", "recurrent_mask", "candidate_mask",
)  # fmt: skip
_PARAMETERS = dict(recurrent_mask="FACTOR_H", candidate_mask="FACTOR_N")
_TF32 = (None, "default", "high", "tensorfloat32", "TF32_TF32_F32", "fastest")


class How(NamedTuple):
    """What is static of a call.

    Args:
        words: the cell as [lnrnn.engines.triton.describe.encode][] has it.
        numbers: its scalars.
        names: which inputs are there.
        units: H.
        moving: whether the dropout masks of h and of the candidate differ from step to step.
        kind: of products.
        device: for which kernels are chosen and compiled.
    """

    words: tuple[float, ...]
    numbers: Numbers
    names: tuple[str, ...]
    units: int
    moving: tuple[bool, bool]
    kind: Kind
    device: Device

    @property
    def platforms(self) -> tuple[str, ...]:
        return ("cpu",) if INTERPRETED else ("cuda",)

    @property
    def variant(self) -> Variant:
        return describe.decode(self.words)

    @property
    def cell(self) -> Cell:
        n, names = self.numbers, self.names
        return describe.describe(
            self.variant,
            self.units,
            "bias_h" in names,
            n.clip,
            1.0 if "take_h" in names else n.take_h,
            1.0 if "take_c" in names else n.take_c,
            *self.moving,
            INTERPRETED,
        )

    @property
    def results(self) -> tuple[str, ...]:
        return ("h", "h_last", "c_last") if self.cell.lstm else ("h", "h_last")

    @property
    def kept(self) -> tuple[str, ...]:
        found = arrays.shapes(self.cell, arrays.Sizes(1, 1, 1), not self.kind.single)
        return tuple(n for n, shape in found._asdict().items() if np.prod(shape))

    @property
    def differentiable(self) -> tuple[str, ...]:
        return tuple(n for n in self.names if n in fused.DIFFERENTIABLE)

    @property
    def needs_dx(self) -> bool:
        return False

    def axes(self, name: str, rank: int | None = None) -> str:
        """Of an array of this name, and of this rank where it may have one of two."""
        return axes_of(_AXES, name, rank, self.cell.diagonal)

    def inputs(self, given: Arrays) -> Inputs:
        return fused.inputs_of(Inputs, self.names, given)

    def lengths(self, given: Arrays) -> dict[str, int]:
        c = self.cell
        steps, batch, inputs = self.inputs(given).x.shape
        h, k = c.units, c.pitch
        return dict(
            t=steps, n=steps + 1, b=batch, i=inputs, h=h, r=h, w=c.gates * h, g=c.gates, k=k, l=k,
            p=(c.gates - 1) * h, s=c.statistics, a=2 * c.x_norms, v=5 * c.gates + 8,
        )  # fmt: skip

    def like(self, given: Arrays, name: str) -> jax.Array:
        a = self.inputs(given)
        return a.x if name.removeprefix("d") in _LIKE_X else a.kernel

    def loops(self, batch: int) -> tuple[choose.Loop, choose.Loop]:
        """Of both passes."""
        on = self.device
        return choose.loops(self.cell, self.kind, batch, on.processors, on.shared)

    def define(self, given: Arrays) -> tuple[jax.Array, ...]:
        return definition.recurrence(ops, self.variant, self.numbers, self.inputs(given))

    def call(
        self, which: str, names: tuple[str, ...], results: tuple[str, ...]
    ) -> Callable[..., tuple[jax.Array, ...]]:
        return _call(which, self, names, results)


def recurrence(
    variant: Variant, numbers: Numbers, inputs: Inputs, gates: str = "", named: bool = False
) -> tuple[Any, ...]:
    """All h (T, B, H), the last h and, of an lstm, the last c.

    Where the self-check refuses the kernels the portable definition computes, with a warning, or it
    is an error if the engine was named.
    """
    given = {n: a for n, a in inputs._asdict().items() if a is not None}
    dtype = inputs.x.dtype
    half = dtype.name in fused.HALVES
    if half:
        given = {n: widened(a) if n != "x" else a for n, a in given.items()}
    given = varying(given)
    factors = (given.get("recurrent_mask"), given.get("candidate_mask"))
    how = How(
        _encoded(variant),
        numbers,
        tuple(given),
        inputs.kernel.shape[1] // len(variant.gates),
        tuple(f is not None and f.ndim == 3 for f in factors),  # pyright: ignore
        choose.kind(dtype.name, jax.config.jax_default_matmul_precision in _TF32),  # pyright: ignore
        device.first(),  # pyright: ignore[reportArgumentType]
    )
    all_given = list(given.values())
    fused.check(how.cell, how.inputs(all_given), np.dtype(bool), np.dtype(np.float32))
    if answers.accepted(jax_check.refusal(how, all_given), named):
        h, *final = bind(how, given)
    else:
        h, *final = how.define(all_given)
    return h, *(s.astype(dtype) if half else s for s in final)


_encoded = cache(describe.encode)


# ---- the passes


@cache
def _call(
    which: str, how: How, names: tuple[str, ...], results: tuple[str, ...]
) -> Callable[..., tuple[jax.Array, ...]]:
    """A pass on arrays of these names; a sharded batch stays where it is."""

    def local(*given: jax.Array) -> tuple[jax.Array, ...]:
        counting.count("jax", "triton", backward=which == "backward")
        a = dict(zip(names, map(_of_one_device, given), strict=True))
        run = _Pass(how, how.inputs([a[n] for n in how.names]))
        if which == "forward":
            found = run.forward(keep=len(results) > len(how.results))
        else:
            found = run.backward(a)
        return tuple(found[n] for n in results)

    return sharded(how, names, results, local)


Places = dict[str, jax.Array]


def _shape(a: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(a.shape, a.dtype)


def _of_one_device(a: jax.Array) -> jax.Array:
    """An array whose type does not say how it is divided, as the parts of a pass are."""
    sharding = jax.typeof(a).sharding
    if all(axes is None for axes in sharding.spec):
        return a
    return jax.sharding.reshard(a, NamedSharding(sharding.mesh, PartitionSpec()))


class _Pass:
    """A pass over one call's arrays."""

    def __init__(self, how: How, a: Inputs) -> None:
        self.how, self.a, self.c = how, a, how.cell
        self.steps, self.batch, self.inputs = a.x.shape
        self.like, self.single = a.x.dtype, a.kernel.dtype

    # ---- shapes and launches

    def _like(self, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, self.like)

    def _single(self, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, self.single)

    def _state(self) -> jax.ShapeDtypeStruct:
        return self._single(self.batch, self.c.units)

    def _shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of what is kept, by name."""
        sizes = arrays.Sizes(self.steps, self.batch, self.inputs)
        found = arrays.shapes(self.c, sizes, not self.how.kind.single)
        return {
            n: self._single(*s) if n in arrays.OF_SINGLE else self._like(*s)
            for n, s in found._asdict().items()
        }

    def _launch(
        self, kernel: Any, grid: tuple[int, ...], tiles: Tile, given: Mapping[str, Any],
        made: Mapping[str, Any], over: Mapping[str, str] | None = None, **known: Any,
    ) -> dict[str, jax.Array]:  # fmt: skip
        known = dict(C=constants(self.c), M=tiles.rows) | known
        how = jax_launch.How(grid, known, tiles.warps)
        return launch(kernel, how, self._capability, given, made, over)

    @property
    def _capability(self) -> int:
        return 10 * self.how.device.major + self.how.device.minor

    def _programs(self, of_program: int, rows: int) -> tuple[int]:
        return (-(-rows // of_program),)

    # ---- forward

    def forward(self, keep: bool) -> dict[str, jax.Array]:
        """The results, and where asked what a backward pass takes."""
        c, a = self.c, self.a
        shapes, count = self._shapes(), self.steps * self.batch
        made = self._weights(shapes)
        x = a.x.reshape(count, self.inputs)
        projected = x @ self._w(made.get("W"))
        if "BIAS" in made:
            projected += made["BIAS"].reshape(-1)
        p, of_inputs = projected, None
        if c.norms_inputs:
            tiles = choose.parallel(c)
            found = self._launch(
                parallel.inputs, self._programs(tiles.rows, count), tiles,
                dict(X=projected, VECTORS=made["VECTORS"], R=count),
                dict(P=self._like(*projected.shape), S=self._single(2 * c.x_norms, count)),
            )  # fmt: skip
            p, of_inputs = found["P"], found.get("S")
        p = p.reshape(shapes["gates"].shape)
        given = dict(
            P=p,
            U=made.get("U", self._like(0)),
            VECTORS=made["VECTORS"],
            H0=a.h0,
            C0=a.c0,
            **self._extras(),
        )
        kept = {n: shapes[of] for n, of in _KEPT.items()}
        wanted = dict(
            H_LAST=self._state(),
            C_LAST=self._state() if c.lstm else self._single(0),
            OUT=self._like(self.steps, self.batch, c.units),
        )
        if keep:
            found = self._loop(False, given, wanted | kept | dict(P=shapes["gates"]), SAVE=True)
        else:
            found = self._loop(False, given | kept, wanted, SAVE=False)
        results = dict(h=found["OUT"], h_last=found["H_LAST"], c_last=found.get("C_LAST"))
        results |= {of: found[n] for n, of in _KEPT.items() if keep and n in found}
        return results | dict(
            gates=found.get("P"),
            projected=projected.reshape(p.shape),
            of_inputs=None if of_inputs is None else of_inputs.reshape(-1, *a.x.shape[:2]),
            u=made.get("PLAIN", made.get("U")),
            w=made.get("W"),
            vectors=made["VECTORS"],
        )  # pyright: ignore

    def _weights(self, shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        """U, PLAIN, W, BIAS and VECTORS, those that there are."""
        c, a = self.c, self.a
        tiles = choose.weights(c)
        shifted = not c.norms_inputs and (a.shift_x is not None or a.shift_h is not None)
        made = dict(VECTORS=shapes["vectors"])
        of_u = 0
        if not c.diagonal:
            of_u = self._programs(tiles.rows, c.pitch)[0]
            made["U"] = self._like(*shapes["u"].shape[1:])
        if c.plain_u:
            made["PLAIN"] = made["U"]
        of_w = 0
        if np.prod(shapes["w"].shape):
            of_w = self._programs(tiles.rows, self.inputs)[0]
            made["W"] = shapes["w"]
        if a.bias_x is not None or shifted:
            made["BIAS"] = self._like(c.gates, c.pitch)
        vectors = (
            "bias_x", "bias_h", "gain_x", "shift_x", "gain_h", "shift_h", "gain_sum", "shift_sum",
            "gain_c", "shift_c", "gain_hidden", "shift_hidden", "peephole",
        )  # fmt: skip
        given = {n.upper(): getattr(a, n) for n in vectors}
        wide = c.gates * c.units
        return self._launch(
            prepare.weights, (of_u + of_w + 1,), tiles,
            dict(RECURRENT=a.recurrent, KERNEL=a.kernel, rows_of_w=self.inputs, of_u=of_u, **given),
            made, u_row=0 if c.diagonal else wide, u_column=1, w_row=wide, w_column=1,
        )  # fmt: skip

    def _w(self, w: jax.Array | None) -> jax.Array:
        """W (I, G K) as the product takes it."""
        return self.a.kernel if w is None else w.reshape(self.inputs, -1)

    def _filled(self, t: jax.Array | None) -> jax.Array | None:
        """(..., H) to (..., K)."""
        more = self.c.pitch - self.c.units
        return t if t is None or more == 0 else jnp.pad(t, [(0, 0)] * (t.ndim - 1) + [(0, more)])

    def _extras(self) -> dict[str, jax.Array | None]:
        """What a step may take besides, by the names of parameters."""
        found = {}
        for name in _EXTRAS:
            array = getattr(self.a, name)
            filled = name.startswith(("take", "recurrent_mask", "candidate_mask"))
            found[_PARAMETERS.get(name, name.upper())] = self._filled(array) if filled else array
        return found

    # ---- the loop over time, of either pass

    def _loop(
        self, back: bool, given: Mapping[str, Any], made: dict[str, Any], **known: Any
    ) -> dict[str, jax.Array]:
        c, how = self.c, self.how
        given = dict(given, T=self.steps, B=self.batch)
        known |= memory.products(how.kind)
        kernel, options = how.loops(self.batch)[back]
        if kernel == "tile":
            grid = self._programs(options.rows, self.batch)
            made |= self._sums(back, grid[0])
            run = tile.backward if back else tile.forward
            return self._launch(run, grid, options, given, made, **known)
        if kernel == "rows":
            run = self._rows_backward if back else self._rows_forward
            return run(options, given, made, known)
        programs = self._programs(options.rows, self.batch)[0]
        whole = describe.divided(c, options.own, choose.POLLS)
        words = choose.words(whole, options, how.kind, programs, back)
        # words start as zero; JAX has no integers of 64 bits by default
        shared = {"DQ" if back else "HS": 2 * words.tiles, "WORDS": 2 * words.rows}
        given |= {n: jnp.zeros(count, jnp.int32) for n, count in shared.items()} | dict(first=0)
        made |= {n: jax.ShapeDtypeStruct((count,), jnp.int32) for n, count in shared.items()}
        made |= self._sums(back, programs)
        known |= choose.constants_of_split(whole, options, how.kind) | dict(C=constants(whole))
        launched = jax_launch.How((whole.programs, programs), known, options.warps, at_once=True)
        run = split.backward if back else split.forward
        return launch(run, launched, self._capability, given, made)

    def _rows_forward(
        self, tiles: Tile, given: dict[str, Any], made: dict[str, Any], known: dict[str, Any]
    ) -> dict[str, jax.Array]:
        """By the row kernels: at each step a product, and a kernel that is told the step."""
        c = self.c
        grid, save = self._programs(tiles.rows, self.batch), known["SAVE"]
        u = given["U"].reshape(c.pitch, -1)
        early = c.early * c.pitch
        places = {n: jnp.zeros(s.shape, s.dtype) for n, s in made.items() if n not in given}
        places |= {n: given[n] for n in made if n in given}
        begin = dict(given, **places)
        if c.reset == "before":  # its first part leaves the gates for the second
            places["P"] = given["P"]
        begun = ("H_LAST", "C_LAST", *(("H_ALL", "C_ALL") if save else ()))
        first = {n: made[n] for n in begun} | dict(INTO=self._like(self.batch, c.pitch))
        places |= self._launch(rows.begin, grid, tiles, begin, first, SAVE=save)
        if c.reset == "before":
            places["GATED_INTO"] = jnp.zeros_like(places["INTO"])

        def step(t: jax.Array, product: jax.Array, places: Places, part: str) -> Places:
            return places | self._launch(
                rows.forward_at, grid, tiles, given | places | dict(AT=t, PRODUCT=product),
                {n: _shape(p) for n, p in places.items()}, SAVE=save, PART=part,
            )  # fmt: skip

        def steps(t: jax.Array, places: Places) -> Places:
            product = self._product(places["INTO"], u[:, :early])
            if c.reset != "before":
                return step(t, product, places, "all")
            places = step(t, product, places, "early")
            return step(t, self._product(places["GATED_INTO"], u[:, early:]), places, "late")

        return jax.lax.fori_loop(0, self.steps, steps, places)

    def _rows_backward(
        self, tiles: Tile, given: dict[str, Any], made: dict[str, Any], known: dict[str, Any]
    ) -> dict[str, jax.Array]:
        """Back likewise."""
        c = self.c
        grid = self._programs(tiles.rows, self.batch)
        ut = given["U"].reshape(c.pitch, -1).T
        early = c.early * c.pitch
        rows_of = self._single(self.batch, c.pitch)
        made = made | self._sums(True, grid[0])
        made |= dict(DIRECT=rows_of, HELD=rows_of, PRODUCT=rows_of)
        made["DS"] = self._like(self.batch, early)
        made["DS_N"] = self._like(self.batch, c.pitch)
        dh = made.pop("DH")
        places = {n: jnp.zeros(s.shape, s.dtype) for n, s in made.items()}

        def step(t: jax.Array, places: Places, ds: str, part: str) -> Places:
            of = {n: p for n, p in places.items() if n not in ("PRODUCT", "DS", "DS_N")}
            found = self._launch(
                rows.backward_at, grid, tiles,
                given | of | dict(AT=t, PRODUCT=places["PRODUCT"], DS=places[ds]),
                {n: _shape(p) for n, p in of.items()} | dict(DS=made[ds]), PART=part,
            )  # fmt: skip
            return places | found | {ds: found["DS"]} | ({} if ds == "DS" else {"DS": places["DS"]})

        def steps(i: jax.Array, places: Places) -> Places:
            t = self.steps - 1 - i
            if c.reset == "before":
                places = step(t, places, "DS_N", "late")
                places["PRODUCT"] = self._product(places["DS_N"], ut[early:])
                places = step(t, places, "DS", "early")
            else:
                places = step(t, places, "DS", "all")
            return places | dict(PRODUCT=self._product(places["DS"], ut[:early]))

        places = jax.lax.fori_loop(0, self.steps, steps, places)
        made = dict(DH=dh) | {n: made[n] for n in ("DRESET_H",) if n in made}
        return places | self._launch(rows.end, grid, tiles, given | places, made)

    def _sums(self, back: bool, programs: int) -> dict[str, jax.ShapeDtypeStruct]:
        return dict(SUMS=self._single(programs, self.c.sums, self.c.pitch)) if back else {}

    # ---- backward

    def backward(self, of: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The gradients by name, from what a forward pass has kept and the incoming gradients."""
        c, a = self.c, self.a
        shapes = self._shapes()
        kept = Kept(*(of.get(n, shapes[n]) for n in Kept._fields))
        states = {n: getattr(a, n) for n in ("h0", "c0", "reset_h", "reset_c")}
        made = {
            f"D{n.upper().removesuffix('0')}": self._state()
            for n, s in states.items()
            if s is not None
        }
        found = self._loop(
            True,
            dict(
                GATES=kept.gates, U=kept.u, VECTORS=kept.vectors,
                DH_ALL=of.get("dh"), DH_LAST=of.get("dh_last"), DC_LAST=of.get("dc_last"),
                **{n: getattr(kept, name) for n, name in _KEPT.items()}, **self._extras(),
            ),
            made | dict(D=shapes["gates"]),
        )  # fmt: skip
        gradients = {f"d{n}": found.get(f"D{n.upper().removesuffix('0')}") for n in states}
        names = ("gain_c", "shift_c") if c.cell_norm != "none" else ()
        names += ("gain_hidden", "shift_hidden") if c.hidden_norm else ()
        if "SUMS" in found:
            sums = found["SUMS"].sum(0)
            gradients |= {f"d{n}": self._cut(sums[i]) for i, n in enumerate(names)}
            gradients["dpeephole"] = self._joined(sums[len(names) :])
        return gradients | self._outer_gradients(kept, of, found["D"])

    def _outer_gradients(
        self, kept: Kept, of: dict[str, jax.Array], d: jax.Array
    ) -> dict[str, jax.Array]:
        """From the gradients of the pre-activations all that the recurrence does not need."""
        c, a = self.c, self.a
        count, wide = self.steps * self.batch, c.gates * c.pitch
        tiles = choose.parallel(c)
        loop = choose.rows_of_program(count, tiles.rows)
        grid = self._programs(tiles.rows * loop, count)
        made = dict(DX=self._like(*d.shape), SUMS=self._single(grid[0], 6, c.gates, c.pitch))
        if not c.same:
            made["DS"] = made["DX"]
        found = self._launch(
            parallel.gradients, grid, tiles,
            dict(
                D=d, GATES=kept.gates, N=kept.normed, X=kept.projected, S=kept.statistics,
                SX=kept.of_inputs, VECTORS=kept.vectors, R=count, B=self.batch,
            ),
            made, over=dict(DX="D"), LOOP=loop,
        )  # fmt: skip
        gain_x, shift, gain_r, shift_r, bias_x, bias_h = map(self._joined, found["SUMS"].sum(0))
        gradients = dict(
            dgain_x=gain_x, dshift_x=shift, dgain_h=gain_r, dgain_sum=gain_r, dshift_h=shift_r,
            dshift_sum=shift, dbias_x=bias_x, dbias_h=bias_h,
        )  # fmt: skip
        dx = found["DX"].reshape(count, wide)
        ds = found.get("DS", found["DX"]).reshape(count, wide)
        x = a.x.reshape(count, self.inputs)
        gradients["dx"] = (dx @ self._w(of.get("w")).T).reshape(a.x.shape)
        dw = self._product(x.T, dx)
        gradients["dkernel"] = self._joined(dw.reshape(self.inputs, c.gates, c.pitch))
        h, gated = self._entered(kept)
        if c.diagonal:
            gradients["drecurrent"] = self._cut((h.astype(self.single) * ds).sum(0))
            return gradients
        if gated is None:
            du = self._product(h.T, ds)
        else:
            late = (c.gates - 1) * c.pitch
            parts = (self._product(h.T, ds[:, :late]), self._product(gated.T, ds[:, late:]))
            du = jnp.concatenate(parts, 1)
        gradients["drecurrent"] = self._joined(du[: c.units].reshape(c.units, c.gates, c.pitch))
        return gradients

    def _entered(self, kept: Kept) -> tuple[jax.Array, jax.Array | None]:
        """The h of every step as it entered its product, (T B, K), and r times that or None."""
        c, a = self.c, self.a
        count = self.steps * self.batch
        h_all = kept.h_all[:-1].reshape(count, c.pitch)
        before = c.reset == "before"
        if a.reset is None and a.recurrent_mask is None and not c.hidden_clip and not before:
            return h_all, None
        tiles = choose.parallel(c)
        made = dict(INTO=self._like(count, c.pitch))
        if before:
            made["GATED"] = made["INTO"]
        found = self._launch(
            prepare.entering, self._programs(tiles.rows, count), tiles,
            dict(
                H_ALL=h_all, RESET=a.reset, RESET_H=a.reset_h,
                FACTOR_H=self._filled(a.recurrent_mask), GATES=kept.gates, R=count, B=self.batch,
            ),
            made,
        )  # fmt: skip
        return found["INTO"], found.get("GATED")

    def _product(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """a b in float32."""
        return jnp.matmul(a, b, preferred_element_type=self.single)

    def _cut(self, t: jax.Array) -> jax.Array:
        """(..., K) to (..., H)."""
        return t[..., : self.c.units]

    def _joined(self, t: jax.Array) -> jax.Array:
        """(..., G, K) to (..., G H)."""
        t = self._cut(t)
        return t.reshape(*t.shape[:-2], -1)
