"""What marketers have published, as delivery uses it: who may be shown what, within caps, stock, budgets and tests.

A thread makes the catalogue anew when something was changed and puts it in place whole; decisions only read it.
"""

import html
import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Final, NamedTuple

import msgspec

from pipeline.core.audience import Audience, Facts, parse
from pipeline.core.audience_fields import BY_NAME
from pipeline.core.caps import CapCounts, OwnShows, cap_key
from pipeline.core.catalogue import Catalogue, LiveCreative, LivePlacement
from pipeline.core.decide import time_of
from pipeline.core.eligibility import Reason, Visit, eligible
from pipeline.core.experiment.assign import Assignment, Plan, assign, plan
from pipeline.core.profile import ProfileRules
from pipeline.delivery.arms import show_arms
from pipeline.delivery.memory import PROFILES_LOADING, Memory
from pipeline.delivery.offer import Offer, Place, Whom
from pipeline.delivery.problems import Problem, away
from pipeline.delivery.till import Till
from pipeline.edge.catalogue import Catalogue as Follower
from pipeline.settings import Settings
from schemas.campaign import Status, Stored
from schemas.experiment import Experiment, Holdout
from schemas.outcome import Choice, DecisionLog
from schemas.profile import Profile

log = logging.getLogger(__name__)

GATHER_S: Final = 0.05
"""Changes that come together are compiled together."""
SHOW_EVERY_S: Final = 10.0
"""How often the metrics of what was learnt are brought up to date."""
_PLACE: Final = re.compile(r"\{(profile|session|context)\.([A-Za-z0-9_.-]{1,64})\}")
_DAY_MS: Final = 86_400_000


class Shelf(NamedTuple):
    """All that is published, compiled, in one version."""

    catalogue: Catalogue
    experiments: Plan
    factors: Mapping[tuple[str, str], Mapping[str, str]]  # (experiment, variant) -> what it is made of


class Published:
    """Belongs to the event loop's thread, but for `take` and `remove`."""

    def __init__(self, settings: Settings, memory: Memory, till: Till, cap_salt: bytes) -> None:
        """memory: told which policies placements have. till: budgets, pacing and stock.

        cap_salt: secret of cap keys, 16 to 64 bytes.
        """
        self._memory = memory
        self._till = till
        self._salt = cap_salt
        self._holdout = Holdout(share=settings.holdout_share)
        self._rules = ProfileRules(
            gap_ms=settings.session_gap_ms,
            interest_half_life_ms=settings.interest_half_life_ms,
            interests_max=settings.interests_max,
        )
        self._objects: dict[tuple[str, str], Stored] = {}
        self._own, self._own_today = OwnShows(), OwnShows()
        self._changed, self._stopping = threading.Event(), threading.Event()
        self._told, self._compiled_told = 0, 0  # changes heard of, and those that are in use
        self._was_loaded = False
        self._tested: Mapping[tuple[str, str], Stored] = {}  # experiments that the plan and the factors are made of
        self._factors: Mapping[tuple[str, str], Mapping[str, str]] = {}
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
        """Begin to read and to compile what comes; returns at once."""
        self._follower.start()
        self._thread.start()

    @property
    def is_loaded(self) -> bool:
        """True once all that was published at the start is in use; it stays true."""
        if not self._was_loaded:
            self._was_loaded = self._follower.is_loaded and self._compiled_told == self._told
        return self._was_loaded

    def stop(self) -> None:
        """End both threads and wait for them."""
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
            self._till.publish(shelf.catalogue)
            self._memory.prefer({one.id: one.body.policy for one in shelf.catalogue.placements.values()})
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
        return Shelf(catalogue, self._plan, self._factors)

    # Asked by decisions

    def knows(self, placement: str) -> bool:
        """Say whether a placement is published."""
        return self.shelf.catalogue.placement(placement) is not None

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

    def facts(self, whom: Whom, time_ms: int) -> Facts:
        """Return what audiences know of a visitor."""
        return self._facts(whom, assign(self.shelf.experiments, whom.visitor, "", time_ms), time_ms)

    def offer(self, place: Place, whom: Whom, page: Set[str], gone: Mapping[str, str], decision_id: str) -> Offer:
        """Return what may be shown there now. page: creatives elsewhere on it. gone: line -> why it just fell out."""
        shelf, time_ms = self.shelf, time_of(decision_id)
        live = shelf.catalogue.placement(place.placement)
        if live is None:  # taken back since it was checked
            return Offer([], fallback={})
        fallback = dict(live.body.fallback)
        assigned = assign(shelf.experiments, whom.visitor, live.id, time_ms)
        context = {"experiments": assigned.variants} if assigned.variants else {}
        policy = next(filter(None, (shelf.factors.get(one, {}).get("policy") for one in assigned.variants.items())), "")
        if assigned.is_held_out:
            return Offer([], dict.fromkeys(_creatives(live), Reason.HOLDOUT.value), {}, fallback, context)
        facts = self._facts(whom, assigned, time_ms)
        means = self._till.view(live, whom.site, decision_id, time_ms)
        has_consent, caps = not whom.no_consent, self._caps(whom, time_ms)
        visit = Visit(facts, has_consent, caps, means, means, page, exclude=place.exclude, only=place.only)
        candidates, excluded = eligible(live, visit)
        excluded |= {one.id: gone[one.line_id] for one in candidates if one.line_id in gone}
        left = [one for one in candidates if one.line_id not in gone]
        contents = {one.id: _content(one, facts) for one in left}
        return Offer(left, excluded, contents, fallback, context, policy)

    def reserve(self, made: DecisionLog, offer: Offer, whom: Whom) -> str:
        """Reserve what the choices cost, and write it into them; count them for caps.

        Returns "", or the id of a line for which there is no money left; then nothing is reserved.
        """
        time_ms = time_of(made.decision_id)
        priced = {one.id: one for one in offer.candidates if isinstance(one, LiveCreative)}
        done: list[Choice] = []
        for choice in made.choices:
            line = priced[choice.action_id].line
            choice.line_id = line.id
            if not self._till.reserve(line, choice, time_ms):
                for one in done:
                    self._till.give_back(one)
                return line.id
            done.append(choice)
        self._note(made, whom, time_ms)
        return ""

    def _note(self, made: DecisionLog, whom: Whom, time_ms: int) -> None:
        if whom.visitor:
            self._own.note(whom.visitor, made.decision_id, time_ms, made.choices)
        elif whom.cap_hint:
            key = cap_key(self._salt, _day(time_ms), whom.cap_hint)
            self._own_today.note(key, made.decision_id, time_ms, made.choices)

    def _caps(self, whom: Whom, time_ms: int) -> CapCounts | None:
        """What was shown to the visitor; None where that cannot be known."""
        if whom.visitor:
            if PROFILES_LOADING in whom.missing or whom.found.is_unreadable:
                return None
            state = whom.found.state
            return CapCounts(state, self._own.of(whom.visitor, state, time_ms), time_ms)
        if not whom.cap_hint:
            return None
        day = _day(time_ms)
        self._own_today.turn(day)
        key = cap_key(self._salt, day, whom.cap_hint)
        return CapCounts(None, self._own_today.of(key, None, time_ms), time_ms)

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


def _creatives(place: LivePlacement) -> Sequence[str]:
    return [creative.id for line in place.lines for creative in line.creatives]


def _day(time_ms: int) -> str:
    return str(time_ms // _DAY_MS)


def _content(creative: LiveCreative, facts: Facts) -> dict[str, str]:
    """Return what to show; in a dynamic one what is known is put in, escaped for HTML, and the unknown is nothing."""
    if creative.kind != "dynamic":
        return dict(creative.content)

    def value(found: re.Match[str]) -> str:
        source, name = found.groups()
        if source == "context":
            known = facts.context.get(name)
        else:
            field = BY_NAME.get(f"{source}.{name}")
            known = field.read(facts) if field is not None else None
        return "" if known is None or isinstance(known, dict) else html.escape(str(known))

    return {part: _PLACE.sub(value, text) for part, text in creative.content.items()}
