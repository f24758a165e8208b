"""Layer-normalised recurrent networks for Keras, PyTorch and JAX."""

from lnrnn.variant import Norm as Norm
from lnrnn.variant import Variant as Variant

__version__ = "0.1.0"
