"""What one decision is made among: actions of the request itself, or what marketers have published."""

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from pipeline.core.catalogue import LiveCreative
from pipeline.core.decide import Candidate
from pipeline.core.eligibility import Reason, Visit
from pipeline.core.send_time import SendTime
from pipeline.delivery.api import ActionIn, Made
from pipeline.delivery.content import content_of
from pipeline.delivery.memory import Found

NOBODY: Final = Found(None, -1)
"""What is known without a visitor's id."""
ON_PAGE: Final = Reason.ON_PAGE.value
"""Why an action falls out that stands elsewhere on the same page."""


class Place(Protocol):
    """One place asked for."""

    @property
    def placement(self) -> str:
        """Which."""

    @property
    def actions(self) -> Sequence[ActionIn]:
        """To choose from; none = what is published."""

    @property
    def exclude(self) -> Sequence[str]:
        """Published creatives, lines and campaigns that are not wanted."""

    @property
    def only(self) -> Sequence[str]:
        """Published creatives, lines and campaigns of which one is wanted; none = any."""

    @property
    def count(self) -> int:
        """How many different actions, at most."""

    @property
    def made(self) -> Made | None:
        """The choice, where somebody else has made it."""


class Whom(NamedTuple):
    """Whom a decision is for. visitor: "" without consent or id. cap_hint: what caps may go by then.

    site: under which it is counted. missing: what the decision has to do without, as `Memory.degraded` says it.
    """

    visitor: str
    found: Found
    context: Mapping[str, object]
    site: str
    no_consent: bool = False
    cap_hint: str = ""
    missing: Sequence[str] = ()


class Sending(NamedTuple):
    """When to send. send_ms: ms since 1970 UTC. advice: the best hour, and how sure it is.

    is_explored: it is another hour than that, so that something is learnt of it.
    """

    send_ms: int
    advice: SendTime
    is_explored: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """What may be chosen, and why the rest may not.

    visit: what is known of it, of published ones. fallback: what the placement shows where nothing is left.
    context: to be logged with the decision. policy: of the experiment's variant; "" = the placement's own.
    channel: of a published placement. sending: when to send what was chosen, where something is sent. group: the
    placement asked for, where it is a group.
    """

    candidates: Sequence[Candidate]
    excluded: Mapping[str, str] = field(default_factory=dict)
    visit: Visit | None = None
    fallback: dict[str, str] | None = None
    context: Mapping[str, object] = field(default_factory=dict)
    policy: str = ""
    channel: str = ""
    sending: Sending | None = None
    group: str = ""

    def found(self, action_ids: Collection[str]) -> dict[str, Candidate]:
        """Return those of the candidates; of two with one id the first, which is the one that counts."""
        found: dict[str, Candidate] = {}
        for one in self.candidates:
            if one.id in action_ids:
                found.setdefault(one.id, one)
        return found

    def content(self, candidate: Candidate) -> dict[str, str] | None:
        """What to show for a candidate; None where the caller knows."""
        if self.visit is None or not isinstance(candidate, LiveCreative):
            return None
        return content_of(candidate, self.visit.facts)


def of_request(actions: Sequence[ActionIn], page: Set[str]) -> Offer:
    """Return a request's own actions as an offer. page: ids that stand elsewhere on the page."""
    if not page or page.isdisjoint([action.id for action in actions]):
        return Offer(actions)
    excluded = {action.id: ON_PAGE for action in actions if action.id in page}
    return Offer([action for action in actions if action.id not in page], excluded)
