"""Recurrent cells with norms that a [Variant][lnrnn.Variant] does not span.

A [Relative][lnrnn.relatives.Relative] says what such a cell computes; `weights` gives names and
shapes of its canonical weights, `table` the published forms.
"""

from lnrnn.relatives.relative import Relative as Relative
from lnrnn.relatives.table import RELATIVES as RELATIVES
from lnrnn.relatives.table import Published as Published
