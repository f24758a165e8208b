"""The layouts that a file can have: those of the dialects, and these with their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from types import MappingProxyType
from typing import Any, NamedTuple

from lnrnn import dialects
from lnrnn.convert.errors import FileError
from lnrnn.dialects import Columns, Dialect, Layout, Transposed, per_gate
from lnrnn.variant import Norm


class Option(NamedTuple):
    """What an option of an original adds: fields of its variant, and weights.

    Args:
        fields: of the variant.
        layout: the further weights.
        needs: another option that has to be there.
    """

    fields: Mapping[str, Any]
    layout: Mapping[str, Layout]
    needs: str = ""


_LITE = {"i": "input", "f": "forget", "o": "output"}
_COUPLED = {"f": "f", "o": "o"}
_DIAGONALS = per_gate("w_{}_diag", "peephole", {"i": "i", "f": "f", "o": "o"})
_PROJECTION = Columns("projection_kernel")


def _lite(gates: str) -> dict[str, Option]:
    names = {gate: _LITE[gate] for gate in gates}
    return {
        "peephole": Option(
            {"peephole": "inside"}, per_gate("cell_to_{}_weights", "peephole", names)
        ),
        "projection": Option({"projection": True}, {"projection_weights": Transposed(_PROJECTION)}),
        "projection_bias": Option(
            {"projection_bias": True}, {"projection_bias": Columns("projection_bias")}, "projection"
        ),
    }


_LINGVO_PROJECTION = {"projection": Option({"projection": True}, {"w_proj": _PROJECTION})}
_HIDDEN = {
    "hidden_norm": Option(
        {"hidden_norm": True},
        {
            "gamma_new_h": Columns("hidden_norm_gain"),
            "beta_new_h": Columns("hidden_norm_bias"),
        },
    )
}
_OPTIONS: dict[str, dict[str, Option]] = {
    "tflite_lnlstm": _lite("ifo"),
    "tflite_lnlstm_cifg": _lite("fo"),
    "tf1_lnlstm": {
        "peephole": Option({"peephole": "after"}, _DIAGONALS),
        "projection": Option({"projection": True}, {"projection/kernel": _PROJECTION}),
    },
    "sonnet1_lstm_ln": {
        "peephole": Option({"peephole": "after", "output_peephole": "cell"}, _DIAGONALS),
        "projection": Option({"projection": True}, {"w_h_projection": _PROJECTION}),
    },
    "lingvo_lnlstm_simple": _LINGVO_PROJECTION,
    "lingvo_lnlstm_simple_cifg": _LINGVO_PROJECTION,
    "lingvo_lnlstm_lean": {
        "bias": Option({"bias": True}, {"b": Columns("bias", "gifo")}),
        **_LINGVO_PROJECTION,
    },
    "returnn_lnlstm_joined": _HIDDEN,
    "returnn_lnlstm_pergate": _HIDDEN,
    "returnn_lnlstm_concat_pergate": _HIDDEN,
    "returnn_lnlstm_rnmtplus": _HIDDEN,
}


def _with(base: Dialect, names: tuple[str, ...], options: Mapping[str, Option]) -> Dialect:
    """A dialect with some of its options."""
    fields: dict[str, Any] = {}
    layout = dict(base.layout)
    for name in names:
        fields |= options[name].fields
        layout |= options[name].layout
    return replace(
        base,
        name="+".join((base.name, *names)),
        title=f"{base.title} with {' and '.join(names)}".replace("_", " "),
        variant=base.variant.replace(**fields),
        layout=layout,
        initializers={},
    )


def _without_bias(base: Dialect) -> Dialect:
    """A dialect whose original leaves out its outer bias unless told otherwise."""
    layout = {n: p for n, p in base.layout.items() if p not in _outer_biases(base)}
    return replace(
        base,
        name=f"{base.name}-bias",
        title=f"{base.title}, its bias left out",
        variant=base.variant.replace(bias=False),
        layout=layout,
        initializers={},
    )


def _outer_biases(base: Dialect) -> list[Layout]:
    return [p for p in base.layout.values() if isinstance(p, Columns) and p.param == "bias"]


def _plain_recurrent_norm(base: Dialect) -> Dialect:
    """SpeechBrain's SLiGRU as it is by default: its recurrent norm has no gain and no bias."""
    norms = tuple(
        Norm("h", norm.gates, gain=False, bias=False) if norm.site == "h" else norm
        for norm in base.variant.norms
    )
    return replace(
        base,
        name=f"{base.name}-affine",
        title=f"{base.title}, its recurrent_elementwise_affine left out",
        variant=base.variant.replace(norms=norms),
        layout={n: p for n, p in base.layout.items() if not n.startswith("layer_norm.")},
        initializers={},
    )


def _all() -> dict[str, Dialect]:
    found = dict(dialects.DIALECTS)
    for name, options in _OPTIONS.items():
        for count in range(1, len(options) + 1):
            for chosen in combinations(options, count):
                if all(options[o].needs in ("", *chosen) for o in chosen):
                    form = _with(dialects.get(name), chosen, options)
                    found[form.name] = form
    for form in (
        _without_bias(dialects.get("lingvo_lngru")),
        *(
            _plain_recurrent_norm(dialects.get(f"speechbrain_sligru_ln_{activation}"))
            for activation in ("relu", "tanh")
        ),
    ):
        found[form.name] = form
    return found


FORMS: Mapping[str, Dialect] = MappingProxyType(_all())
"""Every layout by name: a dialect's, and these with `+option` or without `-part`."""


def form(name: str) -> Dialect:
    """The layout of a name.

    Raises:
        FileError: no such name; the message gives the nearest.
    """
    if name in FORMS:
        return FORMS[name]
    try:
        return dialects.get(name)
    except ValueError as error:
        raise FileError(str(error)) from error


# Where a container names weights otherwise than the original's program does.
_KERAS_NORMS = ("kernel_norm", "recurrent_norm", "state_norm")
_MATRICES = {"kernel": "vars/0", "recurrent_kernel": "vars/1", "bias": "vars/2"}
_BOOK = {"kernel": "kernel", "recurrent_kernel": "recurrent_kernel", "bias": "bias"}
_KERASLN_NORMS = dict(zip(("", "_1", "_2", "_3"), "ifco", strict=True))


def _kerasln(names: tuple[str, ...]) -> tuple[dict[str, str], ...]:
    """The spellings of keras-layernorm-rnn: by attribute, with names or with numbers."""
    norms = {f"layer_normalization{n}": f"layernorm_{gate}" for n, gate in _KERASLN_NORMS.items()}
    numbers = {name: f"vars/{i}" for i, name in enumerate(names)}
    return (
        {f"{n}/gamma": f"{spelt}/gamma" for n, spelt in norms.items()},
        {**numbers, **{f"{n}/gamma": f"{spelt}/vars/0" for n, spelt in norms.items()}},
    )


_FUSED = _kerasln(("kernel", "recurrent_kernel", "bias"))
_SPLIT = _kerasln(tuple(f"{part}_{gate}" for part in "WRb" for gate in "ifco"))
_SPELLINGS: dict[str, tuple[dict[str, str], ...]] = {
    **{
        f"kerasln_lstm{number}_{activation}": names
        for number, names in ((1, _FUSED), (2, _FUSED), (3, _SPLIT))
        for activation in ("sigmoid", "hard_sigmoid")
    },
    "kerasln_simplernn": ({**_MATRICES, "gamma": "vars/3"},),
    "tfa_lnlstm": (
        {
            **_MATRICES,
            **{f"{n}/gamma": f"{n}/vars/0" for n in _KERAS_NORMS},
            **{f"{n}/beta": f"{n}/vars/1" for n in _KERAS_NORMS},
        },
    ),
    "tfa_lnsimplernn": (
        {"gamma": "layernorm/gamma"},
        {"gamma": "layer_normalization/gamma"},
        {**_MATRICES, "gamma": "layernorm/vars/0"},
    ),
    "book_lnsimplernn": tuple(
        {
            **{n: f"simple_rnn_cell/{given}" for n, given in names.items()},
            "gamma": f"{norm}/{gain}",
            "beta": f"{norm}/{bias}",
        }
        for names, norm, gain, bias in (
            (_BOOK, "layer_norm", "gamma", "beta"),
            (_BOOK, "layer_normalization", "gamma", "beta"),
            (_MATRICES, "layer_norm", "vars/0", "vars/1"),
        )
    ),
}


def spellings(name: str) -> tuple[dict[str, str], ...]:
    """The names under which a layout's weights may stand in a file: original to spelt name."""
    own = {n: n for n in FORMS[name].layout}
    return (own, *({**own, **names} for names in _SPELLINGS.get(name, ())))
