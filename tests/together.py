"""`lnrnn` in a process of its own, up to the end of training: a finished run writes more.

With DISK=full in the environment it cannot write the checkpoint.
"""

import atexit
import errno
import gc
import os
import sys
from unittest import mock

import numpy as np

from lnrnn import cli
from lnrnn.train import program
from lnrnn.train.world import World


def count(world: World) -> None:
    """Say what the tensors of this process occupy when training ends."""
    torch = sys.modules.get("torch")
    if torch is not None:
        tensors = [t for t in gc.get_objects() if isinstance(t, torch.Tensor)]
        plain = [t for t in tensors if type(t) in (torch.Tensor, torch.nn.Parameter)]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in plain}
        print(f"holds {sum(storages.values())} bytes")


atexit.register(print, "Python ends by itself")
if os.environ.get("DISK") == "full":
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    mock.patch.object(np, "savez", side_effect=full).start()
with mock.patch.object(program, "_finish"), mock.patch.object(World, "leave", count):
    cli.run()
