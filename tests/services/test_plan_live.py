"""Plans without a file: from what a real warehouse knows of the lines of a real store."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from campaigns_rig import ANN, opened
from rich.console import Console

from pipeline.campaigns import yaml_file
from pipeline.core.decide import make_id
from pipeline.core.rows import outcome_columns
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.clock import now_ms
from pipeline.errors import HeraldError
from pipeline.plan import AllocateWish, run_allocate
from pipeline.plan_live import spent
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


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[tuple[Warehouse, Settings]]:
    """An empty warehouse, and a store with two published lines."""
    with warehouse_server(tmp_path / "warehouse") as url, database(url) as found:
        name = str(found.execute("SELECT currentDatabase()")[0][0])
        settings = load(clickhouse_url=url.rpartition("/")[0] + f"/{name}", data_dir=tmp_path)
        with opened(settings) as store, store.changing(ANN, 1_000) as changing:
            for wanted in yaml_file.read(LINES):
                version = changing.put(wanted.kind, wanted.body, 0).version
                for status in (Status.REVIEW, Status.PUBLISHED):
                    version = changing.step(wanted.kind, wanted.id, status, version).version
        yield found, settings


def outcome(line: str, day_ms: int, number: int) -> Outcome:
    """A click that is paid for, or none: of news, sent by mail at six, every third; of shoes, every second."""
    channel, hour, every, worth = ("mail", 18, 3, 9) if line == "news" else ("push", 7, 2, 5)
    is_answered = number % every == 0
    return Outcome(
        make_id(day_ms, f"{line}{number}", number), line, channel, "v", day_ms, day_ms, day_ms * is_answered,
        0, 0, 0, 1.0, 1, 0, line_id=line, pays_for="click", price_micros=PRICE,
        value_micros=worth * MICROS * is_answered, send_ms=day_ms + hour * HOUR_MS,
    )  # fmt: skip


def test_plans_are_made_from_what_the_warehouse_knows_of_the_stores_lines(
    warehouse: tuple[Warehouse, Settings], tmp_path: Path
) -> None:
    """Money that came to be paid, by line and day; hours by channel and by the line's audience; a file to apply."""
    found, settings = warehouse
    with pytest.raises(HeraldError, match="knows of no spend in the 30 days"):
        spent(settings, 30)
    today_ms = now_ms() // DAY_MS * DAY_MS
    made = [
        outcome(line, today_ms - day * DAY_MS, number)
        for day in range(2, 9)
        for line in ("news", "shoes")
        for number in range(20 + 3 * day)
    ]
    columns = outcome_columns([(Origin(1, 60), OutcomeBlock(1, made))])
    found.insert(columns.table.name, columns.table.column_names, columns.columns, partitions_max=100)
    paid = {name: PRICE * sum(one.clicked_ms > 0 for one in made if one.line_id == name) for name in ("news", "shoes")}
    lines, channels = spent(settings, 30)
    assert {line.name: line.spent_micros for line in lines} == paid
    assert {line.name: len(line.points) for line in lines} == {"news": 7, "shoes": 7}
    assert channels == {"news": "mail", "shoes": "push"}
    path, screen = tmp_path / "plan.yaml", io.StringIO()
    code = run_allocate(settings, Console(file=screen, width=140), AllocateWish(None, change_max=0.5, write=path))
    assert (code, "channel mail" in screen.getvalue(), "channel push" in screen.getvalue()) == (0, True, True)
    plan = yaml.safe_load(path.read_text())
    assert {line["id"]: line["version"] for line in plan["lines"]} == {"news": 3, "shoes": 3}
    assert sum(line["budget"]["total_micros"] for line in plan["lines"]) == sum(paid.values())
    screen = io.StringIO()
    run_send_time(settings, Console(file=screen, width=140), SendTimeWish(None, as_json=True))
    told = json.loads(screen.getvalue())["segments"]
    assert {name: (one["hour"], one["known"]) for name, one in told.items() if not name.startswith("message")} == {
        "mail: everybody": (18, "all"),
        "mail: context.country == 'DE'": (18, "segment"),
        "push: everybody": (7, "all"),
    }
