"""Plans without a file: from what a real warehouse knows of the lines of a real store."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from campaigns_rig import ANN, opened
from msgspec.structs import replace
from rich.console import Console

from pipeline.campaigns import yaml_file
from pipeline.core.decide import make_id
from pipeline.core.rows import outcome_columns
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.clock import now_ms
from pipeline.errors import HeraldError, SettingsError
from pipeline.plan import AllocateWish, run_allocate
from pipeline.plan_live import Scope, spent
from pipeline.plan_send_time import SendTimeWish, run_send_time
from pipeline.settings import Settings, load
from schemas.block import Origin, OutcomeBlock
from schemas.campaign import DAY_MS, HOUR_MS, Status
from schemas.outcome import Outcome
from tests.edge.audit_rig import database, warehouse_server

MICROS = 1_000_000
PRICE = 2 * MICROS
LINES = """
placements: [{id: mail, name: M, channel: mail}, {id: push, name: P, channel: push}]
advertisers: [{id: acme, name: Acme}]
campaigns: [{id: spring, advertiser: acme, name: Spring}]
lines:
- {id: news, campaign: spring, name: N, placements: [mail], price: {per: click, micros: 2000000},
   audience: context.country == 'DE'}
- {id: shoes, campaign: spring, name: S, placements: [push], price: {per: click, micros: 2000000}}
"""


OTHERS = """
campaigns:
- {id: japan, advertiser: acme, name: Japan, currency: JPY}
- {id: past, advertiser: acme, name: Past, schedule: {ends_at: "2020-01-01T00:00:00Z"}}
lines:
- {id: tokyo, campaign: japan, name: T, placements: [push], price: {per: click, micros: 2000000}}
- {id: over, campaign: past, name: O, placements: [push], price: {per: click, micros: 2000000}}
- {id: free, campaign: spring, name: F, placements: [push]}
- {id: gone, campaign: spring, name: G, placements: [push], price: {per: click, micros: 2000000}}
- {id: idle, campaign: spring, name: I, placements: [push], price: {per: click, micros: 2000000}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with warehouse_server(tmp_path_factory.mktemp("warehouse")) as url:
        yield url


@pytest.fixture
def warehouse(server: str, tmp_path: Path) -> Iterator[tuple[Warehouse, Settings]]:
    """An empty warehouse, and a store with two published lines."""
    url = server
    with database(url) as found:
        name = str(found.execute("SELECT currentDatabase()")[0][0])
        settings = load(clickhouse_url=url.rpartition("/")[0] + f"/{name}", data_dir=tmp_path)
        publish(settings, LINES)
        yield found, settings


def publish(settings: Settings, text: str) -> None:
    with opened(settings) as store, store.changing(ANN, 1_000) as changing:
        for wanted in yaml_file.read(text):
            version = changing.put(wanted.kind, wanted.body, 0).version
            for status in (Status.REVIEW, Status.PUBLISHED):
                version = changing.step(wanted.kind, wanted.id, status, version).version


def outcome(line: str, day_ms: int, number: int, **more: Any) -> Outcome:
    """A click that is paid for, or none: of news, sent by mail at six, every third; of shoes, every second."""
    channel, hour, every, worth = ("mail", 18, 3, 9) if line == "news" else ("push", 7, 2, 5)
    is_answered = number % every == 0
    found = Outcome(
        make_id(day_ms, f"{line}{number}", number), line, channel, "v", day_ms, day_ms, day_ms * is_answered,
        0, 0, 0, 1.0, 1, 0, line_id=line, pays_for="click", price_micros=PRICE, has_paid=is_answered,
        value_micros=worth * MICROS * is_answered, send_ms=day_ms + hour * HOUR_MS,
    )  # fmt: skip
    return replace(found, **more)


def insert(warehouse: Warehouse, offset: int, made: list[Outcome], is_older: bool = False) -> None:
    """is_older: as the rows are that were written before there was a column `paid`."""
    columns = outcome_columns([(Origin(1, offset), OutcomeBlock(1, made))])
    names = columns.table.column_names
    values = [[""] * len(made) if is_older and name == "paid" else one
              for name, one in zip(names, columns.columns, strict=True)]  # fmt: skip
    warehouse.insert(columns.table.name, names, values, partitions_max=100)


def test_plans_are_made_from_what_the_warehouse_knows_of_the_stores_lines(
    warehouse: tuple[Warehouse, Settings], tmp_path: Path
) -> None:
    """Money that came to be paid, by line and day; hours by channel and by the line's audience; a file to apply."""
    found, settings = warehouse
    with pytest.raises(HeraldError, match="knows of no spend in the 30 days"):
        spent(settings, Scope(30))
    today_ms = now_ms() // DAY_MS * DAY_MS
    made = [
        outcome(line, today_ms - day * DAY_MS, number)
        for day in range(2, 9)
        for line in ("news", "shoes")
        for number in range(20 + 3 * day)
    ]
    insert(found, 60, made)
    paid = {name: PRICE * sum(one.clicked_ms > 0 for one in made if one.line_id == name) for name in ("news", "shoes")}
    lines, channels, left_out, currency = spent(settings, Scope(30))
    assert (left_out, currency) == ({}, "EUR")
    assert {line.name: line.spent_micros for line in lines} == paid
    assert {line.name: len(line.points) for line in lines} == {"news": 7, "shoes": 7}
    assert channels == {"news": "mail", "shoes": "push"}
    path, screen = tmp_path / "plan.yaml", io.StringIO()
    code = run_allocate(settings, Console(file=screen, width=140), AllocateWish(None, change_max=0.5, write=path))
    assert (code, "channel mail" in screen.getvalue(), "channel push" in screen.getvalue()) == (0, True, True)
    plan = yaml.safe_load(path.read_text())
    assert {line["id"]: line["version"] for line in plan["lines"]} == {"news": 3, "shoes": 3}
    daily = {line["id"]: line["budget"]["daily_micros"] for line in plan["lines"]}
    assert sum(daily.values()) * 7 == pytest.approx(sum(paid.values()), abs=14)
    assert all(line["means"].endswith("over 7 days") for line in plan["lines"])
    assert f"lines/news {plan['lines'][0]['means']}" in screen.getvalue()
    screen = io.StringIO()
    run_send_time(settings, Console(file=screen, width=140), SendTimeWish(None, as_json=True))
    told = json.loads(screen.getvalue())["segments"]
    assert {name: (one["hour"], one["known"]) for name, one in told.items() if not name.startswith("message")} == {
        "mail: everybody": (18, "all"),
        "mail: context.country == 'DE'": (18, "segment"),
        "push: everybody": (7, "all"),
    }


def test_an_action_is_paid_for_by_the_lines_own_goal_and_in_older_rows_by_any_conversion(
    warehouse: tuple[Warehouse, Settings],
) -> None:
    """Subscriptions are no conversions, and a purchase outside of its goal's window is none that is paid for."""
    found, settings = warehouse
    day_ms = now_ms() // DAY_MS * DAY_MS - DAY_MS
    newer = [outcome("news", day_ms, n, pays_for="action", has_paid=n < 3, conversions=n > 7) for n in range(10)]
    insert(found, 61, newer)
    older = [outcome("shoes", day_ms, n, pays_for="action", has_paid=False, conversions=n > 7) for n in range(10)]
    insert(found, 62, older, is_older=True)
    lines = spent(settings, Scope(30)).lines
    assert {line.name: line.spent_micros for line in lines} == {"news": 3 * PRICE, "shoes": 2 * PRICE}


def test_only_lines_that_can_be_given_money_now_share_a_total_and_of_one_currency(
    warehouse: tuple[Warehouse, Settings],
) -> None:
    """What has ended would have the whole plan refused; yen and euros make no sum."""
    found, settings = warehouse
    publish(settings, OTHERS)
    with opened(settings) as store, store.changing(ANN, 2_000) as changing:
        changing.step("lines", "gone", Status.ENDED, 3)
    day_ms = now_ms() // DAY_MS * DAY_MS - DAY_MS
    names = ("news", "shoes", "tokyo", "over", "free", "gone", "idle")
    insert(found, 63, [outcome(name, day_ms, 0, has_paid=name != "idle") for name in names])
    with pytest.raises(SettingsError, match=r"lines of 2 currencies \(EUR: news, shoes; JPY: tokyo\)"):
        spent(settings, Scope(30))
    mine = spent(settings, Scope(30, "EUR"))
    assert [line.name for line in mine.lines] == ["news", "shoes"]
    assert mine.left_out == {
        "over": "has a schedule that is over",
        "free": "has no price",
        "gone": "is not published, or no more",
        "idle": "has spent nothing in these days",
    }
    theirs = spent(settings, Scope(30, campaigns=("japan",)))
    assert ([line.name for line in theirs.lines], theirs.currency) == (["tokyo"], "JPY")
