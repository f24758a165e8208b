"""`lnrnn` in a process of its own, up to the end of training: a finished run writes more."""

import sys
from unittest import mock

from lnrnn import cli
from lnrnn.train import program

with mock.patch.object(program, "_finish"):
    sys.exit(cli.main(sys.argv[1:]))
