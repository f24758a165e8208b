"""Arguments of Dreamer's block GRU, checked."""

from __future__ import annotations

from typing import Any

from lnrnn.frontends import arguments
from lnrnn.relatives.relative import Relative, SmoothActivation
from lnrnn.relatives.weights import Sizes

# of each of the sizes the least value, and one to give
_SIZES = ((1, 64), (1, 64), (1, 64), (1, 8), (1, 1), (0, 0))


def relative(activation: SmoothActivation, norm_epsilon: Any, update_bias: Any) -> Relative:
    """The cell with these constants."""
    return Relative(
        cell="block_gru",
        norm="rms",
        epsilon=arguments.number("norm_epsilon", norm_epsilon),
        activation=activation,
        update_bias=arguments.number("update_bias", update_bias),
    )


def sizes(**given: Any) -> Sizes:
    """I, H, P, K, the layers and the actions, in this order, by a front end's names for them."""
    return Sizes(
        *(
            arguments.size(name, size, least, example)
            for (name, size), (least, example) in zip(given.items(), _SIZES, strict=True)
        )
    )
