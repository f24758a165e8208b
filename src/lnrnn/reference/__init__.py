"""The executable definition of every variant: NumPy in float64, forward and backward.

Written to be read: `norm` is the normalisation, `parts` what cells are made of,
`cells` one time step, `sequence` the loop over time.  The engines are tested
against it.
"""

from __future__ import annotations

from lnrnn.reference.sequence import Forward, Gradients, backward, forward

__all__ = ["Forward", "Gradients", "backward", "forward"]
