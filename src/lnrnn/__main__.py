"""`python -m lnrnn` is the command `lnrnn`."""

from lnrnn.cli import run

if __name__ == "__main__":
    run()
