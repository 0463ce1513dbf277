"""What marketers have published, as delivery uses it: who may be shown what, within caps, stock, budgets and tests.

A thread makes the catalogue anew when something was changed and puts it in place whole; decisions only read it.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET

from pipeline.core.audience import Audience, Facts, parse
from pipeline.core.catalogue import Catalogue, LivePlacement
from pipeline.core.decide import time_of
from pipeline.core.eligibility import Reason, Visit, eligible
from pipeline.core.experiment.assign import Assignment, Plan, assign, plan
from pipeline.core.prior import Described, described
from pipeline.core.profile import ProfileRules
from pipeline.delivery.arms import features_of, show_arms
from pipeline.delivery.counted import Counted
from pipeline.delivery.memory import Memory
from pipeline.delivery.offer import Offer, Place, Whom
from pipeline.delivery.problems import Problem, away
from pipeline.delivery.sale import Sale
from pipeline.delivery.slots import Slots
from pipeline.delivery.till import Till
from pipeline.edge.catalogue import Catalogue as Follower
from pipeline.settings import Settings
from schemas.campaign import Status, Stored
from schemas.experiment import Experiment, Holdout
from schemas.outcome import DecisionLog
from schemas.profile import Profile

log = logging.getLogger(__name__)

GATHER_S: Final = 0.05
"""Changes that come together are compiled together."""
SHOW_EVERY_S: Final = 10.0
"""How often the metrics of what was learnt are brought up to date."""

_Features = Mapping[str, tuple[Mapping[str, Mapping[str, object]], Described]]
"""Placement -> its creatives' features, as they are and as vectors; of those where any has some."""


class Shelf(NamedTuple):
    """All that is published, compiled, in one version."""

    catalogue: Catalogue
    experiments: Plan
    factors: Mapping[tuple[str, str], Mapping[str, str]]  # (experiment, variant) -> what it is made of
    worths: Mapping[str, int]  # placement -> what a reward of 1 is worth, micros; of those that say it
    capped: Set[str]  # placements where something has a cap, and groups of such


class Published:
    """Belongs to the event loop's thread, but for `take` and `remove`."""

    def __init__(
        self, settings: Settings, memory: Memory, till: Till, cap_salt: bytes, slots: Slots | None = None
    ) -> None:
        """memory: told which policies placements have. till: budgets, pacing and stock.

        cap_salt: secret of cap keys, 16 bytes or more. slots: for whom this process counts caps; None = for everybody.
        """
        self._memory = memory
        self.till = till
        self.counted = Counted(memory, cap_salt, slots)
        self._holdout = Holdout(share=settings.holdout_share)
        self._rules = ProfileRules(
            gap_ms=settings.session_gap_ms,
            interest_half_life_ms=settings.interest_half_life_ms,
            interests_max=settings.interests_max,
        )
        self._objects: dict[tuple[str, str], Stored] = {}
        self._changed, self._stopping = threading.Event(), threading.Event()
        self._told, self._compiled_told = 0, 0  # changes heard of, and those that are in use
        self._was_loaded = False
        self._tested: Mapping[tuple[str, str], Stored] = {}  # experiments that the plan and the factors are made of
        self._factors: Mapping[tuple[str, str], Mapping[str, str]] = {}
        self._features: _Features = {}
        self._plan = plan((), self._holdout)
        self.shelf = self._compiled({})
        self._follower = Follower(settings, self.take, self.remove)
        self._thread = threading.Thread(target=self._compile, name="catalogue-compiler", daemon=True)

    # Told by the follower's thread

    def take(self, stored: Stored) -> None:
        """Note an object as it now stands."""
        self._objects[stored.kind, stored.id] = stored
        self._told += 1
        self._changed.set()

    def remove(self, kind: str, key: str) -> None:
        """Note that there is no such object."""
        self._objects.pop((kind, key), None)
        self._told += 1
        self._changed.set()

    def start(self) -> None:
        """Begin to read and to compile what comes, and to ask whose caps are counted here; returns at once."""
        self._follower.start()
        self._thread.start()
        self.counted.start()

    @property
    def is_loaded(self) -> bool:
        """True once all that was published at the start is in use; it stays true."""
        if not self._was_loaded:
            self._was_loaded = self._follower.is_loaded and self._compiled_told == self._told
        return self._was_loaded

    def stop(self) -> None:
        """Hand over whose caps are counted here, end all threads and wait for them."""
        self.counted.stop()
        self._follower.stop()
        self._stopping.set()
        self._changed.set()
        self._thread.join(timeout=10)

    def _compile(self) -> None:
        while True:
            if not self._changed.wait(SHOW_EVERY_S):
                show_arms(self.shelf.catalogue, self._memory)
                continue
            if self._stopping.wait(GATHER_S):
                return
            self._changed.clear()
            told = self._told
            shelf = self._compiled(self._objects.copy(), self.shelf.catalogue)
            self.till.publish(shelf.catalogue)
            self._memory.prefer({one.id: one.body.policy for one in shelf.catalogue.placements.values()})
            self._features = _features(shelf.catalogue, self._features)
            self._memory.describe({name: found for name, (_, found) in self._features.items()})
            self.shelf, self._compiled_told = shelf, told
            show_arms(shelf.catalogue, self._memory)

    def _compiled(self, objects: Mapping[tuple[str, str], Stored], before: Catalogue | None = None) -> Shelf:
        catalogue = Catalogue(objects, before=before)
        for name, why in catalogue.unreadable.items():
            log.warning("%s is left out: %s", name, why)
        tested = {name: stored for name, stored in objects.items() if name[0] == "experiments"}
        if tested != self._tested:  # a plan takes some 20 ms, and most changes are of other things
            found = list(_experiments(tested))
            self._factors = {(one.id, variant.name): variant.factors for one in found for variant in one.variants}
            self._plan, self._tested = plan(found, self._holdout), tested
        worths = {one.id: worth for one in catalogue.placements.values() if (worth := one.body.reward_worth_micros)}
        return Shelf(catalogue, self._plan, self._factors, worths, _capped(catalogue))

    # Asked by decisions

    def weigh(self, made: DecisionLog) -> None:
        """Write into the choices what a reward of 1 is worth in their placement, whoever gave the actions."""
        worths = self.shelf.worths
        worth = worths.get(made.placement_id, 0)
        if made.group is not UNSET:  # rewards of different members are compared
            worth = worths.get(made.group.placement_id, worth)
        for choice in made.choices:
            choice.worth_micros = worth

    def knows(self, placement: str) -> bool:
        """Say whether a placement is published."""
        return self.shelf.catalogue.placement(placement) is not None

    def elsewhere(self, places: Sequence[Place], visitor: str, cap_hint: str, time_ms: int) -> str:
        """Return the address of the process that counts the visitor's caps; "" where nothing has one, or this one does.

        cap_hint: of one without consent.
        """
        capped = self.shelf.capped
        if not capped or not any(place.placement in capped and not place.actions for place in places):
            return ""
        return self.counted.elsewhere(visitor, cap_hint, time_ms)

    def check(self, placement: str) -> None:
        """Raise Problem 404 where a placement is not published, 503 where that is not known yet."""
        if not self.knows(placement):
            if not self.is_loaded:
                raise away("campaigns are still being read")
            expected = "expected one that is, or actions to choose from"
            raise Problem(
                404,
                "unknown_placement",
                f"placement {placement[:64]!r} is not published; {expected}",
                [("placement", expected)],
            )

    def audience(self, line_id: str) -> Audience:
        """Return a published line's audience. Raises Problem 404 where none of this id is published."""
        line = self.shelf.catalogue.lines.get(line_id)
        if line is None:
            expected = "expected one that is published, under a campaign and advertiser that are"
            raise Problem(404, "unknown_line", f"line {line_id!r}: {expected}", [("line", expected)])
        return line.audience or parse("")

    def objects(self) -> dict[tuple[str, str], Stored]:
        """Return every object as it now stands, by kind and id: those that were published once."""
        return self._objects.copy()

    def facts(self, whom: Whom, time_ms: int) -> Facts:
        """Return what audiences know of a visitor."""
        return self._facts(whom, assign(self.shelf.experiments, whom.visitor, "", time_ms), time_ms)

    def members(self, placement: str) -> Sequence[str]:
        """Return the placements that a group chooses among; none where it is no group."""
        live = self.shelf.catalogue.placements.get(placement)
        return live.body.members if live is not None else ()

    def offer(
        self, place: Place, whom: Whom, page: Set[str], gone: Mapping[str, str], decision_id: str, member: str = ""
    ) -> Offer:
        """Return what may be shown there now. page: creatives elsewhere on it.

        gone: creative -> why it just fell out. member: the placement meant, where the one asked for is a group.
        """
        shelf, time_ms = self.shelf, time_of(decision_id)
        live = shelf.catalogue.placement(member or place.placement)
        if live is None:  # taken back since it was checked
            return Offer([], fallback={})
        fallback = dict(live.body.fallback)
        assigned = assign(shelf.experiments, whom.visitor, live.id, time_ms)
        context = {"experiments": assigned.variants} if assigned.variants else {}
        policy = next(filter(None, (shelf.factors.get(one, {}).get("policy") for one in assigned.variants.items())), "")
        if assigned.is_held_out:
            held_out = dict.fromkeys([*_creatives(live), *live.body.members], Reason.HOLDOUT.value)
            return Offer([], held_out, None, fallback, context)
        facts = self._facts(whom, assigned, time_ms)
        means = self.till.view(live, whom, decision_id, time_ms)
        has_consent, caps = not whom.no_consent, self.counted.view(whom, time_ms, live.id in shelf.capped)
        exclude, only = (frozenset(names) if names else () for names in (place.exclude, place.only))
        visit = Visit(facts, has_consent, caps, means, means, page, exclude, only)
        candidates, excluded = eligible(live, visit)
        if gone:
            excluded |= {one.id: gone[one.id] for one in candidates if one.id in gone}
            candidates = [one for one in candidates if one.id not in gone]
        return Offer(candidates, excluded, visit, fallback, context, policy, live.body.channel.value)

    def sale(self, offer: Offer, whom: Whom, decision_id: str, count: int) -> Sale:
        """Return what reserves a decision's choices, as they are drawn. offer: of `offer`. count: as many at most."""
        return Sale(self.till, self.counted, offer, whom, (decision_id, count))

    def _facts(self, whom: Whom, assigned: Assignment, time_ms: int) -> Facts:
        profile = None
        if whom.visitor:
            profile = whom.found.state.profile if whom.found.state is not None else Profile()
        variants = {f"experiment.{name}": variant for name, variant in assigned.variants.items()}
        return Facts(time_ms, profile, {**whom.context, **variants}, self._rules)


def _experiments(objects: Mapping[tuple[str, str], Stored]) -> Iterator[Experiment]:
    """Yield the published ones of these; one that cannot be read, or finds no visitors left, is left out and told."""
    running: list[Experiment] = []
    for (_, key), stored in sorted(objects.items()):
        if stored.status is not Status.PUBLISHED:
            continue
        try:
            found = Experiment.model_validate_json(msgspec.json.encode(stored.body))
            plan([*running, found])
        except ValueError as error:
            log.warning("experiments/%s is left out: %s", key, error)
        else:
            running.append(found)
            yield found


def _features(catalogue: Catalogue, before: _Features) -> _Features:
    """Return what the creatives of each placement are like; the very same as before where nothing has changed."""
    found: dict[str, tuple[Mapping[str, Mapping[str, object]], Described]] = {}
    for name, place in catalogue.placements.items():
        features = features_of(place)
        known = before.get(name)
        if known is not None and known[0] == features:
            found[name] = known
        elif (vectors := described(features)) is not None:
            found[name] = features, vectors
    return found


def _capped(catalogue: Catalogue) -> Set[str]:
    """Placements where something has a cap, and groups that have such a member."""
    places = catalogue.placements
    found = {
        name
        for name, place in places.items()
        if any(line.caps or any(creative.caps for creative in line.creatives) for line in place.lines)
    }
    return found | {name for name, place in places.items() if not found.isdisjoint(place.body.members)}


def _creatives(place: LivePlacement) -> Sequence[str]:
    return [creative.id for line in place.lines for creative in line.creatives]
