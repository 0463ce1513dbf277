"""When to send: the visitor's hour, else the segment's, else everybody's, within what the line allows and can pay."""

from typing import Any

import pytest

from pipeline.core.catalogue import Catalogue
from pipeline.core.decide import Ask, decide, make_id
from pipeline.core.decide import Known as Model
from pipeline.core.policy import PolicyRules, Uniform
from pipeline.core.send_time import Known
from pipeline.delivery.memory import Found
from pipeline.delivery.offer import Offer, Whom
from pipeline.delivery.send import ANSWER_MS, DAYS_MIN, EXPLORED, Hours, Sends, SendTimes
from pipeline.edge.clickhouse import Unavailable
from schemas.campaign import DAY_MS, HOUR_MS
from schemas.outcome import DecisionLog
from schemas.profile import Profile, VisitorState
from schemas.spend import Hold
from tests.core.catalogue_rig import shop, stored

NOON_MS = 1_795_392_000_000 + 12 * HOUR_MS
KEEN = Profile(hours={20: 60.0}, visits=60, events=60)


def catalogue(**line: Any) -> Catalogue:
    """A line with a mail and a push placement."""
    return Catalogue(
        shop(
            stored("lines", "shoes", campaign="spring", placements=["mail", "push"], **line),
            stored("placements", "mail", channel="mail"),
            stored("placements", "push", channel="push"),
        )
    )


def times(found: Catalogue, *sends: Sends) -> SendTimes:
    made = SendTimes(lambda: found)
    made.hours = Hours(found, sends)
    return made


def sent(
    made: SendTimes, found: Catalogue, profile: Profile | None = None, number: int = 0
) -> tuple[DecisionLog, Offer]:
    place = found.placements["mail"]
    offer = Offer([one for line in place.lines for one in line.creatives], channel="mail")
    log = decide(Ask("mail", "", offer.candidates, 2), Model(Uniform({}, PolicyRules()), ""), made_id(number), "s")
    state = VisitorState(profile) if profile is not None else None
    return log, made.set(log, offer, Whom("", Found(state, 0), {}, "shop"))


def made_id(number: int) -> str:
    """An id that explores nothing, unless it is asked for by its number."""
    return make_id(NOON_MS, "", number)


def hour_of(offer: Offer) -> int:
    assert offer.sending is not None
    return offer.sending.send_ms // HOUR_MS % 24


def best(made: SendTimes, found: Catalogue, profile: Profile | None = None) -> Offer:
    """The first decision that does not explore."""
    offers = (sent(made, found, profile, number)[1] for number in range(100))
    return next(offer for offer in offers if offer.sending is not None and not offer.sending.is_explored)


def test_while_nothing_is_known_it_is_sent_at_once() -> None:
    found = catalogue()
    offer = best(times(found), found)
    assert offer.sending is not None
    assert (offer.sending.send_ms, offer.sending.advice.known) == (NOON_MS, Known.NOTHING)


def test_a_visitors_own_hour_is_taken_and_written_into_every_choice() -> None:
    found = catalogue()
    made = times(found)
    log, offer = sent(made, found, KEEN)
    assert offer.sending is not None
    assert {choice.send_ms for choice in log.choices} == {offer.sending.send_ms}
    offer = best(made, found, KEEN)
    assert (hour_of(offer), offer.sending and offer.sending.advice.known) == (20, Known.VISITOR)


def test_a_segments_answers_say_when_and_of_another_segment_everybodys_do() -> None:
    """The line's audience is its segment; the other line's sends are everybody's alone."""
    found = catalogue(audience="context.country == 'DE'")
    mine = [Sends("mail", "shoes", hour, 1_000, 300 if hour == 7 else 20) for hour in range(24)]
    theirs = [Sends("mail", "gone", hour, 9_000, 900 if hour == 16 else 180) for hour in range(24)]
    offer = best(times(found, *mine, *theirs), found)
    assert (hour_of(offer), offer.sending and offer.sending.advice.known) == (7, Known.SEGMENT)
    offer = best(times(found, *theirs), found)
    assert (hour_of(offer), offer.sending and offer.sending.advice.known) == (16, Known.ALL)
    pushed = [one._replace(placement_id="push") for one in theirs]
    assert best(times(found, *pushed), found).sending.advice.known is Known.NOTHING  # type: ignore[union-attr]


def test_hours_that_the_line_does_not_allow_are_never_taken_explored_or_not() -> None:
    found = catalogue(schedule={"hours": [{"from_hour": 9, "to_hour": 17}]})
    made = times(found)
    seen = {hour_of(sent(made, found, KEEN, number)[1]) for number in range(300)}
    assert seen <= set(range(9, 17))


def test_a_share_of_sends_explores_every_allowed_hour_and_the_same_decision_the_same_one() -> None:
    found = catalogue()
    made, draws = times(found), 2_000
    explored = [
        one for number in range(draws) if (one := sent(made, found, KEEN, number)[1].sending) and one.is_explored
    ]
    assert len({one.send_ms // HOUR_MS % 24 for one in explored}) == 24
    sigma = (draws * EXPLORED * (1 - EXPLORED)) ** 0.5
    assert abs(len(explored) - draws * EXPLORED) < 5 * sigma
    assert sent(made, found, KEEN, 7)[1].sending == sent(made, found, KEEN, 7)[1].sending


@pytest.mark.parametrize("what", ["click", "impression", "action", "hold"])
def test_what_money_or_a_piece_is_reserved_for_is_sent_at_once(what: str) -> None:
    """Both are reserved from the decision on: a mail that waited to the end of that would be read unbilled, unheld."""
    found = catalogue()
    offer = Offer([one for line in found.placements["mail"].lines for one in line.creatives], channel="mail")
    soon = Profile(hours={13: 60.0}, visits=60, events=60)
    at_ms = NOON_MS + 55 * 60_000
    for number in range(40):
        decision_id = make_id(at_ms, "", number)
        log = decide(Ask("mail", "", offer.candidates, 2), Model(Uniform({}, PolicyRules()), ""), decision_id, "s")
        if what == "hold":
            log.choices[-1].holds, log.choices[-1].hold_ms = (Hold("shop", "boat"),), HOUR_MS
        else:
            log.choices[-1].pays_for = what
        sending = times(found).set(log, offer, Whom("", Found(VisitorState(soon), 0), {}, "shop")).sending
        assert {choice.send_ms for choice in log.choices} == {at_ms}
        assert sending is not None
        assert not sending.is_explored


class Away:
    """A warehouse that does not answer."""

    def execute(self, sql: str, params: object = None) -> list[tuple[object, ...]]:
        raise Unavailable("away", None)


class Counted:
    """A warehouse that answers with known counts, and remembers for which time it was asked. days: of its visits."""

    def __init__(self, sends: list[tuple[object, ...]], days: int = 30) -> None:
        self.asked: list[Any] = []
        self.sends, self.days = sends, days

    def execute(self, sql: str, params: Any = None) -> list[tuple[object, ...]]:
        self.asked.append(params)
        if "FROM sessions" in sql:
            return [(18, 5_000, self.days), (3, 10, 1)]
        return self.sends


def test_while_the_warehouse_is_away_what_was_known_stays(caplog: pytest.LogCaptureFixture) -> None:
    found = catalogue()
    made = SendTimes(lambda: found)
    known = Counted([("mail", "shoes", 18, 1_000, 200), ("mail", "shoes", 3, 1_000, 10), ("unknown", "shoes", 3, 9, 9)])
    assert made.refresh(known, NOON_MS)
    assert known.asked[0]["to_ms"] == NOON_MS - ANSWER_MS
    assert known.asked[0]["from_ms"] < NOON_MS - 30 * DAY_MS
    assert hour_of(best(made, found)) == 18
    assert not made.refresh(Away(), NOON_MS)
    assert hour_of(best(made, found)) == 18
    assert "stay as they were known" in caplog.text


def test_visits_of_less_than_a_week_are_no_habit() -> None:
    """Who began this morning has seen visitors in the morning alone."""
    found = catalogue()
    made = SendTimes(lambda: found)
    for days, known in ((DAYS_MIN - 1, Known.NOTHING), (DAYS_MIN, Known.ALL)):
        assert made.refresh(Counted([], days), NOON_MS)
        sending = best(made, found).sending
        assert sending is not None
        assert sending.advice.known is known
