"""The sums behind linear policies: what each outcome adds, how shards merge. Exact, in integers.

A trial adds x x' to the precision at once, as if its reward were 0; a reward that comes later adds reward x to eta,
and a correction subtracts what was too much. So nothing waits for a window to close (measured: 1.08 times the regret
of labels known at once, where waiting costs 1.45 times), and any order, any sharding and any replay of the same
outcomes gives the same bits.

Forgetting is forward decay (Cormode et al., ICDE 2009): an outcome weighs by the day of its own decision, more the
later, and a model divides by today's weight. So it too is a plain sum, and a late correction has its trial's weight.
"""

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.features import (
    DIMENSION_MAX,
    GRID,
    VALUE_MAX,
    Vector,
    crossed,
    crossed_columns,
    crossed_rows,
    folded,
    folded_rows,
    pack,
)
from schemas.linear import LinearArm, LinearStatistics

MICROS: Final = 1_000_000
WEIGHT: Final = 64
"""The weight of a trial that nothing is forgotten of. int64 holds 5e8 trials with every column at its bound."""
FORGET_MIN: Final = 0.999
WEIGHT_MAX: Final = WEIGHT * 64
ROWS_EXACT: Final = 2_048
"""So many rows of largest values still add up exactly in a float64 (2^53), whose products numpy computes fast."""
TOGETHER_COLUMNS_MAX: Final = 64
"""Sums of vectors up to so wide are made for all arms at once; of wider ones a matrix product is faster, arm by arm."""
HEAD_BYTES: Final = 9
_SPLIT: Final = 4_096
_NOTHING: Final = LinearArm()
_DAY_MS: Final = 86_400_000
OWN_COLUMNS: Final = 32
"""Columns of an action's own ridge beside a shared one: its sums take 4.5 kB, and a thousand actions are normal."""
SHARED: Final = ""
"""The arm's key of the one ridge that all actions share."""


class LinearDelta(NamedTuple):
    """What one outcome tells a linear model. trials: 1 when first shown, else 0. weight: as `weight_of` gives it."""

    action_id: str
    vector: Vector
    trials: int
    reward_micros: int
    weight: int = WEIGHT
    decided_ms: int = 0


class Lesson(NamedTuple):
    """What a choice was made with, as its decision logs it: all that the learner needs besides the reward.

    space: fingerprint of the feature space. action: the action's columns, none where only ridges of the actions' own
    learn. context: the context's columns. is_own, is_shared: whether the action's own ridge, and that of all, learn
    from it; where both do, the own ones have at most OWN_COLUMNS.
    """

    space: int
    action: Vector
    context: Vector
    is_own: bool = True
    is_shared: bool = False

    @property
    def own(self) -> Vector:
        """What the action's own ridge learns from."""
        return folded(self.context, OWN_COLUMNS) if self.is_shared else self.context

    @property
    def shared(self) -> Vector:
        """What the one ridge of all actions learns from: the products of both vectors' columns."""
        return crossed(self.action, self.context)

    @property
    def columns(self) -> tuple[int, int]:
        """How many columns `own` and `shared` have; 0 where none learns."""
        actions, contexts = len(self.action), len(self.context)
        own = min(contexts, OWN_COLUMNS) if self.is_shared else contexts
        return own if self.is_own else 0, crossed_columns(actions, contexts) if self.is_shared else 0


def vectors_of(lessons: Sequence[Lesson]) -> tuple[Sequence[Vector | None], Sequence[Vector | None]]:
    """Return (`own`, `shared`) of each lesson, None where that kind of ridge does not learn.

    Made together for all of the same shape: one by one they cost several times as much.
    """
    own: list[Vector | None] = [None] * len(lessons)
    shared: list[Vector | None] = [None] * len(lessons)
    alike: defaultdict[tuple[int, int, bool, bool], list[int]] = defaultdict(list)
    for at, lesson in enumerate(lessons):
        alike[len(lesson.action), len(lesson.context), lesson.is_own, lesson.is_shared].append(at)
    for (_, _, is_own, is_shared), places in alike.items():
        contexts = np.array([lessons[at].context for at in places])
        if is_own:
            found = folded_rows(contexts, OWN_COLUMNS) if is_shared else contexts
            for at, vector in zip(places, found, strict=True):
                own[at] = vector
        if is_shared:
            products = crossed_rows(np.array([lessons[at].action for at in places]), contexts)
            for at, vector in zip(places, products, strict=True):
                shared[at] = vector
    return own, shared


def pack_lesson(lesson: Lesson) -> bytes:
    """Return a lesson as bytes: who learns, both dimensions, six of space; then the columns that are not 0.

    Of those first the places, a byte each, the action's before the context's; then the values, two bytes each.
    """
    who = lesson.is_own + 2 * lesson.is_shared
    vector = np.concatenate((lesson.action, lesson.context))
    found = np.flatnonzero(vector)
    head = bytes((who, len(lesson.action), len(lesson.context) - 1)) + lesson.space.to_bytes(6, "little")
    return head + found.astype(np.uint8).tobytes() + pack(vector[found])


def read_lesson(raw: bytes) -> Lesson:
    """Return a lesson from its bytes.

    Raises ValueError for bytes that `pack_lesson` never gives: they may come from anybody who writes decisions.
    """
    count, rest = divmod(len(raw) - HEAD_BYTES, 3)
    if count < 0 or rest:
        raise ValueError(f"linear lesson: {len(raw)} bytes, expected {HEAD_BYTES} and three for each column")
    who, actions, contexts = raw[0], raw[1], raw[2] + 1
    is_shared = who >= 2
    if not 1 <= who <= 3 or is_shared == (actions == 0):
        raise ValueError(
            f"linear lesson: kind {who} with {actions} columns of the action, expected 1 with none, 2 or 3"
        )
    if actions + contexts > DIMENSION_MAX:
        raise ValueError(f"linear lesson: {actions} + {contexts} columns, expected at most {DIMENSION_MAX}")
    places = raw[HEAD_BYTES : HEAD_BYTES + count]
    values = struct.unpack_from(f"<{count}h", raw, HEAD_BYTES + count)
    if count and (places[-1] >= actions + contexts or bytes(sorted({*places})) != places):
        raise ValueError(f"linear lesson: columns {[*places]}, expected ascending below {actions + contexts}")
    if count and (0 in values or max(values) > GRID * VALUE_MAX or min(values) < -GRID * VALUE_MAX):
        raise ValueError(f"linear lesson: a value beyond {VALUE_MAX}, or of 0")
    vector = np.zeros(actions + contexts, np.int16)
    vector[np.frombuffer(places, np.uint8)] = values
    space = int.from_bytes(raw[3:HEAD_BYTES], "little")
    return Lesson(space, vector[:actions], vector[actions:], who != 2, is_shared)


def weight_of(decided_ms: int, landmark_ms: int, daily_factor: float) -> int:
    """Return how much a decision's outcome weighs, in 1/WEIGHT: daily_factor ** -(days since the landmark).

    landmark_ms: the day on which a trial weighs WEIGHT; fixed for the life of the statistics.
    daily_factor: FORGET_MIN..1; 1 forgets nothing. Bounded by WEIGHT_MAX (with .999: eleven years after the landmark).
    Raises ValueError for another factor.
    """
    if not FORGET_MIN <= daily_factor <= 1.0:
        raise ValueError(f"daily factor of forgetting {daily_factor}: expected {FORGET_MIN} to 1")
    days = max(0, (decided_ms - landmark_ms) // _DAY_MS)
    return min(WEIGHT_MAX, round(WEIGHT * daily_factor**-days))


def learn(statistics: LinearStatistics, deltas: Sequence[LinearDelta]) -> list[str]:
    """Add outcomes to the statistics, in place, all of an arm at once.

    Outcomes of decisions before their arm was started anew change nothing.
    Returns the action ids whose sums changed, each once. Raises ValueError for a vector of another dimension; then
    nothing was added.
    """
    by_arm: defaultdict[str, list[LinearDelta]] = defaultdict(list)
    for delta in deltas:
        if delta.vector.shape != (statistics.dimension,):
            raise ValueError(
                f"arm {delta.action_id!r}: vector of shape {delta.vector.shape}, expected ({statistics.dimension},)"
            )
        arm = statistics.arms.get(delta.action_id)
        if arm is None or delta.decided_ms >= arm.since_ms:
            by_arm[delta.action_id].append(delta)
    add = _added_by_arm if statistics.dimension > TOGETHER_COLUMNS_MAX else _added_together
    for part in _parts(by_arm):
        before = [statistics.arms.get(action_id, _NOTHING) for action_id in part]
        statistics.arms.update(zip(part, add(before, list(part.values())), strict=True))
    return list(by_arm)


def _parts(by_arm: Mapping[str, list[LinearDelta]]) -> Iterator[dict[str, list[LinearDelta]]]:
    """Give the arms' outcomes in parts of at most ROWS_EXACT."""
    part: dict[str, list[LinearDelta]] = {}
    room = ROWS_EXACT
    for action_id, found in by_arm.items():
        for at in range(0, len(found), ROWS_EXACT):
            some = found[at : at + ROWS_EXACT]
            if len(some) > room or action_id in part:
                yield part
                part, room = {}, ROWS_EXACT
            part[action_id] = some
            room -= len(some)
    if part:
        yield part


def start_anew(statistics: LinearStatistics, action_id: str, since_ms: int) -> None:
    """Forget what is known of an arm, for good: outcomes of decisions before since_ms do not count any more."""
    statistics.arms[action_id] = LinearArm(since_ms=since_ms)


def merge(shards: Iterable[LinearStatistics]) -> LinearStatistics:
    """Return the sums over several shards of one model; none of them is changed.

    An arm that one shard has started anew counts from there on only; that shard's is the only one that knows when its
    change came, so the others' sums of before and after cannot be told apart and stay.
    Raises ValueError where there is none, or where they are of different feature spaces.
    """
    found = list(shards)
    if not found:
        raise ValueError("no linear statistics to merge")
    space, dimension = found[0].space, found[0].dimension
    merged = LinearStatistics(space, dimension)
    for shard in found:
        if (shard.space, shard.dimension) != (space, dimension):
            raise ValueError(
                f"linear statistics of space {shard.space} (dimension {shard.dimension}), "
                f"expected {space} ({dimension}): vectors of different spaces do not add up"
            )
        merged.updated_ms = max(merged.updated_ms, shard.updated_ms)
        for action_id, arm in shard.arms.items():
            known = merged.arms.get(action_id)
            merged.arms[action_id] = arm if known is None else _sum(known, arm)
    return merged


def precision_of(arm: LinearArm, dimension: int) -> NDArray[np.float64]:
    """Return the sum of x x' (without the prior), shape (dimension, dimension), a trial of today's weighing 1."""
    if not arm.precision:
        return np.zeros((dimension, dimension))
    whole: NDArray[np.float64] = np.frombuffer(arm.precision, "<i8").take(_square(dimension)).astype(np.float64)
    whole /= GRID * GRID * WEIGHT
    return whole


def eta_of(arm: LinearArm, dimension: int) -> NDArray[np.float64]:
    """Return the sum of reward x, shape (dimension,)."""
    if not arm.eta:
        return np.zeros(dimension)
    return np.frombuffer(arm.eta, "<i8") / float(GRID * MICROS * WEIGHT)


@cache
def triangle(dimension: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return (rows, columns) of the upper triangle, row by row: how a precision is packed."""
    return np.triu_indices(dimension)


@cache
def _square(dimension: int) -> NDArray[np.intp]:
    """Return where each of a square's cells is packed: of two that mirror each other the same."""
    places = np.zeros((dimension, dimension), np.intp)
    places[triangle(dimension)] = np.arange(dimension * (dimension + 1) // 2)
    return np.maximum(places, places.T)


def _added_by_arm(arms: Sequence[LinearArm], deltas: Sequence[Sequence[LinearDelta]]) -> Iterator[LinearArm]:
    """The arms with their outcomes more, at most ROWS_EXACT in all, one by one: wide vectors, mostly of one arm.

    The float64 products are of whole numbers below 2^53: exact. So are they in `_added_together`: the same bits.
    """
    for arm, found in zip(arms, deltas, strict=True):
        rows, weighed, high, low = _columns(found)
        products = (rows.T * weighed) @ rows
        dimension = rows.shape[1]
        upper, across = triangle(dimension)
        packed = products.ravel().take(upper * dimension + across).astype("<i8")
        eta = (high @ rows).astype("<i8") * _SPLIT + (low @ rows).astype("<i8")
        yield _with(arm, found, int(weighed.sum()), _plus(arm.precision, packed), _plus(arm.eta, eta))


def _added_together(arms: Sequence[LinearArm], deltas: Sequence[Sequence[LinearDelta]]) -> Iterator[LinearArm]:
    """The arms with their outcomes more, at most ROWS_EXACT in all, all at once: many arms with few outcomes each."""
    rows, weighed, high, low = _columns([delta for found in deltas for delta in found])
    dimension = rows.shape[1]
    upper, across = triangle(dimension)
    begins = np.cumsum([0, *map(len, deltas[:-1])])
    precisions = np.add.reduceat(rows[:, upper] * rows[:, across] * weighed[:, None], begins).astype("<i8")
    etas = np.add.reduceat(rows * high[:, None], begins).astype("<i8") * _SPLIT
    etas += np.add.reduceat(rows * low[:, None], begins).astype("<i8")
    weights = np.add.reduceat(weighed, begins)
    for at, (arm, found) in enumerate(zip(arms, deltas, strict=True)):
        yield _with(arm, found, int(weights[at]), _plus(arm.precision, precisions[at]), _plus(arm.eta, etas[at]))


class _Columns(NamedTuple):
    """Outcomes as columns of float64. rows: the vectors, shape (n, dimension). weighed: weight x trials.

    high, low: weight x reward in millionths is high x _SPLIT + low, since its product with a vector, over so many rows,
    would outgrow a float64.
    """

    rows: NDArray[np.float64]
    weighed: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]


def _columns(deltas: Sequence[LinearDelta]) -> _Columns:
    rows = np.array([delta.vector for delta in deltas]).astype(np.float64)
    weighed = np.array([delta.weight * delta.trials for delta in deltas], np.float64)
    high, low = np.array([divmod(delta.weight * delta.reward_micros, _SPLIT) for delta in deltas], np.float64).T
    return _Columns(rows, weighed, high, low)


def _with(arm: LinearArm, deltas: Sequence[LinearDelta], weight: int, precision: bytes, eta: bytes) -> LinearArm:
    return LinearArm(
        arm.trials + sum(delta.trials for delta in deltas),
        arm.reward_micros + sum(delta.reward_micros for delta in deltas),
        arm.weight + weight,
        precision,
        eta,
        arm.since_ms,
    )


def _sum(one: LinearArm, other: LinearArm) -> LinearArm:
    return LinearArm(
        one.trials + other.trials,
        one.reward_micros + other.reward_micros,
        one.weight + other.weight,
        _plus(one.precision, np.frombuffer(other.precision, "<i8")),
        _plus(one.eta, np.frombuffer(other.eta, "<i8")),
        max(one.since_ms, other.since_ms),
    )


def _plus(packed: bytes, more: NDArray[np.int64]) -> bytes:
    if not packed or not len(more):
        return packed or more.tobytes()
    return (np.frombuffer(packed, "<i8") + more).tobytes()
