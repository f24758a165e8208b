"""PyTorch's state dictionaries, through torch's own reader of weights, which runs no code."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import re
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np

from lnrnn.convert.containers import npz
from lnrnn.convert.errors import FileError
from lnrnn.convert.tensors import Container, Entry

OLD_MAGIC = b"\x80\x02"  # a pickle of protocol 2: files of torch before 1.6
_ITEMS = 100_000
_DEPTH = 32
# torch names what it refuses in a longer text
_NAMED = re.compile(r"(?:Unsupported global: GLOBAL|Unsupported class|Can only \w+ \w+) (\S+)")
# the reader meets arbitrary bytes, and raises what the step raises that they break
# What a state dictionary is made of.  torch's reader takes more: a bytearray of any size, tensors
# made of a size alone, text that an encoding doubles.
_NEEDED = re.compile(
    r"collections (OrderedDict|Counter)|torch (?!\w*Tensor)\w+|torch\.storage \w+Storage"
    r"|torch\.serialization _get_layout|torch\._utils _rebuild_\w+|torch\.nn\.parameter Parameter"
    r"|torch\._tensor _rebuild_from_type_v2"
)
_PICKLES = 5  # in a file of the old format: a mark, a version, a system, the object, its storages
_REFUSED = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError,
    MemoryError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error,
    zipfile.BadZipFile,
)  # fmt: skip


def read(path: Path) -> Container:
    """The tensors of a file that `torch.save` wrote, nested dictionaries by dotted names.

    Raises:
        FileError: torch is not installed, or its reader of weights refuses the file, as it
            does for any object that is not a tensor, a number, a string or a collection.
    """
    try:
        import torch
    except ImportError as error:
        raise FileError("To read a file of PyTorch, torch has to be installed.") from error
    with path.open("rb") as stream:
        # as torch tells the two formats apart
        new = stream.read(4) == b"PK\x03\x04"
    if new:
        packed = [i for i in npz.members(path).values() if i.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise FileError(
                f"The tensors of a PyTorch file are not compressed; {packed[0].filename[:80]!r} is."
            )
        for name in npz.members(path):
            # torch finds the name in any case
            if name.lower().endswith("data.pkl"):
                _check_pickle(io.BytesIO(npz.member(path, name)), 1)
    elif tarfile.is_tarfile(path):
        raise FileError("torch does not read the file as weights: it is a tar archive.")
    else:
        with path.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as mapped:
            _check_pickle(mapped, _PICKLES)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except _REFUSED as error:
        raise FileError(f"torch does not read the file as weights: {_reason(error)}.") from error
    room = os.stat(path).st_size
    entries = {}
    for name, tensor in _tensors(torch, loaded):
        if name in entries:
            raise FileError(f"A name stands once in a file; {name[:80]!r} stands there twice.")
        entries[name] = _entry(torch, name, tensor, room)
    if not entries:
        raise FileError("A state dictionary holds tensors; this file has none.")
    return Container("torch", entries, ordered=True)


def _check_pickle(stream: Any, count: int) -> None:
    """Refuse what no state dictionary needs, before anything is made of a pickle."""
    try:
        for _ in range(count):
            for opcode, named, _ in pickletools.genops(stream):
                # the one opcode with which torch's reader takes a name
                if opcode.name == "GLOBAL" and not _NEEDED.fullmatch(str(named)):
                    raise FileError(
                        "torch does not read the file as weights: it holds more than tensors, "
                        f"{ascii(named)[1:80].rstrip(chr(39)).replace(' ', '.')}."
                    )
    except FileError:
        raise
    except (ValueError, TypeError, OverflowError, EOFError, IndexError, struct.error) as error:
        raise FileError(
            "torch does not read the file as weights: its pickle is cut or damaged."
        ) from error


def _tensors(torch: Any, loaded: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor in nested collections, with its path."""
    left, stack = _ITEMS, [("", loaded, 0)]
    while stack:
        name, value, depth = stack.pop()
        left -= 1
        if left < 0 or depth > _DEPTH:
            raise FileError(
                f"A state dictionary has at most {_ITEMS} entries in {_DEPTH} levels; this one has "
                "more."
            )
        if isinstance(value, torch.Tensor):
            yield name, value
            continue
        if isinstance(value, Mapping):
            pairs = value.items()
        elif isinstance(value, (list, tuple)):
            pairs = enumerate(value)
        else:
            continue
        pairs = list(pairs)[: left + 1]
        stack += [(f"{name}.{k}" if name else str(k), v, depth + 1) for k, v in reversed(pairs)]


def _entry(torch: Any, name: str, tensor: Any, room: int) -> Entry:
    # a view may repeat one element any number of times
    if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > room:
        raise FileError(
            f"A tensor is dense and no larger than its file; {name[:80]!r} of shape "
            f"{tuple(tensor.shape)} is not: save it with .contiguous()."
        )
    if tensor.is_quantized:
        raise FileError(f"Weights are floats; {name[:80]!r} is quantised: dequantise it first.")
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    try:
        array = tensor.detach().numpy()
    except TypeError as error:
        raise FileError(f"NumPy has no dtype {tensor.dtype}, which {name[:80]!r} has.") from error
    return Entry(array.shape, array.dtype, lambda: np.array(array))


def _reason(error: BaseException) -> str:
    """Why torch refused a file, in a few words."""
    text = " ".join(str(error).split())
    named = _NAMED.search(text)
    if isinstance(error, pickle.UnpicklingError):
        return f"it holds more than tensors, {named[1]}" if named else "it holds more than tensors"
    return text.split(". ")[0].rstrip(".:")[:160] or type(error).__name__
