"""The decision log of a real warehouse, as delivery, the stages and the writer leave it there, evaluated."""

import io
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from rich.console import Console

from pipeline.core.decide import Action, Ask, Known, decide, made_elsewhere, make_id
from pipeline.core.evaluate.estimate import Evaluation, Method
from pipeline.core.evaluate.fold import EvaluateRules, evaluate
from pipeline.core.evaluate.logged import MICROS, Logged
from pipeline.core.evaluate.targets import EpsilonGreedySpec, FixedSpec
from pipeline.core.group import choose_member, members, note_group
from pipeline.core.policy import EpsilonGreedy, PolicyRules
from pipeline.core.rows import Columns, decision_columns, outcome_columns
from pipeline.edge.clickhouse import Warehouse
from pipeline.edge.decision_log import DecisionLogReader, Span
from pipeline.evaluate import REFUSED, Wish, run
from pipeline.settings import load
from schemas.block import EventBlock, Origin, OutcomeBlock, Totals
from schemas.event import Event, EventType
from schemas.model import ArmStatistics
from schemas.outcome import DecisionLog, Outcome
from tests.edge.audit_rig import database, warehouse_server

SEED = 5
BASE_MS = 1_790_000_040_000
EVERY_MS = 2_000
BOUGHT_AFTER_MS = 600_000
ROUNDS = 3_000
RATES = {"a": 0.05, "b": 0.10, "c": 0.30}
ACTIONS = [Action(name, f"https://shop.example/{name}", features={"size": 1.5}) for name in RATES]


class Made(NamedTuple):
    """A decision, and what came of it; expected: what the evaluation should read of it, or None."""

    log: DecisionLog
    at_ms: int
    outcomes: list[Outcome]
    expected: Logged | None


def outcome(log: DecisionLog, at_ms: int, rank: int, is_shown: bool, is_clicked: bool, is_bot: bool) -> Outcome:
    choice = log.choices[rank]
    shown_ms, clicked_ms = (at_ms + 100) * is_shown, (at_ms + 900) * is_clicked
    reward = MICROS * (is_clicked and not is_bot)
    # of every second one a purchase came that changed the reward; rows of before that column say nothing
    rewarded_ms = (clicked_ms + BOUGHT_AFTER_MS) * (is_clicked and at_ms // EVERY_MS % 2)
    return Outcome(
        log.decision_id, choice.action_id, log.placement_id, "ann", at_ms, shown_ms, clicked_ms, 0, 0, reward,
        choice.propensity, 1, reward, is_bot=is_bot, policy=log.policy, rank=rank, rewarded_ms=rewarded_ms,
    )  # fmt: skip


def known_ms(found: Outcome) -> int:
    """When all of the reward was known."""
    return found.rewarded_ms or found.clicked_ms


def made(number: int, draw: random.Random) -> Made:
    """One decision: mostly ours; now and then another system's, of another placement, empty, a bot's, or not shown."""
    at_ms = BASE_MS + number * EVERY_MS
    decision_id = make_id(at_ms, f"v{draw.randrange(50)}", draw.getrandbits(48))
    placement = "side" if number % 31 == 7 else "home"
    ask = Ask(placement, "ann", [] if number % 101 == 9 else ACTIONS, 2, {"hour": number % 24})
    if number % 5 == 3:
        log = made_elsewhere(ask, "abc"[number // 5 % 3], 1 / 3, decision_id)
    else:
        arms = {"b": ArmStatistics(100, 9 * MICROS)}
        log = decide(ask, Known(EpsilonGreedy(arms, PolicyRules(0.6)), "m1"), decision_id, "s")
    is_shown, is_bot = number % 7 != 2, number % 13 == 5
    is_clicked = is_shown and bool(log.choices) and draw.random() < RATES[log.choices[0].action_id]
    outcomes = [outcome(log, at_ms, n, is_shown, is_clicked and not n, is_bot) for n in range(len(log.choices))]
    if not log.choices or is_bot or placement == "side":
        return Made(log, at_ms, outcomes, None)
    first = log.choices[0]
    expected = Logged(
        decision_id, at_ms, first.action_id, first.propensity, ("a", "b", "c"),
        () if number % 5 == 3 else tuple(log.propensities), outcomes[0].reward_micros, outcomes[0].impressed_ms,
        known_ms(outcomes[0]),
    )  # fmt: skip
    return Made(log, at_ms, outcomes, expected)


def insert(warehouse: Warehouse, columns: Columns) -> None:
    warehouse.insert(columns.table.name, columns.table.column_names, columns.columns, partitions_max=100)


@pytest.fixture(scope="module")
def story() -> list[Made]:
    draw = random.Random(SEED)
    print(f"seed {SEED}")
    return [made(number, draw) for number in range(ROUNDS)]


@pytest.fixture(scope="module")
def expected(story: list[Made]) -> list[Logged]:
    return [one.expected for one in story if one.expected is not None]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory, story: list[Made]) -> Iterator[tuple[Warehouse, str]]:
    """A warehouse with the story in it, half of it twice (as after a kill), outcomes of before and after; its URL."""
    with warehouse_server(tmp_path_factory.mktemp("warehouse")) as url, database(url) as opened:
        name = str(opened.execute("SELECT currentDatabase()")[0][0])
        for start, end, offset in ((0, ROUNDS, 0), (0, ROUNDS // 2, 0)):
            part = story[start:end]
            events = [decision_event(one) for one in part]
            block = EventBlock(BASE_MS, Totals(), list(range(len(events))), events)
            insert(opened, decision_columns([(Origin(0, offset), block)]))
        for offset in (1, 2):  # first nothing is known of what was shown
            news = [found if offset == 2 else unknown(found) for one in story for found in one.outcomes]
            insert(opened, outcome_columns([(Origin(0, offset), OutcomeBlock(BASE_MS, news))]))
        yield opened, url.rpartition("/")[0] + f"/{name}"


def decision_event(one: Made) -> Event:
    found = Event(one.log.decision_id, EventType.DECISION, one.at_ms, one.at_ms, "shop")
    found.decision_id, found.properties = one.log.decision_id, msgspec.json.encode(one.log).decode()
    return found


def unknown(found: Outcome) -> Outcome:
    return msgspec.structs.replace(found, impressed_ms=0, clicked_ms=0, reward_micros=0)


def read(warehouse: Warehouse, span: Span, reads_context: bool = False, rows_max: int = 20_000) -> list[Logged]:
    rows = DecisionLogReader(warehouse, span, reads_context, rows_max)
    return [one._replace(propensities=tuple(one.propensities)) for one in rows]


def test_every_decision_is_read_once_with_its_outcome_in_order_of_time(
    warehouse: tuple[Warehouse, str], expected: list[Logged]
) -> None:
    assert read(warehouse[0], Span("home")) == expected
    assert len(expected) > 2_500
    late = sum(one.rewarded_ms > one.shown_ms + BOUGHT_AFTER_MS > BOUGHT_AFTER_MS for one in expected)
    assert 0 < late < sum(one.rewarded_ms > 0 for one in expected)


def test_what_is_left_out_is_counted(warehouse: tuple[Warehouse, str], story: list[Made]) -> None:
    reader = DecisionLogReader(warehouse[0], Span("home"))
    list(reader)
    home = [one for one in story if one.log.placement_id == "home"]
    assert reader.read.empty == sum(not one.log.choices for one in home)
    assert reader.read.bots == sum(bool(one.outcomes) and one.outcomes[0].is_bot for one in home)


@pytest.mark.parametrize("rows_max", [1_000, 20])
def test_how_the_log_is_cut_into_chunks_changes_nothing(
    warehouse: tuple[Warehouse, str], expected: list[Logged], rows_max: int
) -> None:
    """Also where a chunk is smaller than the decisions of a minute."""
    until = expected[100].decided_ms
    reader = DecisionLogReader(warehouse[0], Span("home", 0, until), False, rows_max)
    assert [one.decision_id for one in reader] == [one.decision_id for one in expected[:100]]
    assert reader.read.chunks >= 100 // rows_max


def test_a_span_of_time_has_its_first_millisecond_and_not_its_last(
    warehouse: tuple[Warehouse, str], expected: list[Logged]
) -> None:
    span = Span("home", expected[500].decided_ms, expected[900].decided_ms)
    assert read(warehouse[0], span) == expected[500:900]
    assert read(warehouse[0], Span("home", BASE_MS - 9_000_000_000, BASE_MS - 8_000_000_000)) == []


def test_the_context_is_read_for_those_who_ask(warehouse: tuple[Warehouse, str], expected: list[Logged]) -> None:
    found = read(warehouse[0], Span("home", 0, expected[50].decided_ms), reads_context=True)
    assert [one.decision_id for one in found] == [one.decision_id for one in expected[:50]]
    assert all(set(one.context) == {"hour"} for one in found)
    assert {json.dumps(one.features, sort_keys=True) for one in found if one.propensities} == {
        json.dumps({name: {"size": 1.5} for name in RATES})
    }


def test_an_unknown_placement_has_no_decisions(warehouse: tuple[Warehouse, str]) -> None:
    assert read(warehouse[0], Span("nowhere")) == []
    assert read(warehouse[0], Span("home' OR 1=1 --")) == []


def wish(folder: Path, text: str, **more: object) -> Wish:
    path = folder / "new.yaml"
    path.write_text(text, "utf-8")
    return replace(Wish("home", path), **more)  # type: ignore[arg-type]


def said(url: str, asked: Wish) -> tuple[int, str]:
    screen = io.StringIO()
    code = run(load(clickhouse_url=url, data_dir=asked.policy.parent), Console(file=screen, width=140), asked)
    return code, screen.getvalue()


def in_memory(log: list[Logged], spec: EpsilonGreedySpec | FixedSpec) -> Evaluation:
    return evaluate(log, spec.target(), EvaluateRules())[0]


def test_the_command_says_what_the_best_action_would_have_earned(
    warehouse: tuple[Warehouse, str], expected: list[Logged], tmp_path: Path
) -> None:
    """The same figures as of the log in memory; the truth, .3, lies within."""
    asked = wish(tmp_path, "policy: fixed\nactions: {c: 1.0}\n", as_json=True)
    code, text = said(warehouse[1], asked)
    found = json.loads(text)
    same = in_memory(expected, FixedSpec(policy="fixed", actions={"c": 1.0}))
    assert code == 0
    assert found["refusals"] == []
    assert found["decisions"] == same.decisions == sum(one.shown_ms > 0 for one in expected)
    ips = found["estimates"]["ips"]
    assert ips["value"] == pytest.approx(same.estimates[Method.IPS].value, rel=1e-9)
    assert ips["interval"][0] < 0.3 < ips["interval"][1]
    assert found["estimates"]["snips"]["lift_interval"][0] > 0.5
    code, text = said(warehouse[1], replace(asked, as_json=False))
    assert code == 0
    assert "it would have earned more" in text


def test_a_policy_that_learns_is_taken_through_the_whole_log(
    warehouse: tuple[Warehouse, str], expected: list[Logged], tmp_path: Path
) -> None:
    since = datetime.fromtimestamp(expected[1_000].decided_ms / 1_000, UTC).replace(tzinfo=None)
    code, text = said(warehouse[1], wish(tmp_path, "policy: epsilon_greedy", since=since, as_json=True))
    found = json.loads(text)
    assert code == 0
    assert found["read"]["taught_only"] == 1_000
    assert found["decisions"] == sum(one.shown_ms > 0 for one in expected[1_000:])
    assert found["estimates"]["dr"]["lift_interval"][0] > 0.0
    fixed = wish(tmp_path, "policy: fixed\nactions: {c: 1.0}", since=since, as_json=True)
    read_only = json.loads(said(warehouse[1], fixed)[1])["read"]
    assert (read_only["read"], read_only["taught_only"]) == (len(expected) - 1_000, 0)


def test_the_command_refuses_in_plain_words_with_a_code_of_its_own(
    warehouse: tuple[Warehouse, str], tmp_path: Path
) -> None:
    code, text = said(warehouse[1], wish(tmp_path, "policy: fixed\nactions: {c: 0.5, d: 0.5}"))
    assert code == REFUSED == 3
    assert "not enough data" in text
    assert "never a candidate in this log: d" in text
    code, text = said(warehouse[1], wish(tmp_path, "policy: uniform", placement="nowhere", as_json=True))
    assert (code, json.loads(text)["estimates"]) == (REFUSED, {})


def test_the_command_itself_ends_with_3_where_it_refuses(warehouse: tuple[Warehouse, str], tmp_path: Path) -> None:
    asked = wish(tmp_path, "policy: uniform")
    command = [sys.executable, "-m", "pipeline.cli", "evaluate", "--policy", str(asked.policy), "--placement", "no"]
    env = load(clickhouse_url=warehouse[1]).as_environment()
    refused = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert refused.returncode == REFUSED
    assert "no decision that can be judged" in refused.stdout


def test_a_group_is_judged_on_its_choice_of_members_and_a_member_on_its_own(warehouse: tuple[Warehouse, str]) -> None:
    """The group's actions are its members, with the group's probabilities; a member's log is the same whoever asked."""
    policy = Known(EpsilonGreedy({"push": ArmStatistics(100, 9 * MICROS)}, PolicyRules(0.6)), "m1")
    events, outcomes, members_of, actions_of = [], [], [], []
    for number in range(40):
        at_ms = BASE_MS + number * EVERY_MS
        decision_id = make_id(at_ms, f"g{number}", number)
        above = choose_member(Ask("outreach", "", members(["mail", "push"])), policy, decision_id, "s")
        first = above.choices[0]
        log = decide(Ask(first.action_id, "", ACTIONS, 2), policy, decision_id, "s")
        note_group(log, above)
        one = Made(log, at_ms, [outcome(log, at_ms, n, True, n == number % 2, False) for n in (0, 1)], None)
        one.outcomes[0] = msgspec.structs.replace(one.outcomes[0], chosen_by="outreach")
        events.append(decision_event(one))
        outcomes += one.outcomes
        rest = (one.outcomes[0].reward_micros, one.outcomes[0].impressed_ms, known_ms(one.outcomes[0]))
        choice = log.choices[0]
        members_of.append(Logged(decision_id, at_ms, first.action_id, first.propensity, ("mail", "push"),
                                 tuple(above.propensities), *rest))  # fmt: skip
        actions_of.append(Logged(decision_id, at_ms, choice.action_id, choice.propensity, ("a", "b", "c"),
                                 tuple(log.propensities), *rest))  # fmt: skip
    block = EventBlock(BASE_MS, Totals(), list(range(len(events))), events)
    insert(warehouse[0], decision_columns([(Origin(0, 50), block)]))
    insert(warehouse[0], outcome_columns([(Origin(0, 51), OutcomeBlock(BASE_MS, outcomes))]))
    assert read(warehouse[0], Span("outreach")) == members_of
    for name in ("mail", "push"):
        mine = [action for action, above in zip(actions_of, members_of, strict=True) if above.action_id == name]
        assert read(warehouse[0], Span(name)) == mine
    assert {one.action_id for one in members_of} == {"mail", "push"}
