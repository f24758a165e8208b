"""What holds for all tests."""

import os

# as many workers as processors: threads beside each would only wait for one another
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
