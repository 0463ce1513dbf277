"""`herald experiments analyse` on files: what it says, what it refuses, and what it says of files that are wrong."""

import gzip
import io
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline.core.experiment.assign import assign, plan
from pipeline.errors import SettingsError
from pipeline.experiment_csv import read_csv
from pipeline.experiments import REFUSED, Wish, read_experiment, run
from pipeline.experiments_check import CheckWish, run_check
from pipeline.settings import load
from tests.core.experiment_rig import rows_of

SEED = 20_261_122
BUTTON = """
id: button
variants:
  - {name: old}
  - {name: new}
goals:
  - {metric: bought, kind: rate}
  - {metric: revenue, kind: money}
"""
PAGE = """
id: page
factors: {text: [buy, order], colour: [red, blue]}
goals: [{metric: bought, kind: rate}]
"""


def written(folder: Path, yaml: str, lines: Sequence[str], name: str = "visitors.csv") -> Wish:
    """The two files, and the wish to have them read."""
    experiment, data = folder / "test.yaml", folder / name
    experiment.write_text(yaml, "utf-8")
    raw = "".join(f"{line}\n" for line in lines).encode()
    data.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return Wish(experiment, data)


def said(wish: Wish) -> tuple[int, str]:
    screen = io.StringIO()
    code = run(load(), Console(file=screen, width=200), wish)
    return code, screen.getvalue()


def found(wish: Wish) -> tuple[int, dict[str, list[dict[str, object]]]]:
    code, text = said(replace(wish, as_json=True))
    return code, json.loads(text)


def visitors(count: int = 4_000) -> list[str]:
    """As many visitors, of whom the new button makes 30 % buy instead of 20 %; of desktops, none."""
    print(f"seed {SEED}")
    draw = random.Random(SEED)
    lines = ["visitor,variant,exposed,bought,revenue,pre_visits,segment_device"]
    for number in range(count):
        variant, visits = draw.choice(["old", "new"]), draw.randrange(10)
        device = "phone" if number % 4 else "desktop"
        rate = 0.3 if (variant, device) == ("new", "phone") else 0.2
        bought = int(draw.random() < rate * visits / 4.5)
        amount = bought * round(draw.lognormvariate(3.0, 0.5), 2)
        lines.append(f"v{number},{variant},2026-11-{1 + number % 20:02d}T08:00:00Z,{bought},{amount},{visits},{device}")
    return lines


def test_a_marketer_is_told_which_variant_is_better_and_by_how_much(tmp_path: Path) -> None:
    code, text = said(written(tmp_path, BUTTON, visitors()))
    assert code == 0
    for words in (
        "experiment button: 4,000 visitors, control: old; left out: nobody",
        "split as planned: yes",
        "bought: new is better than the control by ",
        " more per 1,000 visitors (",
        "bought by segment: hints for a next test",
        "device = phone",
        "% of the noise taken away by what was known before (pre_visits)",
        "amounts above ",
        "for all 2 comparisons together (Holm)",
    ):
        assert words in text


def test_a_program_is_told_the_same_by_names(tmp_path: Path) -> None:
    code, answer = found(written(tmp_path, BUTTON, visitors(), "visitors.csv.gz"))
    assert code == 0
    bought, revenue = answer["effects"]
    assert (bought["metric"], bought["variant"], bought["verdict"]) == ("bought", "new", "better")
    assert bought["difference"] == pytest.approx(0.075, abs=0.03)
    assert bought["p"] <= bought["p_adjusted"] < 0.05  # type: ignore[operator]
    assert revenue["metric"] == "revenue"
    assert {(one["segment"], one["value"]): one["verdict"] for one in answer["segments"]} == {
        ("segment_device", "phone"): "better",
        ("segment_device", "desktop"): "unclear",
    }
    assert answer["covariates"] == ["pre_visits"]
    assert 0.8 < answer["metrics"][0]["variance_kept"] < 0.95  # type: ignore[operator]
    assert answer["correction"]["segments"] == "benjamini_hochberg"  # type: ignore[call-overload]


def test_a_multivariate_test_is_taken_apart_by_factor(tmp_path: Path) -> None:
    """One page sells twice as well only with both changes: then factors are not to be read alone."""
    draw = random.Random(SEED)
    lines, together = ["visitor,variant,bought"], ["visitor,variant,bought"]
    for number in range(20_000):
        text, colour = draw.choice(["buy", "order"]), draw.choice(["red", "blue"])
        name = f'v{number},"text={text}, colour={colour}"'
        lines.append(f"{name},{int(draw.random() < (0.12 if text == 'order' else 0.08))}")
        together.append(f"{name},{int(draw.random() < (0.2 if (text, colour) == ('order', 'blue') else 0.1))}")
    wish = written(tmp_path, PAGE, lines)
    code, answer = found(wish)
    assert code == 0
    assert [(one["factor"], one["level"], one["beside"]) for one in answer["factors"]] == [
        ("text", "order", "buy"), ("colour", "blue", "red"),
    ]  # fmt: skip
    assert [one["p_adjusted"] < 0.05 for one in answer["factors"]] == [True, False]  # type: ignore[operator]
    assert answer["factors"][0]["odds_ratio"] == pytest.approx(0.12 * 0.92 / (0.08 * 0.88), rel=0.15)
    assert "effects may be added up" in said(wish)[1]
    said_of_both = said(written(tmp_path, PAGE, together))[1]
    assert "factors change each other's effect (text=order with colour=blue): read the variants" in said_of_both


def test_hillstroms_mails_are_told_as_published(tmp_path: Path) -> None:
    """The data set as it came, turned into the command's columns."""
    rows = rows_of("hillstrom", "hillstrom.csv.gz")
    lines = [
        "visitor,variant,visit,spend",
        *(f"{n},{r['segment']},{r['visit']},{r['spend']}" for n, r in enumerate(rows)),
    ]
    names = "[{name: No E-Mail}, {name: Mens E-Mail}, {name: Womens E-Mail}]"
    yaml = f"id: mail\nvariants: {names}\ngoals: [{{metric: visit, kind: rate}}, {{metric: spend, kind: money}}]\n"
    code, text = said(written(tmp_path, yaml, lines, "hillstrom.csv.gz"))
    assert code == 0
    for words in (
        "10.62%",
        "18.28%",
        "15.14%",
        "+72.1%",
        "visit: Mens E-Mail is better than the control by 72.1%: 76.6",
    ):
        assert words in text


# --- what is left out, and refused -----------------------------------------------------------------------------------


def test_who_was_never_shown_his_variant_or_not_in_time_is_left_out(tmp_path: Path) -> None:
    lines = visitors(1_000)
    lines[1] = lines[1].replace("2026-11-01T08:00:00Z", "")
    lines[2] = lines[2].replace("v1,", ",")
    yaml = f"{BUTTON}starts: 2026-11-02\nends: 2026-11-12T08:00:00Z\n"
    code, answer = found(written(tmp_path, yaml, lines))
    assert code == 0
    assert answer["read"] == {"rows": 1_000, "unshown": 1, "outside": 499, "unnamed": 1}
    assert sum(answer["visitors"].values()) == 499  # type: ignore[attr-defined]


def test_too_many_who_saw_both_variants_leave_nothing_to_say(tmp_path: Path) -> None:
    lines = visitors(1_000)
    twice = [line.replace(",old,", ",NEW,").replace(",new,", ",old,").replace(",NEW,", ",new,") for line in lines[1:12]]
    wish = written(tmp_path, BUTTON, [*lines, *twice])
    code, answer = found(wish)
    assert (code, answer["effects"]) == (REFUSED, [])
    assert [one["reason"] for one in answer["refusals"]] == ["several_variants"]
    code, text = said(wish)
    assert code == REFUSED == 3
    assert "this experiment cannot answer:\n  11 visitors (1.1%) saw several variants, expected 1 % at most" in text


def test_the_command_itself_ends_with_3_where_it_refuses_and_2_where_it_is_used_wrongly(tmp_path: Path) -> None:
    lopsided = [line for number, line in enumerate(visitors(2_000)) if ",old," not in line or number % 3]
    wish = written(tmp_path, BUTTON, lopsided)
    command = [sys.executable, "-m", "pipeline.cli", "experiments", "analyse", "--experiment", str(wish.experiment)]
    refused = subprocess.run([*command, "--data", str(wish.data_file)], capture_output=True, text=True, check=False)
    assert refused.returncode == REFUSED
    assert "visitors are not split as planned: old " in refused.stdout
    wrong = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr) == (2, "expected either --data FILE or --from warehouse\n")


# --- who meets what --------------------------------------------------------------------------------------------------


def files(folder: Path, *shares: float) -> list[Path]:
    """Experiments of one layer."""
    paths = [folder / f"e{number}.yaml" for number in range(len(shares))]
    for number, (path, share) in enumerate(zip(paths, shares, strict=True)):
        path.write_text(f"id: e{number}\nshare: {share}\nvariants: [{{name: a}}, {{name: b, weight: 3}}]\n", "utf-8")
    return paths


def test_a_check_shows_how_experiments_share_the_visitors_out(tmp_path: Path) -> None:
    screen = io.StringIO()
    assert run_check(Console(file=screen, width=120), CheckWish(files(tmp_path, 0.5, 0.25), "v1")) == 0
    text = screen.getvalue()
    assert all(
        words in text for words in ("0-4999", "5000-7499", "50.00%", "b 75.0%", "5% of all visitors are held out")
    )
    met = assign(plan([read_experiment(path, needs_goals=False) for path in files(tmp_path, 0.5, 0.25)]), "v1")
    screen = io.StringIO()
    run_check(Console(file=screen, width=120), CheckWish(files(tmp_path, 0.5, 0.25), "v1", as_json=True))
    answer = json.loads(screen.getvalue())
    assert answer["variants"] == met.variants
    assert [one["buckets"] for one in answer["experiments"]] == [[[0, 5_000]], [[5_000, 7_500]]]


def test_a_check_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"layer 'main' has not enough visitors: e0 0.5, e1 0.6"):
        run_check(Console(file=io.StringIO()), CheckWish(files(tmp_path, 0.5, 0.6)))


# --- wrong files -----------------------------------------------------------------------------------------------------

HEAD = "visitor,variant,bought,revenue"
WRONG_DATA = {
    "": "visitors.csv:1: no column 'visitor' among: nothing",
    "visitor,variant,bought": "visitors.csv:1: no column 'revenue' among: visitor, variant, bought",
    f"{HEAD},bought": "visitors.csv:1: 2 columns 'bought', expected one",
    f"{HEAD}\nann,old,1": "visitors.csv:2: 3 fields, expected 4",
    f"{HEAD}\nann,Old,1,0": "visitors.csv:2: variant: found 'Old', expected one of old, new",
    f"{HEAD}\nann,old,yes,0": "visitors.csv:2: bought: found 'yes', expected a number",
    f"{HEAD}\nann,old,nan,0": "visitors.csv:2: bought: found 'nan', expected a number",
    f"{HEAD}\nann,old,2,0": "visitors.csv:2: bought: found '2', expected 0 or 1: it is a rate",
    f"{HEAD}\nann,old,1,-5": "visitors.csv:2: revenue: found '-5', expected an amount of 0 or more",
    f"{HEAD}\nann,old,1e300,0": "visitors.csv:2: bought: found '1e300', expected a number up to 1e+15",
    f"{HEAD}\nann,old,,0": "visitors.csv:2: bought: found '', expected a number",
    f"{HEAD},exposed\nann,old,1,0,soon": "visitors.csv:2: exposed: found 'soon', expected a time, ms since 1970",
    f"{HEAD},exposed\nann,old,1,0,9999999999999999999999": "exposed: found '9999999999999999999999', expected a time",
    f"{HEAD},pre_age\nann,old,1,0,old": "visitors.csv:2: pre_age: found 'old', expected a number",
    f'{HEAD}\nann,old,1,0\n"bob,old': "visitors.csv:3: unexpected end of data, expected CSV",
}


@pytest.mark.parametrize("text", WRONG_DATA)
def test_what_is_wrong_with_the_data_is_said_with_its_line(tmp_path: Path, text: str) -> None:
    wish = written(tmp_path, BUTTON, [text] if text else [])
    with pytest.raises(SettingsError) as caught:
        run(load(), Console(file=io.StringIO()), wish)
    assert WRONG_DATA[text] in str(caught.value)


def test_data_that_is_no_text_or_no_archive_is_named(tmp_path: Path) -> None:
    experiment = read_experiment(written(tmp_path, BUTTON, []).experiment)
    torn = tmp_path / "torn.csv.gz"
    torn.write_bytes(gzip.compress("\n".join(visitors()).encode())[:-2_000])
    plain = tmp_path / "plain.csv.gz"
    plain.write_bytes(b"visitor,variant\n")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"visitor,variant\xff\n")
    for path, words in ((torn, "gzip"), (plain, "gzip"), (binary, "no UTF-8"), (tmp_path / "none.csv", "No such file")):
        with pytest.raises(SettingsError, match=words):
            read_csv(path, experiment)


WRONG_EXPERIMENT = {
    "": "test.yaml: found nothing, expected `id: NAME`, `variants:` and `goals:`",
    "id: x\nvariants: [{name: a}, {name: b}]": "test.yaml:1:1: goals: none, expected a metric at least",
    "id: x\nvariants:\n- {name: a, weight: 0}\n- {name: b, weight: 0}": "test.yaml:2:1: variants: the weights sum to 0",
    "id: x\nvariants:\n- name: a\n- name: b\n  wait: 2": "test.yaml:5:3: variants.1.wait: unknown, expected weight?",
    "id: x\nvariants: [{name: a}, {name: b}]\ngoals: [{metric: y, kind: rat}]": "goals.0.kind: found 'rat', expected:",
    "id: x\nvariants: [{name: a}, {name: b}]\nstarts: 2026-12-01\nends: 2026-11-01": "test.yaml:4:1: ends: found 2026-",
    "variants: [{name: a}, {name: b}]": "id: missing, expected a value",
}


@pytest.mark.parametrize("text", WRONG_EXPERIMENT)
def test_what_is_wrong_with_an_experiment_is_said_with_its_place(tmp_path: Path, text: str) -> None:
    wish = written(tmp_path, text, [])
    with pytest.raises(SettingsError) as caught:
        read_experiment(wish.experiment)
    assert WRONG_EXPERIMENT[text] in str(caught.value)


@given(st.lists(st.text('va,"\n0123456789.old', max_size=30), max_size=8))
def test_no_text_ends_in_anything_but_an_answer_or_a_complaint(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    wish = written(tmp_path_factory.getbasetemp(), BUTTON, [HEAD, "ann,old,1,0.5", *lines])
    text = ""
    try:
        code, _ = said(wish)
    except SettingsError as error:
        code, text = 2, str(error)
    assert (code, bool(text)) in {(REFUSED, False), (2, True)}
    assert not text or "expected" in text
