"""Revenue: few buy, and of these few buy for a thousand; one of them in an arm would decide a test by himself.

Amounts above a high quantile count as that quantile (winsorising). The quantile is of the amounts above 0, of all arms
together: of all visitors' it would be 0 where less than 1 % buy, and by arm it would differ between equal arms.
What is compared is then the mean of the cut amounts: a little less than revenue, far less noisy.
Source: Kohavi, Tang, Xu, "Trustworthy Online Controlled Experiments" (2020), chapter 22; Tukey (1962) for the word.
"""

from typing import NamedTuple

import numpy as np

from pipeline.core.experiment.analysis.sequence import Floats


class Cut(NamedTuple):
    """values: with the largest cut. limit: at so much; None = not cut. cut: how many were above it."""

    values: Floats
    limit: float | None
    cut: int


def winsorise(values: Floats, quantile: float) -> Cut:
    """Return the values, those above the quantile of the ones above 0 set to it. quantile: 1 = nothing is cut."""
    above = values[values > 0.0]
    if quantile >= 1.0 or not len(above):
        return Cut(values, None, 0)
    limit = float(np.quantile(above, quantile, method="higher"))
    cut = int(np.count_nonzero(values > limit))
    return Cut(np.minimum(values, limit), limit, cut) if cut else Cut(values, None, 0)
