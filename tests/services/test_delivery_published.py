"""Decisions among what marketers have published: real broker, real delivery processes, real leases in SQLite."""

import concurrent.futures
from collections.abc import Iterator
from typing import Any

import pytest
from books_rig import Books
from published_rig import FALLBACK, Desk, desks

from schemas.campaign import Status
from schemas.experiment import Experiment
from tests.waits import until

THOUSAND = 1_000


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desks(tmp_path_factory.mktemp("published"), 2) as made:
        yield made


def test_what_is_published_is_shown_with_its_content_and_its_campaign(desk: Desk) -> None:
    assert desk.ask("hello", "v1", wait=True).status_code == 404
    desk.campaign("hello", {"red": {"url": "https://shop.example/red"}, "blue": {}})
    answer = desk.ask("hello", "v1", count=2).json()
    assert {one["id"]: one["content"] for one in answer["actions"]} == {
        "red": {"title": "red"},
        "blue": {"title": "blue"},
    }
    assert {(one["campaign_id"], one["line_id"]) for one in answer["actions"]} == {("hello-c", "hello-l")}
    assert [bool(one["click_url"]) for one in sorted(answer["actions"], key=lambda one: one["id"])] == [False, True]
    assert answer["fallback"] is None
    explained = desk.http.get(f"/v1/decisions/{answer['decision_id']}").json()
    assert {choice["line_id"] for choice in explained["choices"]} == {"hello-l"}


def test_a_paused_line_is_gone_within_a_second_and_the_fallback_stays(desk: Desk) -> None:
    desk.campaign("pause")
    assert desk.shown("pause", "v1") == ["pause-1"]
    desk.line("pause", Status.PAUSED)
    until(lambda: desk.shown("pause", "v1") == [], "paused", timeout_s=5)
    assert desk.ask("pause", "v1").json()["fallback"] == FALLBACK
    assert desk.why("pause", "v1") == {"pause-1": "paused:line"}


@pytest.mark.parametrize(("name", "line", "asked", "why"), [
    ("aud", {"audience": "profile.visits >= 3"}, {}, "audience"),
    ("early", {"schedule": {"starts_at": "2099-01-01T00:00:00Z"}}, {}, "schedule:line"),
    ("known", {"audience": "not profile.visits >= 3"}, {"consent": False}, "consent:audience"),
    ("capped", {"caps": [{"count": 1, "per": "day"}]}, {"consent": False}, "consent:cap"),
    ("left-out", {}, {"exclude": ["left-out-c"]}, "unwanted"),
    ("other", {}, {"only": ["hello-l"]}, "unwanted"),
])  # fmt: skip
def test_what_falls_out_says_why(desk: Desk, name: str, line: dict[str, Any], asked: dict[str, Any], why: str) -> None:
    desk.campaign(name, **line)
    assert desk.why(name, "v1", **asked) == {f"{name}-1": why}
    assert desk.ask(name, "v1", **asked).json()["fallback"] == FALLBACK


def test_a_cap_holds_from_one_decision_to_the_next(desk: Desk) -> None:
    desk.campaign("cap", caps=[{"count": 2, "per": "day"}])
    assert [desk.shown("cap", "v1") for _ in range(4)] == [["cap-1"], ["cap-1"], [], []]
    assert desk.shown("cap", "v2") == ["cap-1"]
    assert desk.why("cap", "v1") == {"cap-1": "cap:line:day"}


def test_without_consent_a_cap_goes_by_a_hash_of_the_day(desk: Desk) -> None:
    desk.campaign("dayhash", caps=[{"count": 1, "per": "day"}])
    asked = {"consent": False, "cap_hint": "203.0.113.0 Firefox"}
    assert [desk.shown("dayhash", "v1", **asked) for _ in range(2)] == [["dayhash-1"], []]
    assert desk.shown("dayhash", "v1", consent=False, cap_hint="203.0.113.0 Chrome") == ["dayhash-1"]


def test_a_dynamic_creative_is_filled_in_and_escaped(desk: Desk) -> None:
    title = "Hello {context.name}, {profile.visits} visits{context.unknown}!"
    desk.campaign("dynamic", {"dyn": {"kind": "dynamic", "content": {"title": title}}})
    answer = desk.ask("dynamic", "v1", context={"name": "<b>Ann</b>"}).json()
    assert answer["actions"][0]["content"] == {"title": "Hello &lt;b&gt;Ann&lt;/b&gt;, 0 visits!"}


def test_of_two_lines_the_one_of_higher_priority_is_shown(desk: Desk) -> None:
    desk.campaign("prio", priority=3)
    desk.publish("lines", id="prio-high", campaign="prio-c", name="high", placements=["prio"], priority=9)
    desk.publish("creatives", id="prio-2", line="prio-high", name="high")
    until(lambda: desk.shown("prio", "v1") == ["prio-2"], "the higher one")
    assert desk.why("prio", "v1") == {"prio-1": "priority:9"}


def test_what_a_request_leaves_out_stands_in_nobodys_way(desk: Desk) -> None:
    """The line of highest priority is not wanted: the next one is shown."""
    desk.publish("creatives", id="low-1", line="low-line", name="low")
    desk.campaign("wish", priority=9)
    desk.publish("lines", id="low-line", campaign="wish-c", name="low", placements=["wish"], priority=2)
    until(lambda: desk.shown("wish", "v1", exclude=["wish-l"]) == ["low-1"], "the next one")
    assert desk.shown("wish", "v1", only=["low-line"]) == ["low-1"]
    assert desk.why("wish", "v1", only=["low-1"]) == {"wish-1": "unwanted"}
    assert desk.shown("wish", "v1") == ["wish-1"]


def test_a_limit_of_ten_is_never_passed_by_two_processes_at_once(desk: Desk) -> None:
    """200 decisions at once, half of them at each of two processes: ten are shown, then nothing ever again."""
    desk.campaign("ten", budget={"total_micros": 10 * THOUSAND}, price={"per": "click", "micros": THOUSAND},
                  pacing="asap")  # fmt: skip
    shown: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        for answer in pool.map(lambda at: desk.ask("ten", f"v{at}", at % 2).json(), range(200)):
            shown += [answer["decision_id"] for _ in answer["actions"]]
    assert len(shown) <= 10

    def all_shown() -> bool:
        """What one process has leased and not used comes back to the other one."""
        for at in (0, 1):
            answer = desk.ask("ten", f"late{len(shown)}", at).json()
            shown.extend([answer["decision_id"]] * len(answer["actions"]))
        return len(shown) >= 10

    try:
        until(all_shown, "all ten", timeout_s=60)
    except AssertionError as error:
        raise AssertionError(f"{error}: {len(shown)} shown; {desk.leases()}") from error
    again = [desk.shown("ten", f"more{at}", at=at % 2) for at in range(100)]
    assert (len(shown), again) == (10, [[]] * 100)
    assert desk.why("ten", "v") == {"ten-1": "budget"}


def test_a_visitor_who_is_held_out_sees_no_campaign(desk: Desk) -> None:
    experiment = Experiment.model_validate({"id": "tone", "variants": [{"name": "kind"}, {"name": "bold"}]})
    desk.publish("experiments", **experiment.model_dump(mode="json", exclude_defaults=True))
    desk.campaign("bold", audience='context["experiment.tone"] == "bold"')
    decided = [desk.ask("bold", f"v{at}").json() for at in range(60)]
    logs = [desk.http.get(f"/v1/decisions/{one['decision_id']}").json() for one in decided]
    variants = [log["context"]["experiments"]["tone"] for log in logs]
    shown = {(variant, bool(one["actions"])) for variant, one in zip(variants, decided, strict=True)}
    assert shown == {("bold", True), ("kind", False)}


def test_a_bandit_runs_beside_a_test_on_the_same_traffic(desk: Desk) -> None:
    """One variant's visitors are given the bandit, the other's every creative equally often."""
    variants = [{"name": name, "factors": {"policy": name}} for name in ("epsilon_greedy", "uniform")]
    desk.publish("experiments", id="policies", layer="policies", placements=["both"], variants=variants)
    desk.campaign("both", {"both-1": {}, "both-2": {}})
    found = set()
    for at in range(40):
        answer = desk.ask("both", f"v{at}").json()
        log = desk.http.get(f"/v1/decisions/{answer['decision_id']}").json()
        found.add((log["context"]["experiments"]["policies"], answer["policy"]))
    assert found == {("epsilon_greedy", "epsilon_greedy"), ("uniform", "uniform")}


def test_what_is_learnt_of_published_creatives_can_be_watched(desk: Desk) -> None:
    desk.campaign("watched", {"watched-1": {}, "watched-2": {}})
    until(lambda: 'herald_arm_probability{arm="watched-2"' in desk.http.get("/metrics").text, "the metrics")
    shown = desk.http.get("/metrics").text
    assert 'herald_arm_probability{arm="watched-1",placement="watched"} 0.5' in shown
    assert 'herald_arm_trials{arm="watched-1",placement="watched"} 0.0' in shown
    assert 'herald_arm_reward{arm="watched-1",bound="mean",placement="watched"} 0.02' in shown


def test_a_placement_has_the_policy_that_the_marketer_gave_it(desk: Desk) -> None:
    desk.campaign("lab")
    desk.publish("placements", id="lab", name="lab", policy="uniform")
    until(lambda: desk.ask("lab", "v1").json()["policy"] == "uniform", "another policy")


def test_how_campaigns_do_is_reported_and_a_page_shows_it(desk: Desk) -> None:
    desk.campaign("seen", schedule={"ends_at": "2020-01-01T00:00:00Z"})
    answer = desk.http.get("/v1/reports/campaigns").json()
    [line] = next(one["lines"] for one in answer["campaigns"] if one["id"] == "seen-c")
    assert (line["state"], line["detail"], line["opens_ms"]) == ("schedule", "line", None)
    assert [one["shares"] for one in line["creatives"]] == [{"seen": 1.0}]
    assert (line["counts"], answer["degraded"]) == (None, ["counts: the warehouse does not answer"])
    assert desk.http.get("/v1/reports/campaigns?from=yesterday").json()["errors"][0]["where"] == "from"
    page = desk.http.get("/campaigns")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert [desk.http.get(f"/docs/campaigns.{kind}").status_code for kind in ("js", "css")] == [200, 200]


def test_an_audience_is_explained_part_by_part(desk: Desk) -> None:
    desk.campaign("why", audience='profile.visits >= 3 or context.country == "AT"')
    asked = {"line": "why-l", "visitor": "v1", "context": {"country": "AT"}}
    found = desk.http.post("/v1/audiences/explain", json=asked).json()
    assert (found["held"], found["known"]) == (True, False)
    assert [(part["text"], part["held"], part["found"]) for part in found["why"]["parts"]] == [
        ("profile.visits >= 3", False, 0),
        ('context.country == "AT"', True, "AT"),
    ]


@pytest.mark.parametrize(("asked", "status", "word"), [
    ({"audience": "profile.visits >"}, 400, "position 16"),
    ({"line": "nowhere"}, 404, "unknown_line"),
    ({}, 400, "either `line` or `audience`"),
])  # fmt: skip
def test_an_audience_that_cannot_be_explained_says_why(
    desk: Desk, asked: dict[str, Any], status: int, word: str
) -> None:
    answer = desk.http.post("/v1/audiences/explain", json=asked)
    assert (answer.status_code, word in answer.text) == (status, True), answer.text


HOLD_MS = 600_000


@pytest.fixture
def books(desk: Desk) -> Iterator[Books]:
    found = Books(desk, "few-l")
    yield found
    found.close()


class Crowd:
    """Visitors who ask both processes for a placement, a hundred at each at once."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._asked = desk, 0

    def ask(self) -> set[str]:
        """Return those who are shown it."""
        visitors = [f"crowd-{self._asked + number}" for number in range(200)]
        self._asked += len(visitors)
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            shown = list(pool.map(lambda at: self._desk.shown("few", visitors[at], at=at % 2), range(200)))
        return {visitor for visitor, found in zip(visitors, shown, strict=True) if found}

    def ask_until(self, many: int) -> set[str]:
        """Ask until so many are shown it, and once more, when nobody else may be."""
        shown: set[str] = set()
        until(lambda: shown.update(self.ask()) or len(shown) >= many, f"{many} pieces can be had")
        shown |= self.ask()
        assert len(shown) == many
        assert self.whys() == [{"few-1": "stock:held"}] * 2
        return shown

    def whys(self) -> list[dict[str, str]]:
        """Why each process shows it to nobody else."""
        return [self._desk.why("few", f"else-{self._asked}", at=at) for at in (0, 1)]


def test_never_are_more_pieces_held_than_there_are_by_two_processes(desk: Desk, books: Books) -> None:
    """Three pieces for many hundreds: three visitors have one each, until they buy it, or their time is over."""
    books.level("few", 0)
    desk.campaign("few", skus=["few"], hold_ms=HOLD_MS)
    for at in (0, 1):
        until(lambda at=at: desk.why("few", "nobody", at=at) == {"few-1": "stock:line"}, "the level is known")
    books.level("few", 3)
    crowd = Crowd(desk)
    first = crowd.ask_until(3)
    again = [desk.shown("few", visitor, at=at) for visitor in first for at in (0, 1)]
    assert again.count(["few-1"]) == 3, "who holds a piece is shown it again where it was shown"
    until(lambda: first <= books.take(), "they are in the log")
    books.pass_time(books.decided_ms + HOLD_MS + 1)
    second = crowd.ask_until(3)
    until(lambda: second <= books.take(), "they are in the log")
    books.buys(min(second), "few")
    books.level("few", 2)
    books.pass_time(books.decided_ms)
    assert crowd.ask() == set(), "the two that are left are held for two"
    books.level("few", 4)
    assert not crowd.ask_until(2) & (first | second)


def test_a_choice_carries_the_goals_and_the_unit_that_held_when_it_was_decided(desk: Desk) -> None:
    """A later edit changes new decisions only. Actions of the request earn in the placement's unit too."""

    def told(decision_id: str) -> tuple[list[dict[str, Any]], int]:
        (choice,) = desk.http.get(f"/v1/decisions/{decision_id}").json()["choices"]
        return choice["goals"], choice["worth_micros"]

    def asked(**more: Any) -> str:
        return str(desk.ask("goals", "v1", **more).json()["decision_id"])

    week_ms = 604_800_000
    desk.campaign("goals", goals=[{"event": "purchase"}, {"event": "subscribe", "value_micros": 5}])
    before = asked()
    first = [
        {"event": "purchase", "value_micros": None, "window_ms": week_ms},
        {"event": "subscribe", "value_micros": 5, "window_ms": week_ms},
    ]
    assert told(before) == (first, 0)
    desk.line("goals", goals=[{"event": "click", "value_micros": 7, "window_ms": 9}])
    desk.publish("placements", id="goals", name="goals", reward_worth_micros=1_000)
    after = ([{"event": "click", "value_micros": 7, "window_ms": 9}], 1_000)
    until(lambda: told(asked()) == after, "the new goals")
    assert told(before) == (first, 0)
    assert told(asked(actions=[{"id": "own"}])) == ([], 1_000)
