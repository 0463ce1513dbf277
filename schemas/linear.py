"""What a linear policy knows, as sums of integers: shards merge by adding, in any order, to the same bits.

The vectors are whole multiples of 1/1024 (see pipeline/core/features.py), so the sums of their products are whole
numbers too, and adding them rounds nothing. The prior is no part of them: it is added when a model is made.
"""

from typing import Final

import msgspec
from msgspec import Struct


class LinearArm(Struct, array_like=True, frozen=True):
    """One ridge regression's sufficient statistics.

    trials: vectors seen. reward_micros: sum of their rewards in millionths. precision: sum of weight x_i x_j for
    i <= j, row by row, as little-endian int64. eta: sum of weight x_i reward_micros, as little-endian int64. Both are
    b"" where nothing was added. weight: sum of the trials' weights (64 = one trial that was not forgotten).
    since_ms: decisions before it do not count (the arm was started anew).
    """

    trials: int = 0
    reward_micros: int = 0
    weight: int = 0
    precision: bytes = b""
    eta: bytes = b""
    since_ms: int = 0


class LinearStatistics(Struct, array_like=True):
    """One placement's linear model in one partition of the log.

    space: fingerprint of the feature space: vectors of different spaces never meet. dimension: of the vectors.
    arms: action id -> its sums; the key "" holds the one ridge that all actions share.
    """

    space: int
    dimension: int
    arms: dict[str, LinearArm] = {}
    updated_ms: int = 0  # block time of the last outcome


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(LinearStatistics)


def encode(statistics: LinearStatistics) -> bytes:
    """Return statistics as MessagePack."""
    return _ENCODER.encode(statistics)


def decode(raw: bytes) -> LinearStatistics:
    """Return statistics from MessagePack.

    Raises msgspec.MsgspecError where it is not theirs, also where an arm's sums have not the dimension's length.
    """
    statistics = _DECODER.decode(raw)
    d = statistics.dimension
    if d < 1:
        raise msgspec.ValidationError(f"linear statistics: dimension {d}, expected at least 1")
    lengths = ((0, 0), (d * (d + 1) // 2 * 8, d * 8))
    for action_id, arm in statistics.arms.items():
        if (len(arm.precision), len(arm.eta)) not in lengths:
            raise msgspec.ValidationError(
                f"linear statistics: arm {action_id!r} has {len(arm.precision)} and {len(arm.eta)} bytes, "
                f"expected {lengths[1]} for dimension {d}"
            )
    return statistics
