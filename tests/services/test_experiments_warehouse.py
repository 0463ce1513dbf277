"""An experiment read from a real warehouse, as delivery, the stages and the writer leave it there."""

import io
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from pipeline.core.decide import Action, Ask, Known, decide, make_id
from pipeline.core.experiment.assign import assign, plan
from pipeline.core.policy import EpsilonGreedy, PolicyRules
from pipeline.core.rows import Columns, decision_columns, event_columns, outcome_columns
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.exposures import read_exposures
from pipeline.errors import HeraldError, SettingsError
from pipeline.experiments import REFUSED, LiftWish, Wish, run, run_lift
from pipeline.settings import load
from schemas.block import EventBlock, Origin, OutcomeBlock, Totals
from schemas.event import Event, EventType
from schemas.experiment import HELD_OUT, HOLDOUT_ID, Experiment, Holdout
from schemas.outcome import DecisionLog, Outcome
from tests.edge.audit_rig import database, warehouse_server

SEED = 20_261_122
BASE_MS = 1_790_000_040_000
DAY_MS = 86_400_000
PEOPLE = 3_000
MICROS = 1_000_000
RATES = {"": 0.10, "old": 0.10, "new": 0.30}
BUTTON = Experiment.model_validate(
    {"id": "button", "placements": ["home"], "variants": [{"name": "old"}, {"name": "new"}],
     "goals": [{"metric": "purchased", "kind": "rate"}, {"metric": "revenue", "kind": "money", "cap_quantile": 1.0},
               {"metric": "clicked", "kind": "rate"}, "shown", "purchases", "reward"]}
)  # fmt: skip
PLAN = plan([BUTTON], Holdout(share=0.2))


@dataclass
class Person:
    """Somebody, what he was shown, and what he did."""

    visitor: str
    experiments: Mapping[str, str]
    visits: int
    decisions: list[tuple[DecisionLog, Outcome]]
    events: list[Event]
    bought: int
    is_bot: bool = False

    @property
    def variant(self) -> str:
        return self.experiments.get("button", "")

    @property
    def exposed(self) -> bool:
        return any(outcome.impressed_ms and not outcome.is_bot for _, outcome in self.decisions)


def person(number: int, draw: random.Random) -> Person:
    """Every seventh is never shown it, every eleventh is a machine; those who visited often buy more often."""
    visitor = f"{SEED}-{number}"
    found = Person(visitor, assign(PLAN, visitor, "home").variants, draw.randrange(6), [], [], 0, number % 11 == 5)
    at_ms = BASE_MS + number * 7_000
    for turn in range(1 + number % 3):
        log = decided(found, at_ms + turn * 60_000, draw)
        is_shown, is_bot = number % 7 != 3 and turn < 2, found.is_bot
        clicked_ms = (at_ms + turn * 60_000 + 900) * (is_shown and draw.random() < 0.2)
        choice = log.choices[0]
        found.decisions.append((log, Outcome(
            log.decision_id, choice.action_id, "home", visitor, at_ms, (at_ms + turn * 60_000 + 100) * is_shown,
            clicked_ms, 0, 0, MICROS * bool(clicked_ms and not is_bot), choice.propensity, 1, 0, is_bot=is_bot,
        )))  # fmt: skip
    found.events.append(purchase(found, at_ms - 3 * DAY_MS, found.visits))  # before: says nothing of the experiment
    if draw.random() < RATES[found.variant] * (0.5 + found.visits / 5):
        found.bought = 1 + number % 2
        found.events += [purchase(found, at_ms + (n + 1) * 3_600_000, 20 + number % 5) for n in range(found.bought)]
    return found


def decided(found: Person, at_ms: int, draw: random.Random) -> DecisionLog:
    context = {"experiments": found.experiments, "device": "phone" if draw.random() < 0.5 else "desktop", "hour": 3,
               "profile": {"visits": found.visits, "events": 9, "purchases": 1, "is_bot": found.is_bot}}  # fmt: skip
    ask = Ask("home", found.visitor, [Action("a", "https://shop.example/a")], 1, context)
    known = Known(EpsilonGreedy({}, PolicyRules()), "m1")
    return decide(ask, known, make_id(at_ms, found.visitor, draw.getrandbits(48)), "s")


def purchase(found: Person, at_ms: int, amount: int) -> Event:
    made = Event(f"{found.visitor}-{at_ms}", EventType.PURCHASE, at_ms, at_ms, "shop", visitor=found.visitor)
    made.revenue_micros, made.currency = amount * MICROS, "EUR"
    return made


@pytest.fixture(scope="module")
def people() -> list[Person]:
    print(f"seed {SEED}")
    draw = random.Random(SEED)
    return [person(number, draw) for number in range(PEOPLE)]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory, people: list[Person]) -> Iterator[tuple[Warehouse, str]]:
    """A warehouse with all of it, the decisions twice (as after a kill), outcomes of before and after; its URL."""
    with warehouse_server(tmp_path_factory.mktemp("warehouse")) as url, database(url) as opened:
        logs = [decision_event(log, one.visitor) for one in people for log, _ in one.decisions]
        events = [event for one in people for event in one.events]
        for _ in range(2):
            insert(opened, decision_columns([(Origin(0, 0), block_of(logs))]))
            insert(opened, event_columns([(Origin(0, 1), block_of(events))]))
        news = [outcome for one in people for _, outcome in one.decisions]
        before = [msgspec.structs.replace(one, impressed_ms=0, clicked_ms=0, reward_micros=0) for one in news]
        insert(opened, outcome_columns([(Origin(0, 2), OutcomeBlock(BASE_MS, before))]))
        insert(opened, outcome_columns([(Origin(0, 3), OutcomeBlock(BASE_MS, news))]))
        yield opened, url.rpartition("/")[0] + f"/{opened.execute('SELECT currentDatabase()')[0][0]}"


def block_of(events: list[Event]) -> EventBlock:
    return EventBlock(BASE_MS, Totals(), list(range(len(events))), events)


def decision_event(log: DecisionLog, visitor: str) -> Event:
    found = Event(log.decision_id, EventType.DECISION, BASE_MS, BASE_MS, "shop", visitor=visitor)
    found.decision_id, found.properties = log.decision_id, msgspec.json.encode(log).decode()
    return found


def insert(warehouse: Warehouse, columns: Columns) -> None:
    warehouse.insert(columns.table.name, columns.table.column_names, columns.columns, partitions_max=100)


def exposed(people: list[Person], variant: str) -> list[Person]:
    return [one for one in people if one.exposed and one.variant == variant]


def test_each_visitor_is_read_once_with_what_he_did_since_he_was_shown_it(
    warehouse: tuple[Warehouse, str], people: list[Person]
) -> None:
    experiment, tally, read = read_exposures(warehouse[0], BUTTON)
    found = tally.sample()
    assert experiment.covariates == ["pre_visits", "pre_events", "pre_purchases", "pre_revenue"]
    shown = [one for variant in ("old", "new") for one in exposed(people, variant)]
    assert len(found.variant) == len(tally) == len(shown)
    purchased, revenue, clicked, decisions, purchases, reward = (column.sum() for column in found.metrics)
    outcomes = [[outcome for _, outcome in one.decisions if outcome.impressed_ms] for one in shown]
    assert purchased == sum(one.bought > 0 for one in shown)
    assert purchases == sum(one.bought for one in shown)
    assert revenue == pytest.approx(sum(event.revenue_micros for one in shown for event in one.events[1:]) / MICROS)
    assert clicked == sum(any(outcome.clicked_ms for outcome in one) for one in outcomes)
    assert reward == sum(bool(outcome.clicked_ms) for one in outcomes for outcome in one)
    assert decisions == read.rows == sum(map(len, outcomes))
    assert read.unshown == sum(bool(one.variant) and not one.exposed for one in people) > 0
    visits, events, bought, spent = found.covariates
    assert visits.sum() == spent.sum() == sum(one.visits for one in shown)
    assert set(events) == {9.0}
    assert set(bought) == {1.0}


def wish(folder: Path, text: str) -> Wish:
    path = folder / "test.yaml"
    path.write_text(text, "utf-8")
    return Wish(path, None, "warehouse", as_json=True)


def said(url: str, asked: Wish) -> tuple[int, dict[str, object]]:
    screen = io.StringIO()
    code = run(load(clickhouse_url=url), Console(file=screen, width=200), asked)
    return code, json.loads(screen.getvalue())


YAML = """
id: button
variants: [{name: old}, {name: new}]
goals: [{metric: purchased, kind: rate}]
segments: [device]
"""


def test_the_command_finds_the_lift_with_less_noise_by_what_profiles_knew(
    warehouse: tuple[Warehouse, str], people: list[Person], tmp_path: Path
) -> None:
    code, found = said(warehouse[1], wish(tmp_path, YAML))
    assert code == 0
    assert found["visitors"] == {name: len(exposed(people, name)) for name in ("old", "new")}
    (effect,) = found["effects"]  # type: ignore[misc]
    assert effect["verdict"] == "better"
    assert effect["interval"][0] < 0.2 < effect["interval"][1]
    assert found["metrics"][0]["variance_kept"] < 0.98  # type: ignore[index]
    assert {one["value"] for one in found["segments"]} == {"phone", "desktop"}  # type: ignore[attr-defined]


def test_the_lift_of_all_that_is_done_is_measured_beside_the_held_out(
    warehouse: tuple[Warehouse, str], people: list[Person]
) -> None:
    """All who asked, for the held-out are shown nothing; with another share the split is not as planned."""
    asked = [one for one in people if not one.is_bot]
    held = sum(one.experiments[HOLDOUT_ID] == HELD_OUT for one in asked)
    code, found = lifted(warehouse[1], LiftWish(0.2, ("purchases", "purchased"), as_json=True))
    assert code == 0
    assert found["visitors"] == {"held_out": held, "treated": len(asked) - held}
    assert [one["verdict"] for one in found["effects"]] == ["better", "better"]  # type: ignore[attr-defined]
    code, found = lifted(warehouse[1], LiftWish(as_json=True))
    assert (code, found["refusals"][0]["reason"]) == (REFUSED, "sample_ratio")  # type: ignore[index]


def test_a_lift_of_what_is_not_measured_or_of_no_time_is_refused(warehouse: tuple[Warehouse, str]) -> None:
    day = datetime(2026, 11, 1)
    for wrong, words in (
        (LiftWish(goals=("visit",)), "goal 'visit' is not in the warehouse"),
        (LiftWish(since=day, until=day), "expected later than --since 2026-11-01"),
    ):
        with pytest.raises(SettingsError, match=words):
            lifted(warehouse[1], wrong)


def lifted(url: str, asked: LiftWish) -> tuple[int, dict[str, object]]:
    screen = io.StringIO()
    code = run_lift(load(clickhouse_url=url), Console(file=screen, width=200), asked)
    return code, json.loads(screen.getvalue())


def test_an_experiment_nobody_was_shown_is_refused(warehouse: tuple[Warehouse, str], tmp_path: Path) -> None:
    code, found = said(warehouse[1], wish(tmp_path, YAML.replace("id: button", "id: other")))
    assert (code, found["refusals"][0]["reason"]) == (REFUSED, "no_visitors")  # type: ignore[index]
    code, found = said(warehouse[1], wish(tmp_path, YAML + "placements: [elsewhere]"))
    assert (code, found["refusals"][0]["reason"]) == (REFUSED, "no_visitors")  # type: ignore[index]


def test_only_those_first_shown_in_its_time_count(warehouse: tuple[Warehouse, str], people: list[Person]) -> None:
    """And what they did after it is over does not."""
    firsts = sorted(one.decisions[0][1].impressed_ms for one in people if one.exposed and one.variant)
    ends = datetime.fromtimestamp(firsts[500] / 1_000, UTC)
    _, tally, _ = read_exposures(warehouse[0], BUTTON.model_copy(update={"ends": ends}))
    early = [one for one in people if one.exposed and one.variant and one.decisions[0][1].impressed_ms < firsts[500]]
    assert len(tally) == len(early) == 500
    before_end = [any(event.event_time_ms < firsts[500] for event in one.events[1:]) for one in early]
    assert tally.sample().metrics[0].sum() == sum(before_end) > 0


def test_what_the_warehouse_does_not_have_is_said(warehouse: tuple[Warehouse, str]) -> None:
    def of(**more: object) -> Experiment:
        return Experiment.model_validate(BUTTON.model_dump() | more)

    with pytest.raises(SettingsError, match="goal 'visit' is not in the warehouse, expected one of shown, clicks"):
        read_exposures(warehouse[0], of(goals=["visit"]))
    with pytest.raises(SettingsError, match="covariate 'age' is not in the warehouse, expected one of pre_visits"):
        read_exposures(warehouse[0], of(covariates=["age"]))
    with pytest.raises(SettingsError, match=r"has variant '(new|old)' of 'button', expected one of red, blue"):
        read_exposures(warehouse[0], of(variants=[{"name": "red"}, {"name": "blue"}]))


def test_revenue_of_two_currencies_is_not_added_up(warehouse: tuple[Warehouse, str], people: list[Person]) -> None:
    """Last: it changes the warehouse."""
    other = purchase(exposed(people, "new")[0], BASE_MS + DAY_MS, 5)
    other.currency = "USD"
    insert(warehouse[0], event_columns([(Origin(0, 9), block_of([other]))]))
    with pytest.raises(HeraldError, match="revenue is in EUR and USD, expected one currency to add up"):
        read_exposures(warehouse[0], BUTTON)
