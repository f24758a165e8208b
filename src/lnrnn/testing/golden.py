"""Runs golden files: inputs, weights, results and gradients that an original program gave.

`python -m lnrnn.testing.golden DIR... [--engine reference|portable|native|triton]
[--frontend keras|torch|jax|nnx|torch-op|jax-op|tensorflow-op] [--dtype bfloat16|float16]`

A golden file is a pair `<name>.npz`, `<name>.json`.  The arrays are time-major:
`x` (T,B,I), `y` (T,B,R), `h0`, `c0`, `hT`, `cT`, the loss weights `Gy`, `Gh`, `Gc` of
`loss = sum(y Gy) + sum(hT Gh) + sum(cT Gc)`, the weights `w/<original name>`, and the
gradients `g/x`, `g/h0`, `g/c0`, `g/w/<original name>`.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lnrnn.dialects import DIALECTS, Dialect
from lnrnn.engines.fused import call as fused
from lnrnn.relatives import RELATIVES, Published, Relative
from lnrnn.relatives.weights import sizes_of
from lnrnn.testing import adapters
from lnrnn.testing.adapters import Adapter, Pass, Unsupported
from lnrnn.testing.tolerances import SMALLEST_SCALE, TOLERANCES
from lnrnn.variant import Variant

Array = np.ndarray

# A dialect run under other conditions has a name of its own in the files.
_CONDITIONS = (
    "_mask",
    "_lengths",
    "_zoneout_eval",
    "_zoneout_train",
    "_done",
    "_padding",
    "_seqlen",
)

_DTYPES = {"f32": "float32", "f64": "float64"}
_PLAIN_ARRAYS = {"x", "y", "h0", "c0", "hT", "cT", "Gy", "Gh", "Gc", "loss"}
_CONDITION_ARRAYS = {"mask", "padding", "done", "zoneout_mask", "c_all"}
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def _number(value: Any) -> Any:
    return float(value)


def _bound(value: Any) -> Any:
    return float(value) or None


def _activation(value: Any) -> Any:
    # the files are of Keras 2, whose hard sigmoid is not that of Keras 3
    return "keras2_hard_sigmoid" if value == "hard_sigmoid" else value


def _output(value: Any) -> Any:
    return "tanh" if value else "linear"


# The original's option: the field of Variant, and its value from the option's.
_OPTIONS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "eps": ("epsilon", _number),
    "norm_epsilon": ("epsilon", _number),
    "layernorm_epsilon": ("epsilon", _number),
    "forget_bias": ("forget_bias", _number),
    "forget_gate_bias": ("forget_bias", _number),
    "update_bias": ("update_bias", _number),
    "cell_clip": ("cell_clip", _bound),
    "cell_clip_value": ("cell_clip", _bound),
    "cell_value_cap": ("cell_clip", _bound),
    "hidden_clip_value": ("hidden_clip", _bound),
    "proj_clip": ("projection_clip", _bound),
    "nonlinearity": ("activation", _activation),
    "recurrent_activation": ("recurrent_activation", _activation),
    "output_nonlinearity": ("output_activation", _output),
}


@dataclass(frozen=True)
class Golden:
    """One golden file, as read.

    Args:
        name: the file's name without its ending.
        dialect: the published form.
        config: the options of the original's run.
        dtype: what it is computed in: the file's own is `"float32"` or `"float64"`.
        arrays: everything in the `.npz`, by name.
    """

    name: str
    dialect: Dialect | Published
    config: Mapping[str, Any]
    dtype: str
    arrays: Mapping[str, Array]

    def under(self, prefix: str) -> dict[str, Array]:
        """The arrays whose names start with a prefix, without it."""
        return {n.removeprefix(prefix): a for n, a in self.arrays.items() if n.startswith(prefix)}

    @property
    def variant(self) -> Variant | Relative:
        """The dialect's variant, or a relative, with the options of this run."""
        own = self.dialect.variant
        if isinstance(own, Relative):
            return own
        changes = {}
        for option, value in self.config.items():
            if option not in _OPTIONS or value is None:
                continue
            field, read = _OPTIONS[option]
            # where no constant is added, the option of that name is an initial value
            if option == "forget_bias" and not own.forget_bias:
                continue
            changes[field] = read(value)
        return own.replace(**changes)

    def passes(self) -> tuple[Pass, ...]:
        """The runs that make up the file: the first gives y, the last the final states."""
        get = self.arrays.get
        options: dict[str, Any] = {}
        mask = self._mask()
        if mask is not None:
            options |= {"mask": mask, "masked_output": self.dialect.masked_output}
        if "done" in self.arrays:
            options["reset"] = self.arrays["done"].astype(bool)
        options |= self._zoneout()
        whole = Pass(
            x=self.arrays["x"],
            h0=get("h0"),
            c0=get("c0"),
            options=options,
            dy=get("Gy"),
            dh=get("Gh"),
            dc=get("Gc"),
            dtype=self.dtype,
        )
        lengths = self.config.get("lengths")
        if lengths is None:
            return (whole,)
        # the outputs run on past the end; only the states are those at the length
        running = whole._replace(dh=None, dc=None)
        ending = whole._replace(
            dy=None, options=options | {"mask": self._valid(lengths), "masked_output": "hold"}
        )
        return running, ending

    def _mask(self) -> Array | None:
        if "mask" in self.arrays:
            return self.arrays["mask"].astype(bool)
        if "padding" in self.arrays:
            return self.arrays["padding"] == 0
        lengths = self.config.get("sequence_length")
        return None if lengths is None else self._valid(lengths)

    def _valid(self, lengths: Sequence[int]) -> Array:
        steps = self.arrays["x"].shape[0]
        return np.arange(steps)[:, None] < np.asarray(lengths)[None, :]

    def _zoneout(self) -> dict[str, Any]:
        rate = self.config.get("zoneout") or self.config.get("zo_prob") or 0.0
        if not rate:
            return {}
        if isinstance(self.dialect, Published) or not self.dialect.zoneout:
            raise ValueError(f"{self.dialect.name!r} has no zoneout, but the file has {rate}")
        if "zoneout_mask" in self.arrays:
            return {"take_h": self.arrays["zoneout_mask"]}
        return {f"take_{state}": 1.0 - rate for state in self.dialect.zoneout}


@dataclass(frozen=True)
class Report:
    """What became of some golden files: names that passed, failures, and what was not run.

    Args:
        passed: names of files.
        failed: name to what was wrong, in one line.
        skipped: name to why the engine or front end does not compute the file.
    """

    passed: tuple[str, ...]
    failed: Mapping[str, str]
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"FAILED {name}: {why}" for name, why in self.failed.items()]
        files: dict[str, list[str]] = {}
        for name, why in self.skipped.items():
            files.setdefault(why, []).append(name)
        lines += [f"skipped, {why}: {', '.join(names)}" for why, names in files.items()]
        return "\n".join([*lines, self.summary])

    @property
    def summary(self) -> str:
        """The counts, in one line."""
        return f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"


def find(directories: Iterable[Path]) -> list[Path]:
    """The golden files under some directories, as paths without ending."""
    found: set[Path] = set()
    for directory in directories:
        found |= {path.with_suffix("") for path in directory.rglob("*.npz")}
        found |= {path.with_suffix("") for path in directory.rglob("*__*.json")}
    return sorted(found)


def base_name(name: str) -> str:
    """The dialect's name in the name of a run: `tfa_lnlstm` of `tfa_lnlstm_mask`."""
    if name in DIALECTS or name in RELATIVES:
        return name
    for condition in _CONDITIONS:
        base = name.removesuffix(condition)
        if base in DIALECTS or base in RELATIVES:
            return base
    return name


def read(path: Path) -> Golden | None:
    """Read a golden file; None where its cell is a relative, which no variant spans.

    Args:
        path: the path without ending.

    Raises:
        ValueError: a file is missing or damaged, or lacks what a golden file has.
    """
    found = _read(path)
    return None if isinstance(found.variant, Relative) else found


def _read(path: Path) -> Golden:
    try:
        about = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
        name, config, dtype = about["dialect"], about["config"], _DTYPES[about["dtype"]]
    except _UNREADABLE as error:
        raise ValueError(f"cannot read the .json: {_one_line(error)}") from error
    name = base_name(name)
    if name not in RELATIVES and name not in DIALECTS:
        raise ValueError(f"no dialect is named {name!r}")
    try:
        with np.load(path.with_name(path.name + ".npz"), allow_pickle=False) as file:
            arrays = {n: file[n] for n in file.files}
    except _UNREADABLE as error:
        raise ValueError(f"cannot read the .npz: {_one_line(error)}") from error
    dialect = RELATIVES[name] if name in RELATIVES else DIALECTS[name]
    golden = Golden(path.name, dialect, config, dtype, arrays)
    _check_complete(golden)
    return _without_padding(golden)


def compare(golden: Golden, adapter: Adapter) -> str | None:
    """Run a golden file; None where every array agrees, else the worst one and its error.

    Args:
        golden: the file.
        adapter: what runs a variant, from [lnrnn.testing.adapters][].
    """
    weights = golden.under("w/")
    params = golden.dialect.to_canonical(weights)
    passes = golden.passes()
    runs = [adapter(golden.variant, params, one) for one in passes]
    actual: dict[str, Any] = {"y": runs[0].y, "hT": runs[-1].h, "cT": runs[-1].c}
    scales: dict[str, float] = {}
    if "loss" in golden.arrays:
        terms = [
            value * golden.arrays[weight]
            for value, weight in ((runs[0].y, "Gy"), (runs[-1].h, "Gh"), (runs[-1].c, "Gc"))
            if value is not None and weight in golden.arrays
        ]
        actual["loss"] = np.array(sum(term.sum() for term in terms))
        scales["loss"] = sum(float(np.abs(term).sum()) for term in terms)
    if "g/x" in golden.arrays:
        totals = [run.gradients for run in runs if run.gradients is not None]
        summed = {n: sum(total[n] for total in totals) for n in totals[0]}
        actual |= {f"g/{n}": summed.pop(n) for n in ("x", "h0", "c0") if n in summed}
        scope = golden.dialect.scope_of(weights)
        original = golden.dialect.gradients(summed, scope)
        actual |= {f"g/w/{n}": gradient for n, gradient in original.items()}
    worst, message = 1.0, None
    for name, value in actual.items():
        if name not in golden.arrays:
            continue
        bound = getattr(TOLERANCES[golden.dtype], "gradients" if name[:2] == "g/" else "values")
        error = _error(value, golden.arrays[name], scales.get(name, 0.0))
        if not error / bound <= worst:  # a NaN is worse than anything
            worst = np.inf if np.isnan(error) else error / bound
            message = f"{name} has a relative error of {error:.2e}, above {bound:.0e}"
    return message


def run(paths: Iterable[Path], adapter: Adapter, dtype: str | None = None) -> Report:
    """Run golden files.

    Args:
        paths: the files, as `find` gives them.
        adapter: what runs a variant, from [lnrnn.testing.adapters][].
        dtype: what to compute in, with its tolerances, in place of the file's own.
    """
    passed: list[str] = []
    failed: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for path in paths:
        try:
            golden = _read(path)
            why = compare(golden if dtype is None else replace(golden, dtype=dtype), adapter)
        except ValueError as error:
            failed[path.name] = _one_line(error)
        except Unsupported as reason:
            skipped[path.name] = f"not computed here ({reason})"
        else:
            if why is None:
                passed.append(path.name)
            else:
                failed[path.name] = why
    return Report(tuple(passed), failed, skipped)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: prints the report; 0 if all passed, 1 if not, 2 if nothing could run."""
    parser = argparse.ArgumentParser(
        prog="python -m lnrnn.testing.golden", description="Run golden files."
    )
    parser.add_argument("directories", metavar="DIR", nargs="+", type=Path)
    parser.add_argument("--engine", choices=adapters.ENGINES)
    parser.add_argument("--frontend", choices=adapters.FRONTENDS)
    parser.add_argument("--dtype", choices=fused.HALVES)
    given = parser.parse_args(arguments)
    missing = [str(d) for d in given.directories if not d.is_dir()]
    if missing:
        print(f"No such directory: {', '.join(missing)}.", file=sys.stderr)
        return 2
    paths = find(given.directories)
    if not paths:
        where = ", ".join(map(str, given.directories))
        print(f"There are no golden files (.npz with .json) under {where}.", file=sys.stderr)
        return 2
    operators = given.frontend in adapters.OPERATORS or (given.engine and not given.frontend)
    if given.dtype and (not operators or given.engine == "reference"):
        parser.error("--dtype is for an engine on tensors: --engine native --frontend torch-op.")
    try:
        adapter = adapters.choose(given.engine, given.frontend)
    except ValueError as error:
        parser.error(str(error))
    report = run(paths, adapter, given.dtype)
    print(report)
    return 1 if report.failed else 0


def _without_padding(golden: Golden) -> Golden:
    """The file of a relative with outputs as wide as h: some have zeros for the other states."""
    relative, arrays = golden.variant, dict(golden.arrays)
    if not isinstance(relative, Relative):
        return golden
    width = sizes_of(relative, golden.dialect.to_canonical(golden.under("w/"))).hidden
    if "y" in arrays and arrays["y"][..., width:].any():
        raise ValueError(f"the outputs of {golden.dialect.name!r} are {width} wide")
    arrays |= {name: arrays[name][..., :width] for name in ("y", "Gy") if name in arrays}
    return replace(golden, arrays=arrays)


def _check_complete(golden: Golden) -> None:
    arrays = golden.arrays
    weights, gradients = golden.under("w/"), golden.under("g/w/")
    if "x" not in arrays or not weights:
        raise ValueError("the .npz has no x or no weights w/...")
    if "y" not in arrays and "hT" not in arrays:
        raise ValueError("the .npz has neither outputs y nor final states hT")
    if gradients and "Gy" not in arrays:
        raise ValueError("the .npz has gradients but no loss weights Gy")
    if "Gy" in arrays and (set(gradients) != set(weights) or "g/x" not in arrays):
        lacking = sorted(set(weights) ^ set(gradients)) or ["x"]
        raise ValueError(f"the .npz has no gradient, or no weight, of {', '.join(lacking)}")
    known = _PLAIN_ARRAYS | _CONDITION_ARRAYS
    stray = sorted(n for n in arrays if n not in known and not n.startswith(("w/", "g/")))
    if stray:
        raise ValueError(f"the .npz has unknown arrays {', '.join(stray)}")


def _error(actual: Any, expected: Array, scale: float = 0.0) -> float:
    """The largest error relative to the scale of the array; infinite if shapes differ."""
    if actual is None or np.shape(actual) != expected.shape:
        return np.inf
    if expected.size == 0:
        return 0.0
    wanted = expected.astype(np.float64)
    scale = max(float(np.abs(wanted).max()), scale, SMALLEST_SCALE)
    return float(np.abs(np.asarray(actual, np.float64) - wanted).max()) / scale


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
