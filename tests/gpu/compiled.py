"""Compile every entry of the kernel table for GPUs that need not be there, and read what came out.

python tests/gpu/compiled.py            compare with the recorded table of this Triton
python tests/gpu/compiled.py --few      the same of the few entries that tests compile
python tests/gpu/compiled.py --record   record it (with --few these entries alone)

Of each entry: registers, bytes that registers spill, bytes of memory on chip, instructions of the
loop over time (of a kernel without one, of its longest loop, or all).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

os.environ.pop("TRITON_INTERPRET", None)

import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lnrnn.engines.triton import choose, memory, parallel, prepare, rows, split, tile
from lnrnn.engines.triton.cell import constants
from lnrnn.engines.triton.describe import Cell, describe, divided
from lnrnn.variant import Norm, Variant

RECORD = Path(__file__).with_name("compiled.json")
TOOLS = Path(nvidia.__file__).parent / "bin"
CHANGE = 0.05

VARIANTS = {
    "lstm": Variant(cell="lstm", norms=(Norm("x", "ifgo"), Norm("h", "ifgo")), cell_norm="output"),
    "gru": Variant(cell="gru", norms=(Norm("x", "rzn"), Norm("h", "rzn"))),
}
DTYPES = {
    "bfloat16": (choose.kind("bfloat16", True), "bf16"),
    "float16": (choose.kind("float16", True), "fp16"),
    "tf32": (choose.kind("float32", True), "fp32"),
    "float32": (choose.kind("float32", False), "fp32"),
}


class Device(NamedTuple):
    """Processors of the largest device of a capability, and its memory on chip for a program."""

    processors: int
    shared: int


DEVICES = {80: Device(108, 166_912), 90: Device(132, 232_448), 120: Device(170, 101_376)}
KERNELS = {
    "tile": (tile, ("forward", "backward"), (32, 64, 128)),
    "split": (split, ("forward", "backward"), (256, 512, 768, 1024)),
    "rows": (rows, ("forward", "backward"), (1024, 2048)),
    "parallel": (parallel, ("inputs", "gradients"), (128, 1024)),
    "prepare": (prepare, ("weights",), (128, 1024)),
}
FEW = [
    ("tile", "forward", "lstm", 128, "bfloat16", 90),
    ("tile", "backward", "gru", 64, "tf32", 80),
    ("split", "forward", "lstm", 768, "bfloat16", 90),
    ("split", "backward", "lstm", 256, "tf32", 80),
    ("rows", "forward", "lstm", 1024, "bfloat16", 120),
    ("parallel", "gradients", "lstm", 128, "bfloat16", 90),
    ("prepare", "weights", "lstm", 1024, "bfloat16", 90),
]

OPTIONAL = {
    "MASK",
    "RESET",
    "RESET_H",
    "RESET_C",
    "DRESET_H",
    "DRESET_C",
    "TAKE_H",
    "TAKE_C",
    "FACTOR_H",
    "FACTOR_N",
    "PLAIN",
    "GATED",
}
LIKE_X = {
    "P",
    "GATES",
    "H_ALL",
    "N",
    "A",
    "DH_ALL",
    "D",
    "X",
    "DX",
    "DS",
    "DS_N",
    "INTO",
    "GATED_INTO",
    "OUT",
    "U",
    "W",
    "BIAS",
}
NUMBERS = {
    "T",
    "B",
    "t",
    "R",
    "first",
    "rows_of_w",
    "of_u",
    "u_row",
    "u_column",
    "w_row",
    "w_column",
}
WORDS = {"HS", "DQ", "WORDS"}
FLAGS = {"LOST"}

Entry = tuple[str, str, str, int, str, int]


def entries() -> list[Entry]:
    """All of them; a GRU, and float16 beside bfloat16, in one size of each kernel."""
    found = []
    for room, (_, functions, sizes) in KERNELS.items():
        looped = room in ("tile", "split")
        for function in functions:
            for units in sizes:
                few = [("lstm", d) for d in ("bfloat16", "tf32", "float32")[: 3 if looped else 2]]
                if units == sizes[1]:
                    few += [("gru", "bfloat16"), ("lstm", "float16")]
                for (variant, dtype), capability in itertools.product(few, DEVICES):
                    entry = (room, function, variant, units, dtype, capability)
                    if arguments(entry):
                        found.append(entry)
    return found


def arguments(entry: Entry) -> tuple[dict[str, Any], int, bool] | None:
    """What a kernel is compiled with, its warps, whether all programs start at once; or None."""
    room, function, variant, units, name, capability = entry
    kind = DTYPES[name][0]
    cell = describe(VARIANTS[variant], units)
    device = DEVICES[capability]
    back = function == "backward"
    known: dict[str, Any] = dict(C=cell, SAVE=True, **memory.products(kind))
    if room == "tile":
        if not choose.fits_tile(cell, kind, device.shared):
            return None
        tiles = choose.tile(cell, kind, back)
        return known | dict(M=tiles.rows), tiles.warps, False
    if room == "split":
        options = choose.split(cell, kind, 16, device.processors, device.shared, back)
        if options is None:
            return None
        whole = divided(cell, options.own, choose.POLLS)
        known |= choose.constants_of_split(whole, options, kind)
        return known, options.warps, True
    tiles = getattr(choose, "weights" if room == "prepare" else room)(cell)
    return known | dict(M=tiles.rows, PART="all", LOOP=1), tiles.warps, False


def compiled(entry: Entry) -> dict[str, int]:
    """What the compiler made of an entry."""
    room, function, _, _, name, capability = entry
    kernel = getattr(KERNELS[room][0], function)
    found = arguments(entry)
    assert found
    known, warps, at_once = found
    cell: Cell = known["C"]
    known |= {"C": constants(cell), **dict.fromkeys(OPTIONAL)}
    known = {n: v for n, v in known.items() if n in kernel.arg_names}
    like_x = DTYPES[name][1]
    signature = {n: "constexpr" if n in known else _type(n, like_x) for n in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    options = dict(num_warps=warps, num_stages=1, launch_cooperative_grid=at_once)
    made = triton.compile(
        ASTSource(kernel, signature, known, aligned),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )
    usage, listing = _inspected(made.asm["cubin"])
    registers, stack = (int(n) for n in re.findall(r"REG:(\d+)\s+STACK:(\d+)", usage)[0])
    # a frame that no instruction touches holds nothing
    spilled = stack if re.search(r"\b(STL|LDL)\b", listing) else 0
    return dict(
        registers=registers,
        spilled=spilled,
        shared=made.metadata.shared,
        loop=_longest_loop(listing),
    )


def _type(name: str, like_x: str) -> str:
    if name in NUMBERS:
        return "i32"
    if name in WORDS:
        return "*i64"
    if name in FLAGS:
        return "*i32"
    return f"*{like_x}" if name in LIKE_X else "*fp32"


def _inspected(cubin: bytes) -> tuple[str, str]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return tuple(  # pyright: ignore
            subprocess.run(
                [str(TOOLS / "cuobjdump"), option, file.name],
                check=True, capture_output=True, text=True,
            ).stdout
            for option in ("-res-usage", "-sass")
        )  # fmt: skip


def _longest_loop(listing: str) -> int:
    """Instructions between the farthest branch back and where it goes."""
    code = [(int(a, 16), t) for a, t in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", listing)]
    longest = (0, 0)
    for at, text in code:
        branch = re.search(r"BRA(?:\.\w+)*\s.*?0x([0-9a-f]+)", text)
        if branch and (to := int(branch[1], 16)) < at and at - to > longest[1] - longest[0]:
            longest = (to, at)
    return sum(longest[0] <= at <= longest[1] for at, _ in code) if longest[1] else len(code)


def named(entry: Entry) -> str:
    room, function, variant, units, dtype, capability = entry
    return f"{room} {function} {variant} {units} {dtype} sm_{capability}"


def complaints(
    entry: Entry, found: dict[str, int], recorded: dict[str, dict[str, int]] | None
) -> list[str]:
    """What is wrong with an entry; of a Triton that is not recorded only limits are known."""
    name, wrong = named(entry), []
    limit = DEVICES[entry[-1]].shared
    known = recorded[name]["spilled"] if recorded and name in recorded else 0
    if found["spilled"] > known:
        wrong.append(f"{name}: {found['spilled']} bytes of registers are spilled, above {known}")
    if found["shared"] > limit:
        wrong.append(f"{name}: {found['shared']} bytes on chip, and there are {limit}")
    if recorded is None:
        return wrong
    if name not in recorded:
        return [*wrong, f"{name}: not recorded; run with --record"]
    for what in ("registers", "loop"):
        before = recorded[name][what]
        if abs(found[what] - before) > before * CHANGE:
            wrong.append(f"{name}: {found[what]} {what}, and {before} were recorded")
    return wrong


def main(options: list[str]) -> int:
    chosen = FEW if "--few" in options else entries()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(chosen, pool.map(compiled, chosen), strict=True))
    table = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if "--record" in options:
        others = table.get(triton.__version__, {}) if "--few" in options else {}
        table[triton.__version__] = others | {named(e): f for e, f in found.items()}
        RECORD.write_text(json.dumps(table, indent=1) + "\n")
    recorded = table.get(triton.__version__)
    wrong = [c for e, f in found.items() for c in complaints(e, f, recorded)]
    print(*wrong, sep="\n")
    print(f"Triton {triton.__version__}: {len(found)} entries, {len(wrong)} complaints")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
