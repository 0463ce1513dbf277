"""Many comparisons at once: p-values made larger, so that one of them being small by chance is answered for.

Goals: Holm. One goal found to differ leads to a decision, so no false one is wanted among them; it asks nothing of how
they depend on each other, and visits, orders and revenue of the same visitors depend strongly.
Segments: Benjamini-Hochberg. They are many, and a hint where to look next; a twentieth of the hints may be wrong. Our
p-values are inverses of e-values, so this is e-BH, which holds under any dependence and however one stopped.
Sources: Holm (1979); Benjamini & Hochberg (1995); Wang & Ramdas, "False discovery rate control with e-values" (2022).
"""

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Return adjusted p-values in the same order: all found below alpha, the chance of any false one is below alpha."""
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(count, 0, -1)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors))
    return [float(one) for one in adjusted]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return adjusted p-values in the same order: of those below alpha, a share of alpha is false on average."""
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, dtype=float)[order] * count / np.arange(1, count + 1)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return [float(one) for one in adjusted]
