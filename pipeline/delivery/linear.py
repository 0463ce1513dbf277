"""Linear models as delivery reads them: each partition's sums and lines, added up, and a model made from them.

Belongs to the follower's thread: decisions see only models that are made. What did not change is not added or solved
again, so what a new version costs depends on the outcomes since the last one and not on how many actions there are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from pipeline.core.linear import LinearDelta, learn, merge
from pipeline.core.linear_blend import OWN, Blend, nothing
from pipeline.core.linear_book import Told, today, told_by
from pipeline.core.linear_model import RidgeRules
from schemas.linear import LinearArm, LinearJournal, LinearKey, LinearStatistics, check, is_linear_key, read_key

_decode_arm = msgspec.msgpack.Decoder(LinearArm).decode
_decode_journal = msgspec.msgpack.Decoder(LinearJournal).decode
_OTHER: Final = LinearJournal(-1, 0, 0)


@dataclass
class _Sums:
    """One kind of ridges of one partition. base: as the learner wrote them. now: with the lines, if there are any."""

    columns: int
    base: dict[str, LinearArm] = field(default_factory=dict)
    now: dict[str, LinearArm] = field(default_factory=dict)

    def find(self, arm_id: str) -> LinearArm | None:
        return self.now.get(arm_id) or self.base.get(arm_id)

    def add(self, deltas: list[LinearDelta]) -> list[str]:
        statistics = LinearStatistics(0, self.columns, {})
        for arm_id in {delta.action_id for delta in deltas}:
            known = self.find(arm_id)
            if known is not None:
                statistics.arms[arm_id] = known
        changed = learn(statistics, deltas)
        self.now.update((arm_id, statistics.arms[arm_id]) for arm_id in changed)
        return changed


class _Shard:
    """One partition's part of a placement's model. waiting: what lines tell that are not in `now` yet."""

    def __init__(self) -> None:
        self.own, self.shared = _Sums(OWN.dimension), _Sums(Blend.dimension)
        self.journal = _OTHER
        self.waiting = Told([], [])

    def take_lines(self, journal: LinearJournal, is_anew: bool) -> None:
        """Take what is new in a journal. is_anew: its lines before are in the sums by now. Raises ValueError."""
        known = 0 if is_anew else len(self.journal.lines)
        told = told_by(journal.lines[known:]) if is_ours(journal) else Told([], [])
        if is_anew:
            self.own.now, self.shared.now, self.waiting = {}, {}, told
        else:
            self.waiting.own.extend(told.own)
            self.waiting.shared.extend(told.shared)
        self.journal = journal

    def add_lines(self) -> tuple[list[str], list[str]]:
        """Add what is waiting; return the changed arms of both kinds."""
        told, self.waiting = self.waiting, Told([], [])
        return self.own.add(told.own), self.shared.add(told.shared)


class LinearMirror:
    """One placement's linear model, of all partitions."""

    def __init__(self, prior_mean: float) -> None:
        """Start knowing nothing. prior_mean: see RidgeRules."""
        self._prior_mean = prior_mean
        self._shards: dict[int, _Shard] = {}
        self._own, self._shared = nothing()
        self._changed: tuple[dict[str, None], dict[str, None]] = ({}, {})
        self.model = Blend(self._own, self._shared, RidgeRules(prior_mean=prior_mean))

    def take(self, partition: int, changes: Mapping[LinearKey, bytes | None]) -> None:
        """Take the changed entries of one version of a partition; None: it is gone.

        Raises msgspec.MsgspecError or ValueError for what this code cannot read; then nothing was taken.
        """
        shard = self._shards.get(partition) or _Shard()
        own: dict[str, LinearArm | None] = {}
        shared: dict[str, LinearArm | None] = {}
        journal = shard.journal
        for key, raw in changes.items():
            if key.kind == "journal":
                journal = _decode_journal(raw) if raw is not None else _OTHER
            elif key.kind in ("arm", "shared"):
                arm = _decode_arm(raw) if raw is not None else None
                (own if key.kind == "arm" else shared)[key.action_id] = arm
        if is_ours(journal):
            _check(own, OWN.dimension)
            _check(shared, Blend.dimension)
        self._put(shard, journal, own, shared)
        self._shards[partition] = shard

    def forget(self, partition: int) -> None:
        """Forget a partition: it is read anew."""
        shard = self._shards.pop(partition, None)
        if shard is not None:
            self._note(shard)

    def _put(
        self,
        shard: _Shard,
        journal: LinearJournal,
        own: Mapping[str, LinearArm | None],
        shared: Mapping[str, LinearArm | None],
    ) -> None:
        before = shard.journal
        is_anew = (journal.space, journal.folds) != (before.space, before.folds) or bool(own) or bool(shared)
        touched = (dict.fromkeys(shard.own.now), dict.fromkeys(shard.shared.now)) if is_anew else ({}, {})
        shard.take_lines(journal, is_anew)
        for changed, arms in zip(self._changed, touched, strict=True):
            changed.update(arms)
        if is_ours(journal):
            _replace(shard.own.base, own)
            _replace(shard.shared.base, shared)
            self._changed[0].update(dict.fromkeys(own))
            self._changed[1].update(dict.fromkeys(shared))
        else:  # learnt from by another delivery, with other columns
            self._note(shard)
            shard.own.base, shard.shared.base = {}, {}

    def _note(self, shard: _Shard) -> None:
        """Note that all that is known from a shard may change."""
        for changed, sums in zip(self._changed, (shard.own, shard.shared), strict=True):
            changed.update(dict.fromkeys((*sums.base, *sums.now)))

    def make(self) -> Blend:
        """Make the model of all that was taken, put it in place of the last one, and return it."""
        own, shared = self._changed
        for shard in self._shards.values():
            for changed, arms in zip((own, shared), shard.add_lines(), strict=True):
                changed.update(dict.fromkeys(arms))
        self._changed = ({}, {})
        for arm_id in own:
            _set(self._own, arm_id, (shard.own.find(arm_id) for shard in self._shards.values()))
        for arm_id in shared:
            _set(self._shared, arm_id, (shard.shared.find(arm_id) for shard in self._shards.values()))
        decided_ms = max((shard.journal.decided_ms for shard in self._shards.values()), default=0)
        rules = RidgeRules(prior_mean=self._prior_mean, today=today(decided_ms))
        self.model = Blend(self._own, self._shared, rules, self.model)
        return self.model


def linear_key(key: str) -> LinearKey | None:
    """Return what a key of the learn stage's state names, where it is one of a linear model's."""
    return read_key(key) if is_linear_key(key) else None


def is_ours(journal: LinearJournal) -> bool:
    """Say whether a journal's lines and sums have the columns that delivery decides by."""
    return (journal.space, journal.own, journal.shared) == (Blend.space, OWN.dimension, Blend.dimension)


def _set(statistics: LinearStatistics, arm_id: str, parts: Iterable[LinearArm | None]) -> None:
    shards = [
        LinearStatistics(statistics.space, statistics.dimension, {arm_id: part}) for part in parts if part is not None
    ]
    if shards:
        statistics.arms[arm_id] = merge(shards).arms[arm_id]
    else:
        statistics.arms.pop(arm_id, None)


def _check(arms: Mapping[str, LinearArm | None], columns: int) -> None:
    for arm_id, arm in arms.items():
        if arm is not None:
            check(arm, columns, arm_id)


def _replace(base: dict[str, LinearArm], arms: Mapping[str, LinearArm | None]) -> None:
    for arm_id, arm in arms.items():
        if arm is None:
            base.pop(arm_id, None)
        else:
            base[arm_id] = arm
