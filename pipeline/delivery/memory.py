"""What delivery knows: profiles and models, read from their topics by a thread, used by decisions without any wait.

A decision sees whole versions only: a policy is made beside the old one and then put in its place, and a partition that
is read anew replaces the old view once it is complete.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from pipeline.core.linear_policy import LINEAR_POLICIES, LinearRules
from pipeline.core.policies import ALL_POLICIES
from pipeline.core.policy import POLICIES, Policy, PolicyRules, merge
from pipeline.core.prior import Described, Priors, priors
from pipeline.core.state import NO_VERSION, StateView
from pipeline.delivery.linear import LinearMirror
from pipeline.edge import metrics
from pipeline.edge.clock import monotonic_s, now_ms
from pipeline.errors import SettingsError
from pipeline.settings import Settings
from schemas.block import partition_of
from schemas.linear import LinearKey, is_linear_key, read_key
from schemas.model import ArmStatistics, PlacementModel
from schemas.profile import VisitorState
from schemas.state import StateRecord
from schemas.topics import MODELS, PROFILES, Topic

log = logging.getLogger(__name__)

STALE_MS: Final = 15_000
"""Profiles and models get a record in each round, and ticks alone make rounds: silence means that a stage or the broker
is away."""
PROFILES_LOADING: Final = "profiles_loading"
REFRESH_S: Final = 0.1  # a placement's policy is made anew at most this often
PAUSE_TIMES: Final = 9
"""Making policies may take a tenth of the time: decisions wait for no model, but they share Python with this thread."""

_decode_visitor = msgspec.msgpack.Decoder(VisitorState).decode
_decode_model = msgspec.msgpack.Decoder(PlacementModel).decode


class PlacementPolicy(NamedTuple):
    """One placement's policy in use. model_version: `partition:offset,…` of the log up to which it has learnt."""

    policy: Policy
    model_version: str
    updated_ms: int


class Found(NamedTuple):
    """A visitor's state, and up to which offset of the visitor's partition it holds (-1: nothing was read yet).

    is_unreadable: there is a state, but this version of the code cannot read it.
    """

    state: VisitorState | None
    version: int
    is_unreadable: bool = False


class _Shard:
    """One partition of one topic. before: raw entries as they were, of the keys in a record that is not yet whole.

    until: the version from which on it is in use; -1: from where its reading says so. began: where it began.
    """

    def __init__(self, until: int = NO_VERSION, epoch: int = -1, began: int = 0) -> None:
        self.view = StateView()
        self.view.epoch, self.view.emptied_at = epoch, began
        self.until = until
        self.block_time_ms = 0
        self.before: dict[str, bytes | None] = {}
        self.is_loaded = False


class Memory:
    """Profiles and models in memory. Written by the follower's thread, read by the event loop."""

    def __init__(self, settings: Settings) -> None:
        """Start knowing nothing. Raises SettingsError where a setting names a policy that does not exist."""
        self._partitions = settings.partitions
        self._rules = PolicyRules(settings.policy_epsilon, settings.policy_prior_mean, settings.policy_prior_trials)
        self._names = _policy_names(settings)
        self._default = settings.policy_default
        self._in_use = {topic.name: self._empty() for topic in (PROFILES, MODELS)}
        self._loading = {topic.name: self._empty() for topic in (PROFILES, MODELS)}
        self._models: dict[str, dict[int, PlacementModel]] = {}
        self._policies: dict[str, PlacementPolicy] = {}
        self._changed: dict[str, None] = {}
        self._published: Mapping[str, str] = {}
        self._described: Mapping[str, Described] = {}
        self._others: dict[tuple[str, str], tuple[PlacementPolicy, PlacementPolicy]] = {}
        self._refreshed_s = self._took_s = 0.0
        self._linear = LinearRules(epsilon=settings.policy_epsilon, floor=settings.policy_floor)
        self._mirrors: dict[str, LinearMirror] = {}
        self._blank = LinearMirror(self._rules.prior_mean)
        self._untrained = {name: PlacementPolicy(self._made(name, {}, self._blank), "", 0) for name in ALL_POLICIES}

    def _empty(self) -> list[_Shard]:
        return [_Shard() for _ in range(self._partitions)]

    # Asked by decisions

    def visitor(self, visitor: str) -> Found:
        """Return what is known of a visitor. visitor: not ""."""
        shard = self._in_use[PROFILES.name][partition_of(visitor, self._partitions)]
        raw = shard.view.entries.get(visitor)
        try:
            return Found(_decode_visitor(raw) if raw is not None else None, shard.view.version)
        except msgspec.MsgspecError as error:
            log.error("profiles: an entry cannot be read and is not used: %s", error)
            return Found(None, shard.view.version, is_unreadable=True)

    def policy(self, placement_id: str, name: str = "") -> PlacementPolicy:
        """Return the policy of a placement; with the prior alone where nothing was learnt yet (model_version "").

        name: of another policy than the placement's own, for a test between the two: it knows the same sums. What needs
        more than sums, or is unknown, is the placement's own.
        """
        found = self._policies.get(placement_id)
        if found is None:
            found = self._untrained[self._name(placement_id)]
        if not name or name == found.policy.name or name not in POLICIES:
            return found
        of, other = self._others.get((placement_id, name), (None, found))
        if of is not found:
            other = found._replace(policy=POLICIES[name](found.policy.arms, self._rules, found.policy.priors))
            self._others[placement_id, name] = found, other
        return other

    def prefer(self, names: Mapping[str, str]) -> None:
        """Say which policies marketers have given to placements; they count before the settings'."""
        before, self._published = self._published, {key: name for key, name in names.items() if name in ALL_POLICIES}
        for placement_id in {**before, **self._published}:
            if before.get(placement_id) != self._published.get(placement_id) and placement_id in self._policies:
                self._changed[placement_id] = None

    def describe(self, features: Mapping[str, Described]) -> None:
        """Say what features published creatives have, by placement: what new ones are expected to earn, comes of it.

        features: a placement's value is the same object as before where nothing has changed.
        """
        before, self._described = self._described, features
        for placement_id in {**before, **features}:
            if before.get(placement_id) is not features.get(placement_id) and placement_id in self._policies:
                self._changed[placement_id] = None

    def is_known(self, placement_id: str) -> bool:
        """Say whether anything was learnt of a placement."""
        return placement_id in self._policies

    def degraded(self, visitor: str, time_ms: int) -> list[str]:
        """Return what a decision of this visitor (or of "") at this time has to do without."""
        missing = []
        if visitor:
            profiles = self._in_use[PROFILES.name][partition_of(visitor, self._partitions)]
            if not profiles.is_loaded:
                missing.append(PROFILES_LOADING)
            elif time_ms - profiles.block_time_ms > STALE_MS:
                missing.append("profiles_stale")
        models = self._in_use[MODELS.name]
        if not all(shard.is_loaded for shard in models):
            missing.append("models_loading")
        elif time_ms - min(shard.block_time_ms for shard in models) > STALE_MS:
            missing.append("models_stale")
        return missing

    def profiles_version(self, partition: int) -> int:
        """Return up to which version a partition of the profiles is known."""
        return self._in_use[PROFILES.name][partition].view.version

    def profiles_ms(self, partition: int) -> int:
        """Return up to which time of the log a partition of the profiles is known, 0 where nothing is."""
        return self._in_use[PROFILES.name][partition].block_time_ms

    @property
    def is_loaded(self) -> bool:
        """True once every partition has been read up to where it ended when its reading began."""
        return all(shard.is_loaded for shards in self._in_use.values() for shard in shards)

    # Told by the follower

    def begin(self, topic: Topic, partition: int) -> None:
        """See Reader. What was known stays in use until the new reading is complete."""
        self._loading[topic.name][partition] = _Shard()

    def take(self, topic: Topic, partition: int, record: StateRecord, offset: int) -> None:
        """See Reader."""
        shard = self._loading[topic.name][partition]
        if shard.view.goes_back(record) and record.epoch >= shard.view.epoch:
            # The stage computes its state again: until that has come as far, what was known stays in use.
            until = shard.view.version if shard.is_loaded else shard.until
            shard = self._loading[topic.name][partition] = _Shard(until, shard.view.epoch, offset)
        is_model = topic is MODELS
        if is_model and record.epoch >= shard.view.epoch:
            for key in (*(key for key, _ in record.puts), *record.deletes):
                shard.before.setdefault(key, shard.view.entries.get(key))
        if not shard.view.apply(record, offset) or record.kind == "fence":
            return
        if record.block_time_ms:
            shard.block_time_ms = max(shard.block_time_ms, record.block_time_ms)
        if record.more:
            return
        if not shard.is_loaded and NO_VERSION < shard.until <= shard.view.version and shard.view.is_whole:
            self.loaded(topic, partition)
        if not shard.is_loaded:
            return
        if is_model:
            self._learn(partition, shard)
        elif record.puts and record.block_time_ms:
            metrics.USABLE_SECONDS.observe(max(0, now_ms() - record.block_time_ms) / 1_000)

    def loaded(self, topic: Topic, partition: int) -> None:
        """See Reader. From now on the new reading is in use, and goes on."""
        shard = self._loading[topic.name][partition]
        if topic is MODELS:
            shard.before = dict.fromkeys(shard.view.entries)
            for placement_id, models in self._models.items():
                if models.pop(partition, None) is not None:
                    self._changed[placement_id] = None
            for mirror in self._mirrors.values():
                mirror.forget(partition)
            self._learn(partition, shard)
        shard.is_loaded = True
        self._in_use[topic.name][partition] = shard

    def pause(self) -> None:
        """See Reader. Makes the policies of changed placements, a short while after the last time."""
        now_s = monotonic_s()
        if self._changed and now_s - self._refreshed_s >= max(REFRESH_S, PAUSE_TIMES * self._took_s):
            changed, self._changed = self._changed, {}
            for placement_id in changed:
                self._refresh(placement_id)
            self._refreshed_s = monotonic_s()
            self._took_s = self._refreshed_s - now_s
        metrics.PROFILES.set(sum(len(shard.view.entries) for shard in self._in_use[PROFILES.name]))
        newest = max((found.updated_ms for found in self._policies.values()), default=0)
        if newest:
            metrics.MODEL_AGE.set(max(0, now_ms() - newest) / 1_000)

    def _learn(self, partition: int, shard: _Shard) -> None:
        linear: dict[str, dict[LinearKey, bytes | None]] = {}
        for key, before in shard.before.items():
            raw = shard.view.entries.get(key)
            if raw == before:
                continue  # swept, not changed
            if not is_linear_key(key):
                self._learn_sums(partition, key, raw)
                continue
            with _told(partition, key):
                found = read_key(key)
                linear.setdefault(found.placement_id, {})[found] = raw
        shard.before.clear()
        for placement_id, changes in linear.items():
            if self._name(placement_id) in LINEAR_POLICIES:
                mirror = self._mirror(placement_id)
                with _told(partition, placement_id):
                    mirror.take(partition, changes)
                self._changed[placement_id] = None

    def _learn_sums(self, partition: int, placement_id: str, raw: bytes | None) -> None:
        models = self._models.setdefault(placement_id, {})
        if raw is None:
            models.pop(partition, None)
        else:
            with _told(partition, placement_id):
                models[partition] = _decode_model(raw)
        self._changed[placement_id] = None

    def _name(self, placement_id: str) -> str:
        return self._published.get(placement_id) or self._names.get(placement_id, self._default)

    def _made(
        self, name: str, arms: Mapping[str, ArmStatistics], mirror: LinearMirror, expected: Priors | None = None
    ) -> Policy:
        if name in LINEAR_POLICIES:
            return LINEAR_POLICIES[name](arms, self._rules, mirror.make(), self._linear)
        return POLICIES[name](arms, self._rules, expected)

    def _refresh(self, placement_id: str) -> None:
        models = self._models.get(placement_id, {})
        name = self._name(placement_id)
        arms, rules = merge([model.arms for model in models.values()]), self._rules
        expected = priors(arms, rules.prior_mean, rules.prior_trials, self._described.get(placement_id))
        policy = self._made(name, arms, self._mirror(placement_id), expected)
        shards = self._loading[MODELS.name]
        version = ",".join(f"{partition}:{shards[partition].view.version}" for partition in sorted(models))
        updated_ms = max((model.updated_ms for model in models.values()), default=0)
        self._policies[placement_id] = PlacementPolicy(policy, version, updated_ms)

    def _mirror(self, placement_id: str) -> LinearMirror:
        """Return what is known of a placement beside its plain sums; a linear policy needs it from the first on."""
        known = self._mirrors.get(placement_id, self._blank)
        if known is self._blank and self._name(placement_id) in LINEAR_POLICIES:
            known = self._mirrors[placement_id] = LinearMirror(self._rules.prior_mean)
        return known


@contextlib.contextmanager
def _told(partition: int, key: str) -> Iterator[None]:
    """Tell of an entry that this version of the code cannot read; what was known stays."""
    try:
        yield
    except (msgspec.MsgspecError, ValueError) as error:
        log.error("models[%d]: the entry of %r cannot be read, the last one stays: %s", partition, key, error)


def _policy_names(settings: Settings) -> Mapping[str, str]:
    for where, name in (
        ("HERALD_POLICY_DEFAULT", settings.policy_default),
        *((f"HERALD_POLICY_PLACEMENTS: {placement}", name) for placement, name in settings.policy_placements.items()),
    ):
        if name not in ALL_POLICIES:
            raise SettingsError(f"{where} = {name!r}: expected one of {', '.join(sorted(ALL_POLICIES))}")
    return dict(settings.policy_placements)
