"""`python -m lnrnn` is the command `lnrnn`."""

import sys

from lnrnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
