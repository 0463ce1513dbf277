"""Whether an experiment did what it says: are the visitors split as planned, and did each meet one variant?

An effect in an experiment that fails these is an effect of the failure: nothing is said then.
Source: Fabijan et al., "Diagnosing sample ratio mismatch in online controlled experiments", KDD 2019.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import scipy.special

RATIO_P_MIN: Final = 0.001
SEVERAL_SHARE_MAX: Final = 0.01


class SampleRatio(NamedTuple):
    """counts: visitors by variant. expected: so many by the weights. chi_squared: with one degree less than variants
    of weight. p: of a split as uneven as this by chance.
    """

    counts: tuple[int, ...]
    expected: tuple[float, ...]
    chi_squared: float
    p: float

    @property
    def is_off(self) -> bool:
        """True where chance is no explanation: p < .001, or somebody met a variant of weight 0."""
        return self.p < RATIO_P_MIN


def sample_ratio(counts: Sequence[int], shares: Sequence[float]) -> SampleRatio:
    """Return how well the counts fit the shares, by Pearson's chi-square test. shares: sum to 1, in the same order."""
    whole = sum(counts)
    expected = tuple(whole * share for share in shares)
    impossible = any(count for count, one in zip(counts, expected, strict=True) if one <= 0.0)
    pairs = [(count, one) for count, one in zip(counts, expected, strict=True) if one > 0.0]
    chi_squared = sum((count - one) ** 2 / one for count, one in pairs)
    p = 0.0 if impossible else 1.0
    if not impossible and len(pairs) > 1:
        p = float(scipy.special.chdtrc(len(pairs) - 1, chi_squared))
    return SampleRatio(tuple(counts), expected, chi_squared, p)


class SeveralVariants(NamedTuple):
    """visitors: who met more than one variant: left out. share: of all who met any."""

    visitors: int
    share: float

    @property
    def is_off(self) -> bool:
        """True where too many did: more than 1 %."""
        return self.share > SEVERAL_SHARE_MAX
