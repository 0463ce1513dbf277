"""Reports and old decisions from a real warehouse: the statements run, and say what was stored."""

import os
from collections.abc import Iterator
from uuid import uuid4

import msgspec
import pytest
from delivery_rig import free_port

from pipeline.core.decide import Action, Ask, Known, decide, make_id
from pipeline.core.linear_blend import Blend, nothing
from pipeline.core.linear_policy import LINEAR_POLICIES
from pipeline.core.policy import EpsilonGreedy, PolicyRules
from pipeline.core.redraw import redraw
from pipeline.core.rollup import Chunk, Rollup
from pipeline.core.rows import Columns, decision_columns, outcome_columns
from pipeline.delivery.curves import learning, read_cells
from pipeline.delivery.explain import Archive, explain
from pipeline.delivery.reports import INTERVALS, KIND_DIMENSIONS, METRICS, read_query, read_span, run_query
from pipeline.edge.clickhouse import Warehouse
from pipeline.embedded.warehouse import EmbeddedWarehouse, WarehouseConfig
from schemas.block import EventBlock, Origin, OutcomeBlock, Totals
from schemas.ddl import create
from schemas.event import Event, EventType
from schemas.outcome import Outcome
from schemas.tables import DECISIONS, OUTCOMES, ROLLUP_MINUTE

NOW_MS = 1_795_000_000_000
MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    given = os.environ.get("HERALD_TEST_CLICKHOUSE_URL")
    if given:
        yield from opened(given)
        return
    with EmbeddedWarehouse(WarehouseConfig(tmp_path_factory.mktemp("warehouse"), free_port())) as embedded:
        yield from opened(embedded.config.url("default"))


def opened(url: str) -> Iterator[Warehouse]:
    """A database of this module's own with the two tables that delivery reads."""
    name = f"delivery_{uuid4().hex}"
    with Warehouse.from_url(url) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        with Warehouse.from_url(f"{url.rpartition('/')[0]}/{name}") as found:
            for table in (ROLLUP_MINUTE, DECISIONS, OUTCOMES):
                for statement in create(table, 4_000):
                    found.execute(statement)
            yield found
        admin.execute(f"DROP DATABASE {name} SYNC")


def store(warehouse: Warehouse, columns: Columns) -> None:
    warehouse.insert(columns.table.name, columns.table.column_names, columns.columns)


def event(kind: EventType, at_ms: int, visitor: str, **more: object) -> Event:
    found = Event("", kind, at_ms, at_ms, "shop", visitor, placement_id="home", action_id="a")
    return msgspec.structs.replace(found, **more)


@pytest.fixture(scope="module")
def counted(warehouse: Warehouse) -> Warehouse:
    """Two partitions, two minutes: three impressions and a click on home/a, and purchases in two currencies."""
    first = NOW_MS - 10 * MINUTE_MS
    events = {
        0: [event(EventType.IMPRESSION, first, "v1"), event(EventType.CLICK, first + 1, "v1"),
            event(EventType.PURCHASE, first + 2, "v1", revenue_micros=5, currency="EUR")],
        1: [event(EventType.IMPRESSION, first, "v2"), event(EventType.IMPRESSION, first + MINUTE_MS, "v2"),
            event(EventType.PURCHASE, first, "v2", revenue_micros=7, currency="USD"),
            event(EventType.IMPRESSION, first, "bot", flags=32)],
    }  # fmt: skip
    for partition, found in events.items():
        rollup = Rollup(1_000, lambda partition, minutes, below: ())
        rollup.assign(partition, -1)
        store(warehouse, rollup.apply([Chunk(partition, 0, 0, found)]))
    return warehouse


def report(warehouse: Warehouse, **params: str) -> list[dict[str, object]]:
    return run_query(read_query(list(params.items()), NOW_MS), warehouse)[0]


def test_counts_add_up_over_partitions_and_bots_stand_aside(counted: Warehouse) -> None:
    metrics = "impressions,clicks,click_rate,revenue_micros"
    home = {"placement": "home", "action": "a"}
    expected = {"impressions": 3, "clicks": 1, "click_rate": 1 / 3, "revenue_micros": {"EUR": 5, "USD": 7}}
    assert report(counted, dimensions="placement,action", metrics=metrics) == [home | expected]
    assert report(counted, metrics="impressions", dimensions="placement", bots="only") == [
        {"placement": "home", "impressions": 1}
    ]
    assert report(counted, metrics="impressions", placement="home", bots="include") == [{"impressions": 4}]


def test_a_report_by_time_is_in_order_and_within_its_bounds(counted: Warehouse) -> None:
    first = (NOW_MS - 10 * MINUTE_MS) // MINUTE_MS * MINUTE_MS
    asked = {"dimensions": "placement,action", "metrics": "impressions,visitors", "interval": "minute"}
    rows = report(counted, **asked)
    assert [(row["time_ms"], row["impressions"], row["visitors"]) for row in rows] == [
        (first, 2, 2),
        (first + MINUTE_MS, 1, 1),
    ]
    assert report(counted, **asked, to=str(first + MINUTE_MS)) == rows[:1]
    assert report(counted, **asked, site="blog") == []


@pytest.mark.parametrize("interval", sorted(INTERVALS))
@pytest.mark.parametrize("dimensions", [",".join(names) for names in KIND_DIMENSIONS.values()])
def test_every_metric_can_be_asked_for_by_every_dimension(counted: Warehouse, interval: str, dimensions: str) -> None:
    metrics = [name for name in METRICS if name != "visitors"]
    rows = report(counted, interval=interval, dimensions=dimensions, metrics=",".join(metrics))
    for row in rows:
        assert set(row) == {*metrics, *dimensions.split(","), *(["time_ms"] if interval != "all" else [])}


def test_values_that_would_change_a_statement_are_only_values(counted: Warehouse) -> None:
    for value in ("' OR 1=1 --", "\\' OR 1=1 --", "%(kind)s", "'; DROP TABLE rollup_minute; --", "\x00", "a\nb"):
        assert report(counted, dimensions="placement", placement=value) == []
    assert report(counted, metrics="impressions") == [{"impressions": 3}]


def test_an_old_decision_is_explained_as_it_was_when_it_was_young(warehouse: Warehouse) -> None:
    decision_id = make_id(NOW_MS, "v1", 7)
    actions = [Action("a", campaign_id="c", features={"x": 0.5}), Action("b", url="//evil.example"), Action("a")]
    known = Known(EpsilonGreedy({}, PolicyRules()), "0:1", ["profiles_stale"])
    log = decide(Ask("home", "v1", actions, 2, {"hour": 7}), known, decision_id, "seed")
    happened = Event("e", EventType.DECISION, NOW_MS, NOW_MS, "shop", "v1", decision_id=decision_id)
    happened.properties = msgspec.json.encode(log).decode()
    store(warehouse, decision_columns([(Origin(0, 5), EventBlock(NOW_MS, Totals(), [0], [happened]))]))
    found = Archive(warehouse).decision(decision_id)
    assert found == explain(log, "v1", "warehouse")
    assert Archive(warehouse).decision("0" * 32) is None


def test_a_linear_decision_comes_out_as_it_was_with_what_is_learnt_from_it_and_is_drawn_again(
    warehouse: Warehouse,
) -> None:
    decision_id = make_id(NOW_MS, "v1", 8)
    policy = LINEAR_POLICIES["linear_igw"]({}, PolicyRules(), Blend(*nothing()))
    actions = [Action("a", features={"x": 0.5}), Action("b")]
    log = decide(Ask("home", "v1", actions, 2, {"hour": 7}), Known(policy, "0:1"), decision_id, "seed")
    happened = Event("e", EventType.DECISION, NOW_MS, NOW_MS, "shop", "v1", decision_id=decision_id)
    happened.properties = msgspec.json.encode(log).decode()
    store(warehouse, decision_columns([(Origin(0, 6), EventBlock(NOW_MS, Totals(), [0], [happened]))]))
    found = Archive(warehouse).log(decision_id)
    assert found is not None
    assert found[0] == log
    assert all(choice.lesson for choice in found[0].choices)
    assert redraw(found[0]).differences == []


def test_how_a_placement_has_learnt_is_read_from_what_was_shown(warehouse: Warehouse) -> None:
    """Two arms, two hours: shares from every decision, rewards from what was seen; bots and the unseen stand aside."""
    hour_ms, placement = 3_600_000, "learning"
    actions, outcomes, decided = [Action("a"), Action("b")], [], []
    for number in range(60):
        time_ms = NOW_MS - 2 * hour_ms + number * 2 * MINUTE_MS
        decision_id = make_id(time_ms, f"v{number}", number)
        log = decide(
            Ask(placement, f"v{number}", actions), Known(EpsilonGreedy({}, PolicyRules()), ""), decision_id, "s"
        )
        happened = Event("e", EventType.DECISION, time_ms, time_ms, "shop", f"v{number}", decision_id=decision_id)
        happened.properties = msgspec.json.encode(log).decode()
        decided.append(happened)
        arm, p = log.choices[0].action_id, log.choices[0].propensity
        seen_ms, reward = (0 if number == 7 else time_ms), 1_000_000 if arm == "a" else 0
        named = (decision_id, arm, placement, f"v{number}", time_ms, seen_ms, 0, 0, 0, reward, p, 1, reward)
        outcomes.append(Outcome(*named, is_bot=number == 9))
    store(warehouse, decision_columns([(Origin(0, 9), EventBlock(NOW_MS, Totals(), [0], decided))]))
    store(warehouse, outcome_columns([(Origin(0, 9), OutcomeBlock(NOW_MS, outcomes))]))
    span = read_span([("from", str(NOW_MS - 3 * hour_ms)), ("interval", "hour")], NOW_MS)
    found = learning(placement, span, read_cells(warehouse, placement, span), PolicyRules())
    points = {curve.id: curve.points for curve in found.arms}
    assert sum(point.trials for curve in points.values() for point in curve) == 58
    assert {point.probability for curve in points.values() for point in curve} == {0.5}
    assert [point.time_ms % hour_ms for point in points["a"]] == [0] * len(points["a"])
    assert sum(point.reward for point in points["a"]) == sum(point.trials for point in points["a"])
    assert found.regret is not None
    assert (found.regret.best, found.regret.best_value, found.regret.decisions) == ("a", 1.0, 58)
    assert read_cells(warehouse, "' OR 1=1 --", span) == []
