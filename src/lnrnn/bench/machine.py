"""What a measurement was taken on: the processor and what it can do."""

from __future__ import annotations

import platform
from pathlib import Path

# a flag of /proc/cpuinfo to the name of the instruction set
_SETS = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_tile": "amx",
    "amx_bf16": "amx_bf16",
    "asimd": "neon",
    "bf16": "bf16",
    "sve": "sve",
}
_CPUINFO = Path("/proc/cpuinfo")


def processor(cpuinfo: Path = _CPUINFO) -> str:
    """The name of the processor, with family and model where the system tells them.

    Args:
        cpuinfo: where Linux describes the processors.

    Returns:
        For example `"AMD EPYC (family 26, model 2)"`; many machines are named as vaguely.
    """
    about = _described(cpuinfo)
    name = about.get("model name") or platform.processor() or platform.machine()
    numbers = [about.get("cpu family"), about.get("model")]
    return f"{name} (family {numbers[0]}, model {numbers[1]})" if all(numbers) else name


def instruction_sets(cpuinfo: Path = _CPUINFO) -> list[str]:
    """The instruction sets of the processor that matter for matrix products, where it tells.

    Args:
        cpuinfo: where Linux describes the processors.
    """
    about = _described(cpuinfo)
    flags = f"{about.get('flags', '')} {about.get('Features', '')}".split()
    return [name for flag, name in _SETS.items() if flag in flags]


def _described(cpuinfo: Path) -> dict[str, str]:
    """The first processor's lines, by their names."""
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
