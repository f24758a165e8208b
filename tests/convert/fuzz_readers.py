"""A coverage-guided fuzzer of the readers, for atheris.

`python fuzz_readers.py CORPUS -max_total_time=600` fills an empty CORPUS with small valid files
of every kind and goes on from there.  Anything but a FileError, and more memory than libFuzzer's
`-rss_limit_mb`, is a crash.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

SCRATCH = Path(tempfile.mkdtemp(prefix="lnrnn-fuzz-"))
INDEX = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # the end of a checkpoint's index


def attempt(data: bytes) -> None:
    """Read a file in every way there is; only a FileError may come out."""
    from lnrnn.convert import FileError, containers, file, find

    path = SCRATCH / "file"
    if data.endswith(INDEX):
        path = SCRATCH / "file.index"
        (SCRATCH / "file.data-00000-of-00001").write_bytes(bytes(4096))
    path.write_bytes(data)
    try:
        container = containers.open_file(path)
        for entry in container.entries.values():
            entry.load()
        if file.is_ours(container):
            file.from_container(container)
        for found in find.find(container):
            name = found.fits[0].name if found.fits else None
            find.read_layers(container, "file", name, found.scope)
    except FileError:
        pass


def seeds(folder: Path) -> dict[str, bytes]:
    """Small valid files of every kind."""
    from convert_samples import original_weights, weights_of

    import lnrnn
    from lnrnn.convert import Weights, collect, read, write
    from lnrnn.testing import VARIANTS

    made: dict[str, bytes] = {}
    lnrnn.save(folder / "ours.safetensors", weights_of(VARIANTS["simple_sum"]))
    for name, form in (
        ("a.npz", "tfa_lnsimplernn"),
        ("a.safetensors", "tfa_lnsimplernn"),
        ("a.pt", "speechbrain_ligru_ln_relu"),
        ("a.h5", "tfa_lnsimplernn"),
        ("a.ckpt", "tfa_lnsimplernn"),
        ("a.tflite", "tflite_lnlstm"),
    ):
        given = original_weights(form)
        source = folder / "source.npz"
        import numpy as np

        np.savez(source, **given)  # pyright: ignore[reportArgumentType]
        layers, _ = read(source, form)
        weights = layers.single
        assert isinstance(weights, Weights)
        write(folder / name, collect(weights), form)
        source.unlink()
    for path in sorted(folder.iterdir()):
        made[path.name] = path.read_bytes()
    return made


def main() -> None:
    """Fuzz until stopped; arguments are libFuzzer's."""
    import atheris  # pyright: ignore

    with atheris.instrument_imports(include=["lnrnn.convert"]):  # pyright: ignore
        import lnrnn.convert.containers
        import lnrnn.convert.find  # noqa: F401

    corpus = Path(sys.argv[1])
    corpus.mkdir(exist_ok=True)
    if not any(corpus.iterdir()):
        with tempfile.TemporaryDirectory() as folder:
            for name, data in seeds(Path(folder)).items():
                (corpus / name).write_bytes(data)
    atheris.Setup(sys.argv, attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
