"""Who meets which variant: pure functions of the visitor's id, so that it is the same everywhere and for ever.

Three independent hashes: of the hold-out, of each layer (which bucket, so which experiment) and of each experiment
(which variant). Each is blake2b of `kind|salt or layer|visitor`, its first 64 bits. Ids hold no `|`.
Source: layers and buckets as in Tang, Agarwal, O'Brien, Meyer, "Overlapping Experiment Infrastructure", KDD 2010.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Final, NamedTuple

from schemas.experiment import BUCKETS, HELD_OUT, HOLDOUT_ID, TREATED, Experiment, Holdout

_TWO_64: Final = 2**64
_NOTHING: Final = bytes(8)
_END: Final = b"\xff" * 9  # sorts after every hash
_NO_LIMIT_MS: Final = 2**63
Ranges = Sequence[tuple[int, int]]


class Assignment(NamedTuple):
    """What a visitor meets.

    is_held_out: he meets no experiment, no policy, only what everybody would see without them. variants: experiment
    id -> variant's name, as it stands in a decision's context under `experiments`; the hold-out is in it, too, under
    its own id. Empty for a visitor without an id: he could not meet the same again.
    """

    is_held_out: bool
    variants: dict[str, str]


NOBODY: Final = Assignment(False, {})


class _Arm(NamedTuple):
    """An experiment, ready to be asked. ends: points of the hash where the variants' shares end, but for the last."""

    id: str
    placements: frozenset[str]
    from_ms: int
    to_ms: int
    hasher: "blake2b"
    ends: tuple[bytes, ...]
    names: tuple[str, ...]


class _Layer(NamedTuple):
    """starts: points of the hash where ranges of buckets start, in order; ends: where each ends; arms: whose it is."""

    hasher: "blake2b"
    starts: tuple[bytes, ...]
    ends: tuple[bytes, ...]
    arms: tuple[_Arm, ...]


class Plan(NamedTuple):
    """Experiments ready to be asked: make it once with `plan`, ask it with `assign`. held_out: hashes below are."""

    holdout: "blake2b"
    held_out: bytes
    layers: tuple[_Layer, ...]


def plan(experiments: Iterable[Experiment], holdout: Holdout | None = None) -> Plan:
    """Return a plan of the experiments that run. holdout: default 5 %.

    Those without buckets are given some as `allot` does. Raises ValueError where two would have the same bucket, or a
    layer has not enough.
    """
    found = holdout or Holdout()
    layers: dict[str, list[Experiment]] = {}
    for experiment in allot(experiments):
        layers.setdefault(experiment.layer, []).append(experiment)
    made = tuple(_layer(name, of_it) for name, of_it in layers.items())
    return Plan(_hasher("holdout", found.salt), _point(round(found.share * _TWO_64)), made)


def assign(plan: Plan, visitor: str, placement_id: str = "", now_ms: int = 0) -> Assignment:
    """Return what a visitor meets at a placement.

    visitor: his id; "" = unknown, who meets nothing. placement_id: experiments that are limited to others are left out.
    now_ms: ms since 1970 UTC; experiments that have not begun or are over are left out.
    The same visitor is given the same, whatever else runs, as long as an experiment's weights stay; a larger share of a
    layer brings others in and moves nobody. Raises nothing.
    """
    if not visitor:
        return NOBODY
    raw = visitor.encode("utf-8", "surrogatepass")
    if _hash(plan.holdout, raw) < plan.held_out:
        return Assignment(True, {HOLDOUT_ID: HELD_OUT})
    variants = {HOLDOUT_ID: TREATED} if plan.held_out != _NOTHING else {}
    for hasher, starts, ends, arms in plan.layers:
        place = _hash(hasher, raw)
        at = bisect_right(starts, place) - 1
        if at < 0 or place >= ends[at]:
            continue
        arm = arms[at]
        if not arm.from_ms <= now_ms < arm.to_ms or (arm.placements and placement_id not in arm.placements):
            continue
        variants[arm.id] = arm.names[bisect_right(arm.ends, _hash(arm.hasher, raw))]
    return Assignment(False, variants)


def allot(experiments: Iterable[Experiment]) -> list[Experiment]:
    """Return the experiments, each with as many of its layer's buckets as its share says.

    An experiment keeps the buckets it has and takes more from those that are nobody's; a smaller share gives up its
    last ones. So raising a share moves nobody who is in an experiment, if what this returned is kept. Those in the
    front of the list choose first. Raises ValueError where two have the same bucket, or a layer has not enough.
    """
    found = list(experiments)
    taken: dict[str, dict[int, str]] = {}
    ids = [one.id for one in found]
    for experiment in found:
        if experiment.id == HOLDOUT_ID:
            raise ValueError(f"experiment {HOLDOUT_ID!r}: the hold-out is always on, expected other experiments only")
        if ids.count(experiment.id) > 1:
            raise ValueError(
                f"experiment {experiment.id!r} stands there {ids.count(experiment.id)} times, expected once"
            )
        _take(taken.setdefault(experiment.layer, {}), experiment)
    return [_allotted(one, found, taken[one.layer]) for one in found]


def _take(taken: dict[int, str], experiment: Experiment) -> None:
    """Note the buckets that an experiment has and keeps."""
    for bucket in _buckets(experiment.buckets)[: _wanted(experiment)]:
        other = taken.setdefault(bucket, experiment.id)
        if other != experiment.id:
            raise ValueError(
                f"layer {experiment.layer!r}: bucket {bucket} is held by {other!r} and {experiment.id!r}, expected one"
            )


def _allotted(experiment: Experiment, found: list[Experiment], taken: dict[int, str]) -> Experiment:
    wanted = _wanted(experiment)
    mine = _buckets(experiment.buckets)[:wanted]
    free = (bucket for bucket in range(BUCKETS) if bucket not in taken)
    for bucket in free:
        if len(mine) >= wanted:
            break
        mine.append(bucket)
    if len(mine) < wanted:
        shares = ", ".join(f"{one.id} {one.share:g}" for one in found if one.layer == experiment.layer)
        raise ValueError(
            f"layer {experiment.layer!r} has not enough visitors: {shares}; expected shares up to 1 in all"
        )
    taken.update(dict.fromkeys(mine, experiment.id))
    return experiment.model_copy(update={"buckets": _ranges(mine)})


def _wanted(experiment: Experiment) -> int:
    return max(1, round(experiment.share * BUCKETS))


def _buckets(ranges: Ranges) -> list[int]:
    return [bucket for low, high in ranges for bucket in range(low, high)]


def _ranges(buckets: list[int]) -> list[tuple[int, int]]:
    """Return sorted buckets as ranges [from, to)."""
    ranges: list[tuple[int, int]] = []
    for bucket in sorted(buckets):
        if ranges and ranges[-1][1] == bucket:
            ranges[-1] = (ranges[-1][0], bucket + 1)
        else:
            ranges.append((bucket, bucket + 1))
    return ranges


def _layer(name: str, experiments: list[Experiment]) -> _Layer:
    ranges = sorted((low, high, _arm(one)) for one in experiments for low, high in one.buckets)
    lows, highs, arms = zip(*ranges, strict=True)
    return _Layer(_hasher("layer", name), tuple(map(_start, lows)), tuple(map(_start, highs)), arms)


def _start(bucket: int) -> bytes:
    """Return the first hash that lies in a bucket, or after the one before."""
    return _point(-(-bucket * _TWO_64 // BUCKETS))


def _arm(experiment: Experiment) -> _Arm:
    shares = {name: share for name, share in experiment.shares.items() if share > 0.0}
    ends = [_point(round(end * _TWO_64)) for end in accumulate(shares.values())]
    return _Arm(
        experiment.id,
        frozenset(experiment.placements),
        round(experiment.starts.timestamp() * 1_000) if experiment.starts else 0,
        round(experiment.ends.timestamp() * 1_000) if experiment.ends else _NO_LIMIT_MS,
        _hasher("variant", experiment.salt or experiment.id),
        tuple(ends[:-1]),  # the last takes what rounding leaves
        tuple(shares),
    )


def _hasher(kind: str, salt: str) -> "blake2b":
    return blake2b(f"{kind}|{salt}|".encode(), digest_size=8)


def _hash(hasher: "blake2b", visitor: bytes) -> bytes:
    """Return 64 bits, which sort as the number does. Copying a hash that has its prefix costs half of making one."""
    mine = hasher.copy()
    mine.update(visitor)
    return mine.digest()


def _point(number: int) -> bytes:
    """Return a number up to 2^64 as what hashes compare with."""
    return number.to_bytes(8, "big") if number < _TWO_64 else _END
