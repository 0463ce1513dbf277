"""A proposal that becomes budgets: written with the lines' versions, read, then applied as a whole or not at all.

The commands run in this process, on a real store.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from campaigns_rig import ANN, body, fill, of_url, opened, put
from click.testing import CliRunner, Result

from pipeline.campaigns.store import Store
from pipeline.cli import main
from pipeline.core.allocate import allocate
from pipeline.core.response import Line, Point
from pipeline.plan_apply import Target, write_plan
from schemas.campaign import Status

SPEND = """day,line,channel,spend,revenue
1,news,mail,10.00,50
2,news,mail,20.00,80
3,news,mail,15.5,70
1,shoes,web,100,120
2,shoes,web,200.50,150
3,shoes,web,150,140
"""
PRICE = {"per": "click", "micros": 100_000}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Two lines, one with both limits, one without a budget."""
    with opened(of_url("", tmp_path)) as found:
        fill(found)
        limits = {"total_micros": 5_000_000, "daily_micros": 1_000_000}
        put(found, "lines", id="news", name="News", price=PRICE, budget=limits)
        put(found, "lines", id="shoes", name="Shoes", price=PRICE)
        yield found


def herald(folder: Path, *words: str | Path | int) -> Result:
    environment = {"COLUMNS": "120", "HERALD_DATA_DIR": str(folder), "USER": "bob", "LOGNAME": "bob"}
    return CliRunner().invoke(main, ["plan", *map(str, words)], env=environment)


def planned(folder: Path, *more: str) -> Path:
    spend, path = folder / "spend.csv", folder / "plan.yaml"
    spend.write_text(SPEND)
    found = herald(folder, "allocate", "--data", spend, "--by", "line", "--total", "400.000001", "--write", path, *more)
    assert found.exit_code == 0, found.output
    assert f"herald plan apply {path}" in found.output.replace("\n", "")
    return path


def budgets(store: Store) -> dict[str, object]:
    found = {key: store.get("lines", key) for key in ("news", "shoes")}
    return {key: one.body["budget"] for key, one in found.items() if one is not None}


def test_what_was_proposed_is_shown_first_and_then_applied_to_the_last_micro(store: Store, tmp_path: Path) -> None:
    path = planned(tmp_path, "--days", "1")
    before = budgets(store)
    shown = herald(tmp_path, "apply", path, "--dry-run")
    assert (shown.exit_code, budgets(store)) == (0, before)
    assert "~ lines/news" in shown.output
    assert "2 of 2 budgets would change" in shown.output
    done = herald(tmp_path, "apply", path)
    assert (done.exit_code, "2 of 2 budgets changed" in done.output) == (0, True), done.output
    plan = {line["id"]: line for line in yaml.safe_load(path.read_text())["lines"]}
    assert sum(line["budget"]["daily_micros"] for line in plan.values()) == 400_000_001
    assert plan["news"]["was"] == before["news"]
    assert budgets(store) == {
        "news": {"total_micros": 5_000_000, "daily_micros": plan["news"]["budget"]["daily_micros"]},
        "shoes": {"total_micros": None, "daily_micros": plan["shoes"]["budget"]["daily_micros"]},
    }
    last = store.audit("lines", "news", 0, 10)[-1]
    assert last.what == "change"
    assert last.whence.startswith(f"herald plan apply {path}")


def test_a_line_that_was_changed_meanwhile_is_named_and_nothing_is_stored(store: Store, tmp_path: Path) -> None:
    path = planned(tmp_path, "--days", "3")
    with store.changing(ANN, 3_000) as changing:
        changing.put("lines", body("lines", id="shoes", name="Better shoes", price=PRICE), 1)
    before = budgets(store)
    found = herald(tmp_path, "apply", path)
    assert (found.exit_code, budgets(store)) == (1, before)
    assert "lines/shoes: the plan was made from version 1, ann has made it version 2" in found.output.replace("\n", "")
    assert "lines/news" not in found.output


def test_a_plan_is_applied_once(store: Store, tmp_path: Path) -> None:
    path = planned(tmp_path, "--days", "3")
    assert herald(tmp_path, "apply", path).exit_code == 0
    assert herald(tmp_path, "apply", path).exit_code == 1


def test_a_daily_budget_is_the_money_of_its_days(store: Store, tmp_path: Path) -> None:
    path = planned(tmp_path, "--budget", "daily", "--days", "10")
    assert "# Money in micros. This plan sets daily_micros" in path.read_text()
    assert {line["means"][:11] for line in yaml.safe_load(path.read_text())["lines"]} == {"daily limit"}
    assert herald(tmp_path, "apply", path).exit_code == 0
    found = budgets(store)
    assert found["news"]["total_micros"] == 5_000_000  # type: ignore[index]
    total = sum(one["daily_micros"] for one in found.values())  # type: ignore[index]
    assert total == pytest.approx(40_000_000, abs=2)


def test_the_money_of_a_file_is_for_days_that_only_who_gives_it_knows(store: Store, tmp_path: Path) -> None:
    spend = tmp_path / "spend.csv"
    spend.write_text(SPEND)
    found = herald(tmp_path, "allocate", "--data", spend, "--by", "line", "--write", tmp_path / "plan.yaml")
    assert (found.exit_code, (tmp_path / "plan.yaml").exists()) == (2, False)
    assert "--days: expected for how many days" in found.output


def test_a_total_is_what_the_line_has_spent_since_it_began_and_the_new_money(store: Store, tmp_path: Path) -> None:
    """A line that spent 100 and is proposed 90 goes on to 190; a limit of 90 would have stopped it at once."""
    spent = {"news": 100_000_000}
    found = allocate([Line("news", (Point(50_000_000, 5.0), Point(50_000_000, 6.0)))], 90_000_000)
    path = tmp_path / "plan.yaml"
    means = write_plan(of_url("", tmp_path), found, "a test", Target(path, "total"), lambda settings: spent)
    [line] = yaml.safe_load(path.read_text())["lines"]
    assert line["budget"] == {"total_micros": 190_000_000, "daily_micros": 1_000_000}
    assert line["means"] == means["news"] == "total limit 190.00: 100.00 spent since it began + 90.00"
    assert "what a line had spent since it began, and its new money" in path.read_text()
    assert herald(tmp_path, "apply", path).exit_code == 0
    assert budgets(store)["news"] == {"total_micros": 190_000_000, "daily_micros": 1_000_000}


def test_a_limit_that_buys_nothing_is_called_one(store: Store, tmp_path: Path) -> None:
    path = planned(tmp_path, "--days", "3660")
    said = {line["id"]: line["means"] for line in yaml.safe_load(path.read_text())["lines"]}
    assert [name for name, what in said.items() if what.endswith("less than one click costs, so it stops")]


def test_lines_that_have_ended_or_are_of_two_currencies_make_no_plan(store: Store, tmp_path: Path) -> None:
    """Ended, `apply` would refuse the plan as a whole; two currencies make no sum."""
    spend, path = tmp_path / "spend.csv", tmp_path / "plan.yaml"
    spend.write_text(SPEND)
    words = ("allocate", "--data", spend, "--by", "line", "--days", "3", "--write", path)
    put(store, "campaigns", id="japan", advertiser="acme", name="J", currency="JPY")
    with store.changing(ANN, 3_000) as changing:
        changing.put("lines", body("lines", id="shoes", name="Shoes", price=PRICE, campaign="japan"), 1)
    found = herald(tmp_path, *words)
    assert (found.exit_code, path.exists()) == (2, False)
    assert "lines of 2 currencies (EUR: news; JPY: shoes)" in found.output.replace("\n", " ")
    with store.changing(ANN, 4_000) as changing:
        changing.step("lines", "shoes", Status.ENDED, 2)
    found = herald(tmp_path, *words)
    assert (found.exit_code, path.exists()) == (2, False)
    assert "lines/shoes has ended, which is for ever" in found.output.replace("\n", " ")


def test_what_a_person_changed_in_the_file_is_what_is_applied_and_mistakes_have_a_place(
    store: Store, tmp_path: Path
) -> None:
    path = planned(tmp_path, "--days", "3")
    content = yaml.safe_load(path.read_text())
    content["lines"] = [content["lines"][0] | {"budget": {"total_micros": 7}}]
    path.write_text(yaml.safe_dump(content))
    assert herald(tmp_path, "apply", path).exit_code == 0
    assert budgets(store)["news"] == {"total_micros": 7, "daily_micros": None}
    path.write_text("plan: budgets\nlines:\n- {id: news, version: 2, budget: {total_micros: many}}\n")
    wrong = herald(tmp_path, "apply", path)
    assert (wrong.exit_code, "plan.yaml:3" in wrong.output) == (2, True), wrong.output


def test_names_that_are_no_lines_of_the_store_are_told(store: Store, tmp_path: Path) -> None:
    spend = tmp_path / "spend.csv"
    spend.write_text(SPEND.replace("shoes", "socks"))
    words = ("--data", spend, "--by", "line", "--days", 3, "--write", tmp_path / "plan.yaml")
    found = herald(tmp_path, "allocate", *words)
    assert (found.exit_code, (tmp_path / "plan.yaml").exists()) == (2, False)
    assert "no lines/socks in the store" in found.output


def test_the_mix_of_channels_is_told_with_what_a_unit_more_brings(tmp_path: Path) -> None:
    spend = tmp_path / "spend.csv"
    spend.write_text(SPEND)
    found = herald(tmp_path, "allocate", "--data", spend, "--by", "line")
    assert "channel mail 45.50 ->" in found.output
    assert found.output.count("a unit more brings") >= 3
