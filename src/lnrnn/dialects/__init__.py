"""The published layer-normalised recurrent cells, as a table.

Each [Dialect][lnrnn.dialects.Dialect] has a name, a source, a variant, the original's
initialisers, and exact maps between the original's weights and the canonical ones.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from lnrnn.dialects import gru, lstm, simple
from lnrnn.dialects.dialect import Dialect as Dialect
from lnrnn.dialects.dialect import Source as Source
from lnrnn.dialects.layout import Columns as Columns
from lnrnn.dialects.layout import Layout as Layout
from lnrnn.dialects.layout import MinusOne as MinusOne
from lnrnn.dialects.layout import Pixel as Pixel
from lnrnn.dialects.layout import Rows as Rows
from lnrnn.dialects.layout import Shared as Shared
from lnrnn.dialects.layout import Stacked as Stacked
from lnrnn.dialects.layout import Transposed as Transposed
from lnrnn.dialects.layout import Unused as Unused
from lnrnn.dialects.layout import per_gate as per_gate

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {dialect.name: dialect for dialect in (*simple.TABLE, *lstm.TABLE, *gru.TABLE)}
)
"""Every published form, by name."""

OUTSIDE: Mapping[str, str] = MappingProxyType(
    {
        "deir_lngru": "its candidate is normed on its parts and again on their sum",
        "dreamerv3_block_core": "its norms sit in the layers before a block-diagonal GRU",
        "labml_hyperlstm": "a second LSTM scales the products of the first at each step",
        "lingvo_lnlstm_doubleproj": "the gates read a joint projection of [x, h]",
        "lingvo_sru_ln": "an SRU: no recurrent matrix, norms on gates and cell, a highway",
        "magenta_hyperlstm": "a second LSTM scales the weights of the first at each step",
        "r2dreamer_deter": "its norms sit in the layers before a block-diagonal GRU",
        "torchrl_dreamerv3_blockgru": "its norms sit in the layers before a block-diagonal GRU",
        "zero_lnatr": "an ATR: twin gates from the sum and difference of two norms",
        "zero_lnlrn": "an LRN: no recurrent matrix, the state added to normed keys",
        "zero_lnolrn": "an LRN with an output gate",
        "zero_lnsru": "an SRU: no recurrent matrix, peepholes on the old cell, a highway",
    }
)
"""Relatives that a Variant does not span, with the reason."""


def names() -> tuple[str, ...]:
    """The names of all dialects, in alphabetical order."""
    return tuple(sorted(DIALECTS))


def get(name: str) -> Dialect:
    """The dialect of a name.

    Raises:
        ValueError: no such name; the message gives the nearest ones.

    Example:
        >>> get("tfa_lnlstm").variant.epsilon
        0.001
    """
    if name in DIALECTS:
        return DIALECTS[name]
    if name in OUTSIDE:
        raise ValueError(f"{name!r} is no Variant: {OUTSIDE[name]}.")
    near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
    hint = f"the nearest are {', '.join(map(repr, near))}" if near else "see lnrnn.dialects.names()"
    raise ValueError(f"There is no dialect named {name!r}; {hint}.")
