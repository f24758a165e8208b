"""Random damage to valid files of every kind: an error that says so, or weights, and no more."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from fuzz_readers import attempt, seeds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return seeds(Path(folder))


KINDS = ("ours.safetensors", "a.safetensors", "a.npz", "a.pt", "a.h5", "a.ckpt.index", "a.tflite")
MAGICS = (b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\0\0\0\0TFL3", b"\x80\x02", b"9" * 8)
EXAMPLES = {"a.pt": 60}
EDIT = st.tuples(
    st.sampled_from(["flip", "set", "cut", "insert", "remove", "number"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 255),
    st.binary(max_size=8),
)
NUMBERS = (0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


def edited(data: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    """A file with some bytes changed, the places given as fractions of its length."""
    for kind, place, value, extra in edits:
        at = int(place * len(data))
        if kind == "flip":
            data = data[:at] + bytes(b ^ 1 << value % 8 for b in data[at : at + 1]) + data[at + 1 :]
        elif kind == "set":
            data = data[:at] + bytes([value]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + extra + data[at:]
        elif kind == "remove":
            data = data[:at] + data[at + value :]
        else:
            width = 8 if value % 2 else 4
            number = NUMBERS[value // 2 % 8] % 2 ** (8 * width)
            data = data[:at] + number.to_bytes(width, "little") + data[at + width :]
    return data


def test_seeds_are_valid(files):
    from lnrnn.convert.containers import open_file

    assert set(KINDS) <= set(files)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        for name in KINDS:
            for entry in open_file(Path(folder) / name).entries.values():
                entry.load()


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind, files):
    @settings(
        max_examples=EXAMPLES.get(kind, 250),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.lists(EDIT, min_size=1, max_size=4))
    def damage(edits):
        attempt(edited(files[kind], edits))

    damage()


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(
        [b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\0\0\0\0TFL3", b"\x80\x02", b"9" * 8]
    ),
    st.binary(max_size=200),
)
def test_arbitrary_bytes(start, rest):
    attempt(start + rest)
