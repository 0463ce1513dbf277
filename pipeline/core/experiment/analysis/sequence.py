"""Intervals and p-values that hold at every look, however often and whenever one looks: a confidence sequence.

For an estimate with standard error s after t visitors, with k = sqrt((1 + 1/(t r)) log((t r + 1) / a^2)),

    estimate +- k s      covers the truth at all t at once with probability 1 - a (asymptotically),

and the same turned round gives an e-value, whose inverse is a p-value at any time one stops. r (rho squared) is the
variance of the normal mixture over possible truths; it only says at which t the sequence is narrowest.
Sources: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences", Annals of Statistics 52 (2024), theorem 2.2 and section 3 (two groups); the mixture: Howard, Ramdas,
McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49 (2021).
"""

import math
from typing import Final, NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
ALPHA: Final = 0.05


class Mixture(NamedTuple):
    """A sequence. rho_squared: per visitor, above 0; fixed before the first look."""

    rho_squared: float

    def factor(self, visitors: ArrayLike, alpha: float = ALPHA) -> Floats:
        """Return how many standard errors an interval reaches to each side. visitors: above 0. alpha: the error."""
        spread = np.asarray(visitors, dtype=np.float64) * self.rho_squared
        found: Floats = np.sqrt((1.0 + 1.0 / spread) * (np.log1p(spread) - 2.0 * math.log(alpha)))
        return found

    def p_value(self, z: ArrayLike, visitors: ArrayLike) -> Floats:
        """Return the p-value, valid at any time, that the truth is 0. z: estimate / standard error.

        It is the inverse of the e-value, at most 1: below alpha exactly where the interval of alpha leaves 0 out.
        """
        spread = np.asarray(visitors, dtype=np.float64) * self.rho_squared
        log_e = np.square(z) * spread / (2.0 * (spread + 1.0)) - 0.5 * np.log1p(spread)
        found: Floats = np.exp(np.minimum(0.0, -log_e))
        return found


def narrowest_at(visitors: int, alpha: float = ALPHA) -> Mixture:
    """Return the sequence whose intervals are narrowest after so many visitors. visitors: above 0.

    Source: Waudby-Smith et al., appendix B.2: rho^2 = (-W(-a^2 / e) - 1) / t, W the lower branch of Lambert's.
    """
    best = -float(scipy.special.lambertw(-(alpha**2) / math.e, -1).real) - 1.0
    return Mixture(best / visitors)
