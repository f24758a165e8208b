"""What the tests of lnrnn share: tolerances, cases, checks of gradients and of garbage.

[contract][lnrnn.testing.contract]: what holds for every front end.
"""

from __future__ import annotations

from lnrnn.testing.cases import VARIANTS, Inputs, random_inputs, random_params, sizes_for
from lnrnn.testing.garbage import garbage_of
from lnrnn.testing.gradients import check_gradients
from lnrnn.testing.tolerances import CENTRAL_DIFFERENCE, TOLERANCES, assert_close

__all__ = [
    "CENTRAL_DIFFERENCE",
    "TOLERANCES",
    "VARIANTS",
    "Inputs",
    "assert_close",
    "check_gradients",
    "garbage_of",
    "random_inputs",
    "random_params",
    "sizes_for",
]
