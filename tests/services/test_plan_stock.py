"""`herald plan stock`: from a file of sales to the day on which a stock ends. The command runs in this process."""

import json
from datetime import date, timedelta
from pathlib import Path

import pytest

from tests.services.test_plan import herald


def days(count: int) -> list[str]:
    return [(date(2026, 1, 5) + timedelta(days=day)).isoformat() for day in range(count)]


@pytest.fixture
def sales(tmp_path: Path) -> Path:
    """Ten lamps a day and one rug every fifth day, for 100 days."""
    path = tmp_path / "sales.csv"
    rows = [f"{day} 10:0{hour}:00,lamp,{5}" for day in days(100) for hour in (1, 2)]
    rows += [f"{day},rug,1" for day in days(100)[::5]]
    path.write_text("\n".join(["date,sku,quantity", *rows]) + "\n")
    return path


def stock(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "left.csv"
    path.write_text(text)
    return path


def test_what_runs_out_first_comes_first_and_is_warned_of(sales: Path, tmp_path: Path) -> None:
    left = stock(tmp_path, "sku,stock\nrug,100\nlamp,45\nunknown,3\n")
    found = herald("stock", "--data", sales, "--stock", left, "--lead-days", "5", "--json")
    assert found.exit_code == 0, found.output
    content = json.loads(found.output)
    assert content["last_day"] == "2026-04-14"
    skus = {one["sku"]: one for one in content["skus"]}
    assert next(iter(skus)) == "lamp"
    lamp = skus["lamp"]
    assert lamp["demand"]["7"] == pytest.approx(70.0, rel=0.02)
    assert lamp["ends"]["days"] == 5
    assert lamp["ends"]["warns"] is True
    assert skus["rug"]["ends"]["warns"] is False
    assert skus["unknown"]["ends"] == {"days": None, "early": None, "late": None, "risk": 0.0, "warns": False}


def test_people_read_when_to_order(sales: Path, tmp_path: Path) -> None:
    found = herald("stock", "--data", sales, "--stock", stock(tmp_path, "sku,stock\nlamp,45\nrug,100\n"))
    assert "order now" in found.output
    assert "2 skus in 100 days from 2026-01-05; 2 shown, 1 to order" in found.output


def test_without_stock_the_demand_is_told_of_what_sells_most(sales: Path) -> None:
    content = json.loads(herald("stock", "--data", sales, "--top", "1", "--json").output)
    assert [one["sku"] for one in content["skus"]] == ["lamp"]
    assert content["skus"][0]["ends"] is None
    assert "lamp" in herald("stock", "--data", sales).output


def test_a_row_without_quantity_column_is_one_unit(tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    path.write_text("day,product_id\n" + "".join(f"{day},lamp\n" for day in days(60)))
    content = json.loads(herald("stock", "--data", path, "--json").output)
    assert content["skus"][0]["demand"]["7"] == pytest.approx(7.0, rel=0.05)


@pytest.mark.parametrize(
    ("text", "left", "said"),
    [
        ("date,sku\n", "sku,stock\n", "no sales, expected a row at least"),
        ("sku,quantity\na,1\n", "sku,stock\n", "no column date or day"),
        ("date,sku,quantity\n2026-01-05,a,1\nsoon,a,1\n", "sku,stock\n", "3: date: found 'soon', expected a day"),
        ("date,sku,quantity\n2026-01-05,a,-1\n", "sku,stock\n", "2: quantity: found '-1'"),
        ("date,sku,quantity\n2026-01-05,,1\n", "sku,stock\n", "2: sku: found ''"),
        ("date,sku\n0001-01-01,a\n2026-01-05,a\n", "sku,stock\n", "expected 4,000 days at most"),
        ("date,sku\n2026-01-05,a\n", "sku,stock\na,few\n", "2: stock: found 'few'"),
        ("date,sku\n2026-01-05,a\n", "sku\na\n", "no column stock or left"),
    ],
)
def test_wrong_sales_or_stock_are_told_by_their_place(text: str, left: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    path.write_text(text)
    found = herald("stock", "--data", path, "--stock", stock(tmp_path, left))
    assert found.exit_code == 2
    assert said in found.output.replace("\n", "")
