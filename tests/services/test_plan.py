"""`herald plan`: from a file to a proposal, and every mistake with its place. The command runs in this process."""

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from tests.core.plan_rig import DATA

SPEND = """day,channel,spend,revenue,min,max
1,mail,10.00,50,,
2,mail,20.00,80,,
3,mail,15.5,70,5,
1,web,100,120,,
2,web,200.50,150,,250
3,web,0,9,,
"""


def herald(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["plan", *map(str, words)], env={"COLUMNS": "120"})


@pytest.fixture
def spend(tmp_path: Path) -> Path:
    path = tmp_path / "spend.csv"
    path.write_text(SPEND)
    return path


def test_a_total_is_shared_out_to_the_last_micro_and_shown_before_it_is_applied(spend: Path) -> None:
    found = herald("allocate", "--data", spend, "--total", "400.000001", "--json")
    assert found.exit_code == 0, found.output
    content = json.loads(found.output)
    lines = {line["name"]: line for line in content["lines"]}
    assert sum(line["new_micros"] for line in lines.values()) == content["total_micros"] == 400_000_001
    assert (lines["mail"]["old_micros"], lines["web"]["old_micros"]) == (45_500_000, 300_500_000)
    assert lines["web"]["new_micros"] <= 250_000_000
    assert lines["mail"]["new_micros"] > 100_000_000  # a unit brought much more there
    assert lines["mail"]["value_new"]["low"] < lines["mail"]["value_new"]["mean"] < lines["mail"]["value_new"]["high"]
    assert spend.read_text() == SPEND


def test_people_read_old_and_new_and_why(spend: Path) -> None:
    found = herald("allocate", "--data", spend)
    assert found.exit_code == 0, found.output
    assert "total 346.00 -> 346.00" in found.output
    assert "web: a unit more brought" in found.output
    assert "1 without spend left out (value 9.0)" in found.output
    assert "nothing was applied" in found.output


def test_a_packed_file_with_columns_of_other_names_is_read(spend: Path, tmp_path: Path) -> None:
    packed = tmp_path / "spend.csv.gz"
    packed.write_bytes(gzip.compress(SPEND.encode()))
    found = herald("allocate", "--data", packed, "--by", "channel,day", "--value", "spend", "--json")
    assert {line["name"] for line in json.loads(found.output)["lines"]} >= {"mail 1", "web 2"}


def test_real_ads_are_planned_from_their_own_columns() -> None:
    path = DATA / "facebook_ads" / "KAG_conversion_data.csv.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not in {DATA} (HERALD_TEST_DATA)")
    columns = ("--by", "age,gender", "--spend", "Spent", "--value", "Total_Conversion")
    found = herald("allocate", "--data", path, *columns, "--total", "60000", "--json")
    content = json.loads(found.output)
    assert sum(line["new_micros"] for line in content["lines"]) == 60_000_000_000
    marginals = [line["marginal"] for line in content["lines"]]
    assert marginals == pytest.approx([content["marginal"]] * 8, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", (), "empty, expected a line with the names of the columns"),
        ("a,b\n", (), "no column line or channel"),
        ("line,spend,value\n", (), "nothing to learn from"),
        ("line,spend,value\na,1,2\na,x,2\n", (), "3: spend: found 'x', expected a number from 0 to 10^12"),
        ("line,spend,value\na,1,-2\n", (), "2: value: found '-2'"),
        ("line,spend,value\na,1,nan\n", (), "2: value: found 'nan'"),
        ("line,spend,value\na,1\n", (), "2: value: found ''"),
        ("line,spend,value\n,1,2\n", (), "2: line: found '', expected the name of a line"),
        (
            "line,spend,value\na,1,2\n",
            ("--by", "town"),
            "no column 'town' (names the line), expected one of line",
        ),
        ("line,spend,value\na,1,2\n", ("--total", "much"), "--total: found 'much', expected a number"),
        ("line,spend,value,max\na,1,2,3\n", ("--total", "4"), "total 4.00, but the lines' bounds leave 0.00 to 3.00"),
    ],
)
def test_a_wrong_file_is_told_by_its_place(text: str, options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    path = tmp_path / "spend.csv"
    path.write_text(text)
    found = herald("allocate", "--data", path, *options)
    assert found.exit_code == 2
    assert said in found.output.replace("\n", "")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "spend.csv"
    path.write_bytes(b"line,spend,value\n\xff,1,2\n")
    found = herald("allocate", "--data", path)
    assert (found.exit_code, "is no UTF-8" in found.output) == (2, True)
    torn = tmp_path / "spend.csv.gz"
    torn.write_bytes(gzip.compress(SPEND.encode() * 100)[:60])
    assert herald("allocate", "--data", torn).exit_code == 2
