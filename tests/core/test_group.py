"""The choice of a channel: exact probabilities over the whole tree, drawn again bit for bit, learnt once a level."""

import math
from collections import Counter
from collections.abc import Mapping

import msgspec
import pytest
from catalogue_rig import shop, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.catalogue import Catalogue
from pipeline.core.decide import Action, Ask, Known, decide, make_id
from pipeline.core.group import choose_member, group_decision, members, note_group, whole_probability
from pipeline.core.learn import Learn, of_group
from pipeline.core.linear_blend import Blend, nothing
from pipeline.core.linear_policy import LINEAR_POLICIES
from pipeline.core.outcome import OutcomeBook, OutcomeRules, expires_ms, open_decisions
from pipeline.core.policy import POLICIES, PolicyRules
from pipeline.core.redraw import redraw
from pipeline.core.state import StateView
from schemas.block import Origin, OutcomeBlock
from schemas.campaign import Placement
from schemas.event import Event, EventType
from schemas.linear import is_linear_key, read_key
from schemas.model import ArmStatistics, PlacementModel
from schemas.outcome import Choice, DecisionLog, OpenDecision, Outcome, Response

NOW_MS = 1_795_000_000_000
SEED = "5eed"
Arms = Mapping[str, ArmStatistics]

arms = st.dictionaries(
    st.sampled_from("abcd"),
    st.integers(0, 2_000).flatmap(
        lambda trials: st.builds(ArmStatistics, st.just(trials), st.integers(0, trials * 1_000_000))
    ),
)
trees = st.fixed_dictionaries({name: st.integers(1, 3) for name in ("mail", "push", "web")})
names = st.sampled_from(sorted(POLICIES))


def known(name: str, sums: Arms) -> Known:
    return Known(POLICIES[name](dict(sums), PolicyRules()), "0:7")


def asked(tree: Mapping[str, int], top: Known, each: Known, number: int, count: int = 1) -> DecisionLog:
    """Ask a group whose members have so many creatives each."""
    decision_id = make_id(NOW_MS, "", number)
    above = choose_member(Ask("outreach", "", members(sorted(tree))), top, decision_id, SEED)
    member = above.choices[0].action_id
    actions = [Action(f"{member}-{letter}") for letter in "abc"[: tree[member]]]
    log = decide(Ask(member, "", actions, count), each, decision_id, SEED)
    note_group(log, above)
    return log


def whole(tree: Mapping[str, int], top: Known, each: Known) -> dict[tuple[str, str], float]:
    """The probability of each leaf, by the policies alone."""
    names = sorted(tree)
    shares = dict(zip(names, top.policy.probabilities(top.policy.scores(names)), strict=True))
    found = {}
    for name in names:
        ids = [f"{name}-{letter}" for letter in "abc"[: tree[name]]]
        for leaf, share in zip(ids, each.policy.probabilities(each.policy.scores(ids)), strict=True):
            found[name, leaf] = shares[name] * share
    return found


@given(trees, names, names, arms, st.integers(0, 2**48 - 1))
def test_probabilities_over_the_whole_tree_sum_to_one_and_are_what_is_logged(
    tree: dict[str, int], above: str, below: str, sums: Arms, number: int
) -> None:
    top, each = known(above, dict(zip(("mail", "push", "web"), sums.values(), strict=False))), known(below, {})
    leaves = whole(tree, top, each)
    assert math.fsum(leaves.values()) == pytest.approx(1.0, abs=1e-12)
    log = asked(tree, top, each, number)
    [choice] = log.choices
    assert whole_probability(choice) == leaves[log.placement_id, choice.action_id]
    assert choice.chosen_by == "outreach"
    assert choice.propensity == log.propensities[log.candidates.index(choice.action_id)]


@given(trees, names, names, st.integers(0, 2**48 - 1), st.integers(1, 3))
def test_both_levels_are_drawn_again_bit_for_bit_from_the_log_as_it_travels(
    tree: dict[str, int], above: str, below: str, number: int, count: int
) -> None:
    log = asked(tree, known(above, {"push": ArmStatistics(100, 9_000_000)}), known(below, {}), number, count)
    travelled = msgspec.json.decode(msgspec.json.encode(log), type=DecisionLog)
    again = redraw(travelled)
    assert again.differences == []
    assert again.member == (log.placement_id, log.choices[0].group_propensity)
    assert again.choices == [(choice.action_id, choice.propensity) for choice in log.choices]
    assert [choice.chosen_by for choice in log.choices] == ["outreach", *[""] * (len(log.choices) - 1)]


def test_a_log_that_was_changed_in_the_group_is_not_drawn_again_as_it_says() -> None:
    log = asked({"mail": 2, "push": 2}, known("thompson", {}), known("uniform", {}), 5)
    above = group_decision(log)
    assert above is not None
    other = next(name for name in above.candidates if name != log.placement_id)
    log.placement_id = other
    assert redraw(log).differences[0].startswith("group outreach: rank 0")


@pytest.mark.parametrize("above", ["epsilon_greedy", "thompson"])
def test_of_twenty_thousand_draws_each_leaf_gets_its_probability(above: str) -> None:
    """The two draws of a decision are independent: leaves, not only members, come out as often as they should."""
    seed, draws = 20_261_122, 20_000
    print(f"ids from {seed}")
    tree = {"mail": 3, "push": 2, "web": 1}
    top = known(above, {"mail": ArmStatistics(400, 20_000_000), "push": ArmStatistics(300, 24_000_000)})
    each = known("thompson", {"mail-a": ArmStatistics(50, 2_000_000), "push-b": ArmStatistics(60, 3_000_000)})
    counts: Counter[tuple[str, str]] = Counter()
    for number in range(seed, seed + draws):
        log = asked(tree, top, each, number)
        counts[log.placement_id, log.choices[0].action_id] += 1
    for leaf, share in whole(tree, top, each).items():
        sigma = math.sqrt(draws * share * (1 - share))
        assert abs(counts[leaf] - draws * share) <= 5 * sigma, (leaf, counts[leaf], draws * share)


def test_a_placement_that_was_asked_for_itself_logs_nothing_of_groups() -> None:
    log = decide(Ask("home", "", [Action("a")]), known("uniform", {}), make_id(NOW_MS, "", 1), SEED)
    assert b'"group"' not in msgspec.json.encode(log)
    assert redraw(log).member is None
    assert whole_probability(log.choices[0]) == log.choices[0].propensity


# --- learning --------------------------------------------------------------------------------------------------------


def learnt(outcomes: list[Outcome]) -> dict[str, PlacementModel]:
    fold = Learn(StateView())
    for offset, one in enumerate(outcomes):
        fold.apply(Origin(0, offset), OutcomeBlock(1_000, [one]))
    return {key: msgspec.msgpack.decode(raw, type=PlacementModel) for key, raw in fold.take_changes()[0]}


def event_of(log: DecisionLog) -> Event:
    return Event(
        "e", EventType.DECISION, NOW_MS, NOW_MS, "shop", "v1", decision_id=log.decision_id,
        properties=msgspec.json.encode(log),
    )  # fmt: skip


RESPONSES = st.lists(
    st.tuples(st.sampled_from(["impression", "click", "reward"]), st.integers(0, 1), st.integers(0, 1_000_000)),
    max_size=8,
)


@settings(deadline=None)
@given(RESPONSES, st.integers(1, 2))
def test_what_follows_teaches_the_member_and_the_group_once_each_however_late_it_is_corrected(
    told: list[tuple[str, int, int]], count: int
) -> None:
    """The group's arm has what the first choice earned: one trial, and the very reward that the member's model has."""
    log = asked({"mail": 2, "push": 2}, known("uniform", {}), known("uniform", {}), 9, count)
    opened = open_decisions(event_of(log))
    assert opened is not None
    rules, outcomes = OutcomeRules(), []
    book = OutcomeBook(rules)
    for decision in opened:
        book.note(decision, "v1", False)
    outcomes += book.take()
    for at, (kind, rank, value) in enumerate(told):
        decision = opened[rank % len(opened)]
        explicit = value if kind == "reward" else 0
        response = Response(log.decision_id, decision.choice.action_id, kind, NOW_MS + at, 0, explicit)
        book.respond(decision, response, "v1", False)
        outcomes += book.take()
    models = learnt(outcomes)
    first = opened[0]
    if not first.counted:
        assert "outreach" not in models
        return
    mine = models[log.placement_id].arms[first.choice.action_id]
    assert models["outreach"].arms == {log.placement_id: mine}
    assert (mine.trials, mine.reward_micros) == (1, first.reward_micros)


def test_a_group_may_choose_by_what_is_known_of_the_visitor() -> None:
    """A linear policy of the group learns from a lesson of its own, beside the member's."""
    policy = LINEAR_POLICIES["linear_igw"]({}, PolicyRules(), Blend(*nothing()))
    ask = Ask("outreach", "", members(["mail", "push"]), 1, {"device": "phone"})
    decision_id = make_id(NOW_MS, "", 3)
    above = choose_member(ask, Known(policy, ""), decision_id, SEED)
    log = decide(Ask(above.choices[0].action_id, "", [Action("a")]), known("uniform", {}), decision_id, SEED)
    note_group(log, above)
    assert (log.choices[0].lesson, bool(log.choices[0].group_lesson)) == (b"", True)
    assert redraw(log).differences == []
    choice = log.choices[0]
    outcome = Outcome(
        decision_id, "a", log.placement_id, "v", 1, 2, 3, 0, 0, 7, 1.0, 1, 7, chosen_by="outreach",
        group_propensity=choice.group_propensity, group_lesson=choice.group_lesson,
    )  # fmt: skip
    fold = Learn(StateView())
    fold.apply(Origin(0, 0), OutcomeBlock(1_000, [outcome]))
    placements = {read_key(key).placement_id for key, _ in fold.take_changes()[0] if is_linear_key(key)}
    assert placements == {"outreach"}


def test_a_groups_outcome_is_the_members_one_level_up() -> None:
    outcome = Outcome("d", "red", "push", "v", 1, 2, 3, 0, 0, 7, 0.5, 1, 7, lesson=b"x", chosen_by="outreach",
                      group_propensity=0.25, group_lesson=b"y")  # fmt: skip
    above = of_group(outcome)
    assert (above.placement_id, above.action_id, above.propensity) == ("outreach", "push", 0.25)
    assert (above.lesson, above.reward_micros, above.trials_delta) == (b"y", 7, 1)


def test_what_is_sent_later_has_its_windows_from_then_on() -> None:
    rules = OutcomeRules()
    at_once = OpenDecision("d", NOW_MS, "mail", Choice("a", 0, 1.0))
    later = OpenDecision("d", NOW_MS, "mail", Choice("a", 0, 1.0, send_ms=NOW_MS + 5_000))
    assert expires_ms(later, rules) == expires_ms(at_once, rules) + 5_000


# --- what can be published -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["mail"], "found 'mail' alone, expected two or more"),
        (["mail", "mail"], "expected each placement once"),
        (["mail", "outreach"], "is the group itself"),
    ],
)
def test_a_group_of_nonsense_says_what_was_expected(wrong: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Placement(id="outreach", name="Outreach", members=wrong)


def test_a_line_that_names_a_group_stands_in_its_members_of_the_lines_channels() -> None:
    catalogue = Catalogue(
        shop(
            stored("lines", "shoes", campaign="spring", placements=["outreach", "mail"], channels=["mail", "push"]),
            stored("placements", "mail", channel="mail"),
            stored("placements", "push", channel="push"),
            stored("placements", "web"),
            stored("placements", "outreach", members=["mail", "push", "web"]),
        )
    )
    assert catalogue.unreadable == {}
    found = {name: [line.id for line in place.lines] for name, place in catalogue.placements.items()}
    assert found == {"home": [], "mail": ["shoes"], "push": ["shoes"], "web": [], "outreach": []}
