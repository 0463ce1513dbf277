"""What the learner knows, as sufficient statistics: sums that shards merge by adding (never pickles)."""

from msgspec import Struct


class ArmStatistics(Struct, array_like=True):
    """One arm: how often it was shown, and the sum of its rewards in millionths. Integers: merging is exact.

    reward_squares_micros: sum of the rewards' squares in millionths; with the other two it gives their variance.
    """

    trials: int = 0
    reward_micros: int = 0
    reward_squares_micros: int = 0


class PlacementModel(Struct, array_like=True):
    """One placement's arms in one partition of the log (an entry of the learn stage's state, key = placement id)."""

    arms: dict[str, ArmStatistics]
    updated_ms: int = 0  # block time of the last outcome


class LearnFixed(Struct, array_like=True):
    """The learn stage's small per-partition part: totals of what it was told, and how far the log is learnt.

    A trial counts once, also where a group learns from it as well.
    """

    trials: int = 0
    reward_micros: int = 0
    block_time_ms: int = 0  # block time of the last block, outcomes or none
