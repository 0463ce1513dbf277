"""What a linear policy knows, as sums of integers: shards merge by adding, in any order, to the same bits.

The vectors are whole multiples of 1/1024 (see pipeline/core/features.py), so the sums of their products are whole
numbers too, and adding them rounds nothing. The prior is no part of them: it is added when a model is made.
"""

from typing import Final, NamedTuple

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


class LinearLine(Struct, array_like=True, frozen=True):
    """One change of an outcome, as the learner takes it down: who, with what, and what of it is new."""

    action_id: str
    lesson: bytes
    trials: int
    reward_micros: int
    decided_ms: int


class LinearJournal(Struct, array_like=True):
    """What one placement's linear model has still to add up, in one partition of the log; and how large it is.

    Sums of hundreds of columns are too large to be written with every outcome. So outcomes stand here as they came,
    and are added to the sums so many at a time: what is known is always the sums and the lines.

    space: fingerprint of what its vectors are made by. own, shared: columns of the ridges of each action, and of the
    one of all; 0 where there are none. folds: how often lines were
    added to the sums. decided_ms: of the newest decision. strangers: trials of another space since the last of this.
    """

    space: int
    own: int
    shared: int
    folds: int = 0
    decided_ms: int = 0
    strangers: int = 0
    lines: list[LinearLine] = []


class LinearWatch(Struct, array_like=True, frozen=True):
    """What River's ADWIN keeps of one action's errors. river: its version, whose own layout `kept` has."""

    river: str
    kept: bytes


class LinearKey(NamedTuple):
    """Whose entry it is in the learn stage's state. kind: "journal", "shared", or an action's "arm" or "watch"."""

    kind: str
    placement_id: str
    action_id: str = ""


_KINDS: Final = {"j": "journal", "s": "shared", "a": "arm", "w": "watch"}
_MARK: Final = "\x1f"
"""Begins every key of a linear entry, and no placement's id."""


def is_linear_key(key: str) -> bool:
    """Say whether a key of the learn stage's state is one of a linear model's; else it is a placement's id."""
    return key.startswith(_MARK)


def key_of(key: LinearKey) -> str:
    """Return an entry's key."""
    kind, placement_id, action_id = key
    return f"{_MARK}{kind[0]}{len(placement_id)}:{placement_id}{action_id}"


def read_key(key: str) -> LinearKey:
    """Return what `key_of` made a key from. Raises ValueError for any other text."""
    length, colon, rest = key[2:].partition(":")
    if not is_linear_key(key) or not colon or not length.isdecimal() or key[1] not in _KINDS:
        raise ValueError(f"key {key[:80]!r}: expected one of a linear model's")
    return LinearKey(_KINDS[key[1]], rest[: int(length)], rest[int(length) :])


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
    for action_id, arm in statistics.arms.items():
        check(arm, d, action_id)
    return statistics


def check(arm: LinearArm, dimension: int, action_id: str) -> None:
    """Raise msgspec.ValidationError where an arm's sums have not the dimension's length."""
    lengths = ((0, 0), (arm_bytes(dimension) - dimension * 8, dimension * 8))
    if (len(arm.precision), len(arm.eta)) not in lengths:
        raise msgspec.ValidationError(
            f"linear statistics: arm {action_id!r} has {len(arm.precision)} and {len(arm.eta)} bytes, "
            f"expected {lengths[1]} for dimension {dimension}"
        )


def arm_bytes(dimension: int) -> int:
    """Return how many bytes an arm's sums take."""
    return (dimension * (dimension + 1) // 2 + dimension) * 8
