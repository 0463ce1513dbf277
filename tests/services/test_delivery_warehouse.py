"""Reports and old decisions from a real warehouse: the statements run, and say what was stored."""

import io
import os
from collections.abc import Iterator
from uuid import uuid4

import msgspec
import pytest
from outlook_rig import learnt, left, rows, sold
from rich.console import Console

from pipeline.audit.lookout import Lookout
from pipeline.audit.stock import running_low
from pipeline.core.catalogue import Catalogue
from pipeline.core.decide import Action, Ask, Known, decide, make_id
from pipeline.core.group import choose_member, members, note_group
from pipeline.core.linear_blend import Blend, nothing
from pipeline.core.linear_policy import LINEAR_POLICIES
from pipeline.core.policy import EpsilonGreedy, PolicyRules
from pipeline.core.redraw import redraw
from pipeline.core.rollup import Chunk, Rollup
from pipeline.core.rows import Columns, decision_columns, outcome_columns, session_columns
from pipeline.core.stock_watch import Sku
from pipeline.decisions import show_decision, show_redrawn
from pipeline.delivery.campaign_report import Counts, read_counts
from pipeline.delivery.curves import learning, read_cells
from pipeline.delivery.explain import Archive, explain
from pipeline.delivery.reports import INTERVALS, KIND_DIMENSIONS, METRICS, read_query, read_span, run_query
from pipeline.delivery.send import SENDS, VISITS, SendTimes
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.metrics import REGISTRY
from pipeline.embedded.warehouse import EmbeddedWarehouse, WarehouseConfig
from pipeline.plan_stock import StockWish, judge, known
from pipeline.settings import Settings
from schemas.block import EventBlock, Origin, OutcomeBlock, SessionBlock, Totals
from schemas.ddl import create
from schemas.event import Event, EventType
from schemas.outcome import Outcome
from schemas.session import Session, SessionRow
from schemas.tables import DECISIONS, EVENTS, OUTCOMES, ROLLUP_MINUTE, SESSIONS
from tests.core.catalogue_rig import shop, stored
from tests.waits import free_port

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
            for table in (ROLLUP_MINUTE, EVENTS, DECISIONS, OUTCOMES, SESSIONS):
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
        # all that was left: drawn given the first
        other = msgspec.structs.replace(outcomes[-1], action_id="ab"[arm == "a"], rank=1, propensity=1.0)
        outcomes.append(msgspec.structs.replace(other, reward_micros=1_000_000))
    store(warehouse, decision_columns([(Origin(0, 9), EventBlock(NOW_MS, Totals(), [0], decided))]))
    store(warehouse, outcome_columns([(Origin(0, 9), OutcomeBlock(NOW_MS, outcomes))]))
    span = read_span([("from", str(NOW_MS - 3 * hour_ms)), ("interval", "hour")], NOW_MS)
    policy = EpsilonGreedy({}, PolicyRules())
    found = learning(placement, span, read_cells(warehouse, placement, span, 10), policy)
    points = {curve.id: curve.points for curve in found.arms}
    assert sum(point.trials for curve in points.values() for point in curve) == 58
    assert {point.probability for curve in points.values() for point in curve} == {0.5}
    assert [point.time_ms % hour_ms for point in points["a"]] == [0] * len(points["a"])
    assert sum(point.reward for point in points["a"]) == sum(point.trials for point in points["a"])
    assert found.regret is not None
    assert (found.regret.best, found.regret.best_value, found.regret.decisions) == ("a", 1.0, 58)
    assert read_cells(warehouse, "' OR 1=1 --", span) == []


def test_what_came_of_each_creative_is_counted_without_bots_and_what_is_older(warehouse: Warehouse) -> None:
    def outcome(at_ms: int, creative: str, number: int, **more: object) -> Outcome:
        named = (make_id(at_ms, "v", number), creative, "counted", "v", at_ms, at_ms, 0, 0, 0, 0, 1.0, 1, 0)
        return msgspec.structs.replace(Outcome(*named, creative_id=creative, line_id="counted-line"), **more)

    outcomes = [
        outcome(NOW_MS, "red", 1, clicked_ms=NOW_MS + 1, conversions=2, revenue_micros=5),
        outcome(NOW_MS, "red", 2, impressed_ms=0),
        outcome(NOW_MS, "blue", 3),
        outcome(NOW_MS, "blue", 4, is_bot=True),
        outcome(NOW_MS - 1, "blue", 5),
        outcome(NOW_MS, "blue", 6, line_id=""),
    ]
    store(warehouse, outcome_columns([(Origin(0, 11), OutcomeBlock(NOW_MS, outcomes))]))
    assert read_counts(warehouse, NOW_MS) == {
        ("counted-line", "red"): Counts(decisions=2, impressions=1, clicks=1, conversions=2, revenue_micros=5),
        ("counted-line", "blue"): Counts(decisions=1, impressions=1),
    }
    assert read_counts(warehouse, NOW_MS + MINUTE_MS) == {}


def test_a_decision_of_a_group_is_read_back_with_both_levels(warehouse: Warehouse) -> None:
    decision_id = make_id(NOW_MS, "v1", 70)
    known = Known(EpsilonGreedy({}, PolicyRules()), "0:1")
    above = choose_member(Ask("outreach", "v1", members(["mail", "push"])), known, decision_id, "seed")
    member = above.choices[0].action_id
    log = decide(Ask(member, "v1", [Action("red"), Action("blue")], 2), known, decision_id, "seed")
    note_group(log, above)
    log.choices[0].send_ms = NOW_MS + 5
    happened = Event("e", EventType.DECISION, NOW_MS, NOW_MS, "shop", "v1", decision_id=decision_id)
    happened.properties = msgspec.json.encode(log).decode()
    store(warehouse, decision_columns([(Origin(0, 21), EventBlock(NOW_MS, Totals(), [0], [happened]))]))
    found = Archive(warehouse).log(decision_id)
    assert found == (log, "v1")
    choice = log.choices[0]
    named = (decision_id, choice.action_id, member, "v1", NOW_MS, NOW_MS, NOW_MS, 0, 0, 500_000)
    told = Outcome(*named, choice.propensity, 1, 500_000, chosen_by="outreach", group_propensity=0.5)
    store(warehouse, outcome_columns([(Origin(0, 22), OutcomeBlock(NOW_MS, [told]))]))
    span = read_span([("interval", "day")], NOW_MS + MINUTE_MS)
    for name, arm in (("outreach", member), (member, choice.action_id)):
        [cell] = read_cells(warehouse, name, span, 10)
        assert (cell.arm, cell.trials, cell.reward, cell.weights, cell.probability) == (arm, 1, 0.5, 2.0, 0.5)
    again = redraw(found[0])
    assert (again.differences, again.member) == ([], (member, above.choices[0].propensity))
    console = Console(file=io.StringIO(), width=200)
    show_decision(log, "v1", console)
    show_redrawn(log, again, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{member} and {choice.action_id} together: 0.500000 x 0.500000 = 0.250000" in text
    assert f"placement: {member}, probability 0.5" in text


def test_hours_of_sending_are_learnt_from_what_was_sent_and_answered(warehouse: Warehouse) -> None:
    """Without bots, without what was sent too lately to have been answered, each decision once: of its first line.

    Visits are those that are: no session that became part of another, none of who turned out to be a machine.
    """
    day = NOW_MS - NOW_MS % 86_400_000 - 3 * 86_400_000

    def sent(hour: int, number: int, **more: object) -> Outcome:
        named = (make_id(day, "v", number), "red", "mail", "v", day, 0, 0, 0, 0, 0, 1.0, 1, 0)
        return msgspec.structs.replace(Outcome(*named, line_id="shoes", send_ms=day + hour * 3_600_000), **more)

    outcomes = [sent(9, number) for number in range(20)]
    outcomes += [sent(9, 0, action_id="blue", rank=1, line_id="hats"), sent(9, 0, action_id="pink", rank=2)]
    outcomes += [sent(20, 100, action_id="blue", rank=1, line_id="hats")]
    outcomes += [sent(20, 100 + number, clicked_ms=day + 1) for number in range(8)]
    outcomes += [sent(20, 200 + number, conversions=1) for number in range(4)]
    outcomes += [sent(20, 300, is_bot=True), sent(20, 301, send_ms=0), sent(20, 302, send_ms=NOW_MS - 5)]
    outcomes += [sent(20, 300, action_id="blue", rank=1)]  # of the bot's decision, of before it was known as one
    store(warehouse, outcome_columns([(Origin(0, 31), OutcomeBlock(NOW_MS, outcomes))]))
    visit = Session(day + 5 * 3_600_000, day + 6 * 3_600_000)
    rows = [SessionRow(name, visit) for name in ("v", "w", "merged", "robot")]
    store(warehouse, session_columns([(Origin(0, 32), SessionBlock(NOW_MS, rows))]))
    rows = [SessionRow("merged", visit, deleted=True), SessionRow("robot", msgspec.structs.replace(visit, is_bot=True))]
    store(warehouse, session_columns([(Origin(0, 33), SessionBlock(NOW_MS, rows))]))
    found = Catalogue(shop(
        stored("lines", "shoes", campaign="spring", placements=["mail"]), stored("placements", "mail", channel="mail")
    ))  # fmt: skip
    times = SendTimes(lambda: found)
    params = {"from_ms": NOW_MS - 30 * 86_400_000, "to_ms": NOW_MS - 86_400_000}
    assert sorted(warehouse.execute(SENDS, params)) == [("mail", "shoes", 9, 20, 0), ("mail", "shoes", 20, 12, 12)]
    assert warehouse.execute(VISITS, params) == [(5, 2, 1)]
    assert times.refresh(warehouse, NOW_MS)
    hours = times.hours.of("mail", "")
    assert hours.known == "segment"
    assert hours.rate[20] > 5 * hours.rate[9]


def told(name: str, **labels: str) -> float | None:
    """What Prometheus is told."""
    return REGISTRY.get_sample_value(f"herald_{name}", labels)


def test_a_sku_is_warned_of_before_it_runs_out_and_once(warehouse: Warehouse, caplog: pytest.LogCaptureFixture) -> None:
    """Two boats a day: eight are gone in four days, a hundred not in a week. A rope a day, in orders of two goods."""
    lookout = Lookout(Settings(stock_lead_days=7))
    caplog.set_level("INFO", "pipeline.audit.lookout")
    levels = [left(NOW_MS, "boat", 8), left(NOW_MS, "rope", 90), left(NOW_MS, "cap", 500), left(NOW_MS, "hull", 1)]
    for some in rows(51, sold(NOW_MS, 60) + levels):
        store(warehouse, some)
    for _ in range(2):
        lookout.look_at(warehouse, NOW_MS)
    assert [record.getMessage()[:25] for record in caplog.records] == ["dock: boat may run out: 8"]
    assert told("stock_warned_skus") == 1.0
    even = {sku: told("stock_runs_out_hours", site="dock", sku=sku, bound="even") for sku in ("boat", "rope", "hull")}
    assert even["boat"] == pytest.approx(24.0 * 4, abs=24.0)
    assert even["rope"] == pytest.approx(24.0 * 90, rel=0.2)
    assert even["hull"] is None, "of which nothing was sold"
    early = told("stock_runs_out_hours", site="dock", sku="boat", bound="early")
    assert early is not None
    assert 0.0 < early < (even["boat"] or 0.0)
    assert (told("stock_risk_ratio", site="dock", sku="boat") or 0.0) > 0.9
    assert (told("stock_risk_ratio", site="dock", sku="cap") or 0.0) < 0.01
    wish = StockWish(None, top=2)
    assert [(one.sku, one.sold, one.stock) for one in judge(*known(warehouse, wish, NOW_MS), wish)] == [
        ("boat", 120.0, 8.0), ("rope", 60.0, 90.0),
    ]  # fmt: skip
    store(warehouse, *rows(52, [left(NOW_MS + 1, "boat", 0)]))
    lookout.look_at(warehouse, NOW_MS + MINUTE_MS)
    assert len(caplog.records) == 1, "what it was warned of has come: that is not over"
    assert (told("stock_warned_skus"), told("stock_risk_ratio", site="dock", sku="boat")) == (1.0, 1.0)
    assert told("stock_runs_out_hours", site="dock", sku="boat", bound="even") == 0.0
    store(warehouse, *rows(53, [left(NOW_MS + 2, "boat", 100)]))
    lookout.look_at(warehouse, NOW_MS + MINUTE_MS)
    assert told("stock_warned_skus") == 0.0
    assert [record.getMessage() for record in caplog.records[1:]] == [
        "dock: boat does not run out within 7 days any more"
    ]  # fmt: skip
    store(warehouse, *rows(54, [left(NOW_MS + 3, "boat", 0)]))
    lookout.look_at(warehouse, NOW_MS + MINUTE_MS)
    assert [record.getMessage() for record in caplog.records[2:]] == ["dock: boat has run out"]


def test_what_is_gone_does_not_hide_what_will_be_and_what_was_warned_of_is_looked_at_again(
    warehouse: Warehouse,
) -> None:
    store(warehouse, *rows(55, [left(NOW_MS + 4, "rope", -1)]))
    asked = running_low(warehouse, NOW_MS + MINUTE_MS, 1)
    assert [(one.sku, one.left) for one in asked] == [("boat", 0), ("cap", 500)]
    watched = [("dock", "hull"), ("dock", "rope"), ("dock", "nothing"), ("dock", "boat")]
    more = {one.sku: one for one in running_low(warehouse, NOW_MS + MINUTE_MS, 1, watched)}
    assert sorted(more) == ["boat", "cap", "hull", "rope"]
    assert more["hull"] == Sku("dock", "hull", 1, {})
    assert (more["rope"].left, sum(more["rope"].units.values())) == (-1, 60.0)
    later_ms = NOW_MS + 40 * 86_400_000
    assert [one.sku for one in running_low(warehouse, later_ms, 1, watched)] == ["hull"], "the others: gone for weeks"


def test_what_a_client_writes_for_a_quantity_stops_neither_the_auditor_nor_the_plan(warehouse: Warehouse) -> None:
    """At most a million pieces are one item, and what is no number is one."""
    at_ms, odd = NOW_MS - 3_600_000, ["inf", "-inf", "NaN", "1e400", 1e308, "1e308", "many", -5, None, 2]
    orders = [{"products": [{"sku": "lamp", "quantity": quantity}, {"name": "a gift"}]} for quantity in odd]
    bought = [
        Event("", EventType.PURCHASE, at_ms, at_ms, "quay", "v1", properties=msgspec.json.encode(order).decode())
        for order in orders
    ]
    named = Event("", EventType.PURCHASE, at_ms, at_ms, "quay", "v1", product_id="sail", quantity=2**31)
    gift = msgspec.structs.replace(named, product_id="oar", quantity=3, properties='{"products":[{"name":"a gift"}]}')
    levels = [msgspec.structs.replace(left(at_ms, sku, 7), site="quay") for sku in ("lamp", "sail", "oar")]
    for some in rows(56, [*bought, named, gift, *levels]):
        store(warehouse, some)
    found = {one.sku: dict(one.units) for one in running_low(warehouse, NOW_MS) if one.site == "quay"}
    assert found == {"lamp": {0: 2_000_009.0}, "sail": {0: 1_000_000.0}, "oar": {0: 3.0}}
    Lookout(Settings()).look_at(warehouse, NOW_MS)
    assert told("stock_risk_ratio", site="quay", sku="lamp") == 1.0
    wish = StockWish(None, top=0)
    assert {one.sku for one in judge(*known(warehouse, wish, NOW_MS), wish)} >= {"quay/lamp", "quay/sail", "quay/oar"}


def test_all_skus_are_asked_for_in_texts_that_the_warehouse_reads(warehouse: Warehouse) -> None:
    """Names of 250 letters: fifteen hundred are more than a query's text may have."""
    before_ms = NOW_MS - 100 * 86_400_000
    many = [f"{number:04}" + "'" * 246 for number in range(1_500)]
    bought = [Event("", EventType.PURCHASE, before_ms, before_ms, "pier", "v1", product_id=sku) for sku in many]
    for some in rows(57, [*bought, *(msgspec.structs.replace(left(before_ms, sku, 1), site="pier") for sku in many)]):
        store(warehouse, some)
    found = running_low(warehouse, before_ms + MINUTE_MS, 10_000)
    assert sorted(one.sku for one in found if one.site == "pier") == many
    assert all(one.units == {0: 1.0} for one in found if one.site == "pier")


def test_regret_and_drifts_are_metrics_with_the_interval_of_the_api(warehouse: Warehouse) -> None:
    now_ms = NOW_MS + 20 * 86_400_000
    store(warehouse, learnt(now_ms, "steady", {"good": (20, 20), "bad": (10, 10)}))
    store(warehouse, learnt(now_ms, "moved", {"good": (40, 5), "bad": (5, 5)}))
    Lookout(Settings()).look_at(warehouse, now_ms)
    mean, low, high = (told("learning_regret_ratio", placement="steady", bound=one) for one in ("mean", "low", "high"))
    assert mean == pytest.approx(0.05)
    assert low is not None
    assert high is not None
    assert low < 0.05 < high
    assert [told("learning_drifts", placement=name) for name in ("steady", "moved", "home")] == [0.0, 1.0, None]
    cells = read_cells(warehouse, "steady", read_span([], now_ms))
    found = learning("steady", read_span([], now_ms), cells, EpsilonGreedy({}, PolicyRules())).regret
    assert found is not None
    assert (found.each, found.best_low - found.earned) == (pytest.approx(mean), pytest.approx(low))


def test_without_news_nothing_is_asked_nor_before_its_time() -> None:
    """Nobody answers at this address: who does not ask does not notice."""
    lookout = Lookout(Settings(clickhouse_port=free_port(), outlook_every_ms=1_000))
    assert not lookout.look(10_000)
    lookout.note(is_quiet=True)
    assert not lookout.is_due(10_999)
    assert lookout.is_due(11_000), "the first look failed, so its news is still to be told of"
    assert not Lookout(Settings(outlook_every_ms=0)).is_due(10_000)
