"""Several choices of one decision, or of one page: none is shown that the ones before took the last of."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sale_rig import Shop, shops

from pipeline.core.decide import Ask, Known, decide, make_id
from pipeline.core.redraw import redraw
from pipeline.core.shown import STAMPS_MAX
from pipeline.delivery.api import DecisionRequest, PageAnswer
from pipeline.delivery.counted import Counted
from pipeline.delivery.offer import NOBODY, Whom
from pipeline.delivery.sale import Sale
from pipeline.edge.clock import now_ms
from schemas.outcome import Choice, DecisionLog

DAILY = [{"count": 1, "per": "day"}]
TWICE = [{"count": 2, "per": "day"}]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shops(tmp_path_factory.mktemp("sale")) as made:
        yield made


def priced(units: int) -> dict[str, Any]:
    """What makes a line pay for so many, 1,000 micros each."""
    return {"price": {"per": "click", "micros": 1_000}, "budget": {"total_micros": units * 1_000}, "pacing": "asap"}


@pytest.mark.parametrize(("name", "caps", "line", "count"), [
    ("of-campaign", DAILY, [], 1),
    ("of-line", [], DAILY, 1),
    ("of-both", TWICE, [{"count": 3, "per": "hour"}], 2),
    ("of-life", [], [{"count": 3, "per": "lifetime"}], 3),
])  # fmt: skip
def test_a_count_never_passes_a_cap_of_line_or_campaign(
    shop: Shop, name: str, caps: list[dict[str, Any]], line: list[dict[str, Any]], count: int
) -> None:
    shop.campaign(name, 5, {"caps": caps}, caps=line)
    for visitor, asked in (("ann", {}), ("", {"consent": False, "cap_hint": f"browser {name}"})):
        answer = shop.decide(name, visitor, count=5, **asked)
        assert len(answer.actions) == count
        log = shop.log(answer)
        left = set(log.candidates) - {one.id for one in answer.actions}
        assert {log.excluded[one].rpartition(":")[0] for one in left} <= {
            f"taken:{count - 1}:cap:line", f"taken:{count - 1}:cap:campaign",
        }  # fmt: skip
        assert redraw(log).differences == []
        assert shop.shown(name, visitor, count=5, **asked) == []


def test_what_has_room_is_shown_beside_what_has_none_any_more(shop: Shop) -> None:
    """Two creatives of which one may be shown, two others of which one may, and two without a cap."""
    shop.campaign("mixed", 2, {"caps": DAILY})
    for line, caps in (("mixed-b", DAILY), ("mixed-c", ())):
        shop.publish("campaigns", line, advertiser="mixed")
        shop.publish("lines", line, campaign=line, placements=["mixed"], caps=caps)
        for at in range(2):
            shop.publish("creatives", f"{line}-{at}", line=line)
    shop.in_use()
    for number in range(40):
        answer = shop.decide("mixed", f"v{number}", count=6)
        assert Counter(one.line_id for one in answer.actions) == {"mixed": 1, "mixed-b": 1, "mixed-c": 2}
        assert redraw(shop.log(answer)).differences == []


def test_a_campaigns_cap_counts_the_choices_of_all_its_lines(shop: Shop) -> None:
    shop.campaign("both", 3, {"caps": TWICE})
    shop.publish("lines", "both-b", campaign="both", placements=["both"], caps=[{"count": 9, "per": "hour"}])
    for at in range(3):
        shop.publish("creatives", f"both-b-{at}", line="both-b")
    shop.in_use()
    logs = [shop.log(shop.decide("both", f"v{number}", count=6)) for number in range(30)]
    assert {len(log.choices) for log in logs} == {2}
    assert {len({choice.line_id for choice in log.choices}) for log in logs} == {1, 2}
    assert {why for log in logs for why in log.excluded.values()} == {"taken:1:cap:campaign:day"}


def test_several_places_of_a_page_never_pass_a_cap_together(shop: Shop) -> None:
    shop.campaign("page", 6, caps=[{"count": 3, "per": "day"}])
    for visitor, more in (("ann", {}), ("", {"consent": False, "cap_hint": "browser page"})):
        places = [{"placement": "page", "count": 2}] * 3
        page = shop.page(*places, visitor=visitor, **more)
        assert isinstance(page, PageAnswer)
        assert [len(one.actions) for one in page.decisions] == [2, 1, 0]


def test_money_for_one_shows_one_whatever_the_count(shop: Shop) -> None:
    shop.campaign("poor", 3, **priced(1))
    shop.lease("poor")
    answer = shop.decide("poor", count=2)
    log = shop.log(answer)
    assert (len(answer.actions), log.choices[0].propensity) == (1, pytest.approx(1 / 3))
    assert sorted(log.excluded.values()) == ["taken:0:budget"] * 2
    assert shop.shown("poor", count=2) == []


def test_the_last_piece_goes_to_each_as_often_as_the_log_says_and_every_sale_is_made(shop: Shop) -> None:
    """Nobody knows these visitors; four creatives hold one sku, of which one piece is left; one holds another."""
    shop.campaign("boats", 4, skus=["boat"], hold_ms=600_000)
    shop.publish("lines", "ropes", campaign="boats", placements=["boats"])
    shop.publish("creatives", "rope", line="ropes")
    shop.in_use()
    shop.level("boat", 1)
    shop.lease("600000/demo/boat")
    ranks: list[Counter[str]] = [Counter(), Counter()]
    for _ in range(400):
        log = shop.log(shop.decide("boats", "", count=2))
        assert len(log.choices) == 2
        assert log.choices[0].propensity == pytest.approx(0.2)
        boat_first = log.choices[0].action_id != "rope"
        assert log.choices[1].propensity == pytest.approx(1.0 if boat_first else 0.25)
        assert redraw(log).differences == []
        for rank, choice in enumerate(log.choices):
            ranks[rank][choice.action_id] += 1
        shop.give_back(log)
    for many in ranks[0].values():
        assert abs(many - 80) < 4 * (400 * 0.2 * 0.8) ** 0.5
    assert ranks[1]["rope"] == 400 - ranks[0]["rope"]
    assert shop.shown("boats", "", only=["boats"]) != [], "all pieces came back"


class Unwritten(Counted):
    """Cannot write down what it is to count."""

    def note(self, made: DecisionLog, whom: Whom, time_ms: int, capped: Sequence[Choice]) -> bool:
        return False


def test_what_a_decision_gives_up_goes_back_to_the_books(shop: Shop) -> None:
    """Caps cannot be counted: nothing that has one is shown, all of it falls out at once, nothing is paid or held."""
    shop.campaign("returned", 3, caps=TWICE, skus=["oar"], hold_ms=600_000, **priced(100))
    shop.level("oar", 90)
    shop.lease("returned", 2)
    shop.lease("600000/demo/oar", 2)
    whom, before = Whom("", NOBODY, {}, "demo", cap_hint="browser"), shop.left
    decision_id = make_id(now_ms(), "", 1)
    asked = DecisionRequest(placement="returned", count=3)
    offer = shop.published.offer(asked, whom, set(), {}, decision_id)
    sale = Sale(shop.published.till, Unwritten(shop.memory, b"0" * 16, None), offer, whom, (decision_id, 3))
    known = Known(shop.memory.policy("returned").policy, "")
    made = decide(Ask("returned", "", offer.candidates, 3), known, decision_id, "seed", sale.take)
    assert (len(made.choices), before - shop.left) == (2, 2 * 1_000 + 2)
    assert sale.close(made) == dict.fromkeys(made.candidates, "cap:unknown")
    assert shop.left == before


def test_what_somebody_else_was_faster_for_falls_out_whole_and_the_rest_is_drawn_among(shop: Shop) -> None:
    shop.campaign("robbed", 20, **priced(100))
    shop.publish("lines", "spared", campaign="robbed", placements=["robbed"])
    shop.publish("creatives", "spared", line="spared")
    shop.in_use()
    shop.lease("robbed")
    before, shop.purse.robbed = shop.left, frozenset({"robbed"})
    shop.purse.reserved = 0
    logs = [shop.log(shop.decide("robbed", f"v{number}", count=2)) for number in range(60)]
    shop.purse.robbed = frozenset()
    assert {tuple(choice.action_id for choice in log.choices) for log in logs} == {("spared",)}
    assert {redraw(log).differences == [] for log in logs} == {True}
    assert (shop.purse.reserved, shop.left) == (60, before)  # one in vain for each decision, not one for each creative
    drawn_again = [log for log in logs if log.candidates == ["spared"]]
    assert drawn_again
    assert {why for log in drawn_again for why in log.excluded.values()} == {"budget"}


def test_where_the_piece_is_gone_the_money_goes_back_and_the_ranks_before_stand(shop: Shop) -> None:
    shop.campaign("raced", 3, skus=["mast"], hold_ms=600_000, **priced(100))
    shop.publish("lines", "plain", campaign="raced", placements=["raced"])
    shop.publish("creatives", "plain", line="plain")
    shop.in_use()
    shop.level("mast", 90)
    shop.lease("raced")
    shop.lease("600000/demo/mast")
    before, shop.purse.robbed = shop.left, frozenset({"600000/demo/mast"})
    logs = [shop.log(shop.decide("raced", "", count=2)) for _ in range(60)]
    shop.purse.robbed = frozenset()
    assert {tuple(choice.action_id for choice in log.choices) for log in logs} == {("plain",)}
    assert {len(log.candidates) for log in logs} == {1, 4}  # the piece fell out at the first rank, or at the second
    assert {(tuple(redraw(log).differences), log.choices[0].propensity in (0.25, 1.0)) for log in logs} == {((), True)}
    assert shop.left == before


@pytest.mark.parametrize("many", [50, 200])
def test_the_work_of_a_decision_grows_with_its_candidates_and_no_faster(shop: Shop, many: int) -> None:
    """All hold the same last piece: it is reserved once, and each of the others is looked at once."""
    name = f"many{many}"
    shop.campaign(name, many, skus=[name], hold_ms=600_000, **priced(100))
    shop.level(name, 1)
    shop.lease(name)
    shop.lease(f"600000/demo/{name}")
    shop.purse.reserved = shop.purse.asked = 0
    assert len(shop.shown(name, "", count=50)) == 1
    assert shop.purse.reserved == 2  # money and piece of the one
    assert shop.purse.asked <= many + 5


class Told:
    """A value that says how often it was written out."""

    times = 0

    def __str__(self) -> str:
        self.times += 1
        return "Ann"


def test_content_is_made_of_what_is_shown_and_not_of_all_that_could_be(shop: Shop) -> None:
    shop.campaign("content", 3)
    for at in range(3):
        content = {"title": "Hello {context.name}"}
        shop.publish("creatives", f"content-{at}", line="content", kind="dynamic", content=content)
    shop.in_use()
    (shown,) = shop.decide("content", context={"name": "<Ann>"}).actions
    assert shown.content == {"title": "Hello &lt;Ann&gt;"}
    name = Told()
    asked, whom = DecisionRequest(placement="content"), Whom("", NOBODY, {"name": name}, "demo")
    offer = shop.published.offer(asked, whom, set(), {}, make_id(now_ms(), "", 1))
    assert (len(offer.candidates), name.times) == (3, 0)
    assert (offer.content(offer.candidates[0]), name.times) == ({"title": "Hello Ann"}, 1)


def test_a_group_says_its_name_whether_there_is_something_to_show_or_not(shop: Shop) -> None:
    for channel in ("mail", "push"):
        shop.publish("placements", channel, channel=channel)
    shop.publish("placements", "anyhow", members=["mail", "push"], fallback={"title": "Hello"})
    shop.in_use()
    nothing = shop.decide("anyhow")
    assert (nothing.group, nothing.placement, nothing.fallback) == ("anyhow", "anyhow", {"title": "Hello"})
    shop.publish("advertisers", "any")
    shop.publish("campaigns", "any", advertiser="any", caps=DAILY)
    shop.publish("lines", "any", campaign="any", placements=["mail"])
    for at in range(3):
        shop.publish("creatives", f"any-{at}", line="any")
    shop.in_use()
    found = shop.decide("anyhow", count=3)
    assert (found.group, found.placement, len(found.actions)) == ("anyhow", "mail", 1)
    assert redraw(shop.log(found)).differences == []
    assert shop.decide("content").group == ""


def test_a_thousand_choices_that_have_no_cap_leave_every_cap_as_it_is(shop: Shop) -> None:
    shop.campaign("wiped", 1, {"caps": DAILY})
    shop.campaign("plenty", 50)
    shop.campaign("untouched", 1, {"caps": DAILY})
    for visitor, more in (("eve", {}), ("", {"consent": False, "cap_hint": "a whole office"})):
        assert shop.shown("wiped", visitor, **more) == ["wiped-0"]
        for _ in range(STAMPS_MAX // 50 + 1):
            assert len(shop.shown("plenty", visitor, count=50, **more)) == 50
        assert shop.shown("wiped", visitor, **more) == []
        assert shop.shown("untouched", visitor, **more) == ["untouched-0"]
