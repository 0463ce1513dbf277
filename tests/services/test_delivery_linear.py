"""Linear models in delivery: whole versions of all partitions added up, whatever was read when, and exact replays."""

import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.decide import Action, Ask, Known, decide, made_elsewhere, make_id
from pipeline.core.learn import Learn
from pipeline.core.linear import SHARED, read_lesson
from pipeline.core.linear_blend import Blend, nothing
from pipeline.core.linear_book import LINES_MAX, today, told_by
from pipeline.core.linear_model import RidgeRules
from pipeline.core.linear_policy import LINEAR_POLICIES, LinearPolicy
from pipeline.core.policies import ALL_POLICIES
from pipeline.core.policy import PolicyRules, UpperBound
from pipeline.core.redraw import redraw
from pipeline.core.state import StateView, StateWriter
from pipeline.delivery.explain import of_model
from pipeline.delivery.linear import LinearMirror
from pipeline.delivery.memory import Memory
from pipeline.settings import Settings
from schemas.block import Origin, OutcomeBlock
from schemas.linear import LinearArm, LinearJournal, LinearKey, key_of, read_key
from schemas.outcome import DecisionLog, Outcome
from schemas.state import StateRecord
from schemas.topics import MODELS
from tests.core.book_rig import CALM, OUTCOMES, at_once, lesson_of, outcome
from tests.services.memory_rig import change, read, refresh

MICROS = 1_000_000
CONTEXT = {"device": "phone", "age": 33}
FEATURES: list[dict[str, object]] = [{"colour": "red"}, {"colour": "blue"}, {}]
IDS = ["a", "b", "new"]

Versions = list[dict[LinearKey, bytes | None]]


def versions_of(outcomes: Sequence[Outcome], size: int) -> Versions:
    """The changes of one partition's state, a version for each block of so many outcomes."""
    view = StateView()
    fold = Learn(view, CALM)
    found: Versions = []
    for at in range(0, len(outcomes), size):
        fold.apply(Origin(0, at), OutcomeBlock(1_000, list(outcomes[at : at + size])))
        puts, deletes = fold.take_changes()
        entries: list[tuple[str, bytes | None]] = [*puts, *((key, None) for key in deletes)]
        found.append({read_key(key): raw for key, raw in entries if key.startswith("\x1f")})
    return found


def expected(outcomes: Sequence[Outcome]) -> Blend:
    own, shared = nothing()
    own.arms, shared.arms[SHARED] = at_once(outcomes)
    newest_ms = max((one.decided_ms for one in outcomes), default=0)
    return Blend(own, shared, RidgeRules(today=today(newest_ms)))


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 3),
    st.sampled_from([7, 60, 500]),
    st.randoms(use_true_random=False),
)
def test_a_model_that_was_followed_is_the_one_made_of_all_at_once(count: int, size: int, rng: random.Random) -> None:
    """To the last bit: with any number of partitions, any blocks, and a model made now and then on the way."""
    mirror = LinearMirror(0.02)
    waiting = [versions_of(OUTCOMES[at::count], size) for at in range(count)]
    places = [place for place, found in enumerate(waiting) for _ in found]
    rng.shuffle(places)
    for place in places:
        mirror.take(place, waiting[place].pop(0))
        if rng.random() < 3 / len(places):
            mirror.make()
    model, whole = mirror.make(), expected(OUTCOMES)
    assert model.scores(IDS, CONTEXT, FEATURES).tolist() == whole.scores(IDS, CONTEXT, FEATURES).tolist()
    assert (model.trials, model.reward_micros) == (whole.trials, whole.reward_micros)


def test_a_partition_that_is_read_anew_leaves_nothing_of_before() -> None:
    mirror = LinearMirror(0.02)
    half = len(OUTCOMES) // 2
    for changes in versions_of(OUTCOMES, 50):
        mirror.take(0, changes)
    mirror.make()
    mirror.forget(0)
    for changes in versions_of(OUTCOMES[:half], 50):
        mirror.take(0, changes)
    model, whole = mirror.make(), expected(OUTCOMES[:half])
    assert model.scores(IDS, CONTEXT, FEATURES).tolist() == whole.scores(IDS, CONTEXT, FEATURES).tolist()


def test_what_another_delivery_learns_with_other_columns_is_not_mixed_in() -> None:
    """Until the placement is learnt in our columns again, decisions go by the prior."""
    mirror = LinearMirror(0.25)
    for changes in versions_of(OUTCOMES, 50):
        mirror.take(0, changes)
    other = LinearJournal(5, 32, 256, 9)
    mirror.take(0, {LinearKey("journal", "home"): msgspec.msgpack.encode(other), LinearKey("arm", "home", "a"): None})
    assert mirror.make().scores(IDS, CONTEXT, FEATURES).tolist() == [0.25, 0.25, 0.25]


@pytest.mark.parametrize(
    "entries",
    [
        {LinearKey("journal", "home"): b"\x01"},
        {LinearKey("arm", "home", "a"): msgspec.msgpack.encode(LinearArm(3, 0, 9, b"12345678", b"12345678"))},
        {LinearKey("shared", "home"): b""},
    ],
    ids=["a journal", "sums of another length", "nothing"],
)
def test_an_entry_that_cannot_be_read_leaves_the_model_as_it_was(entries: dict[LinearKey, bytes | None]) -> None:
    mirror = LinearMirror(0.02)
    for changes in versions_of(OUTCOMES, 50):
        mirror.take(0, changes)
    before = mirror.make().scores(IDS, CONTEXT, FEATURES).tolist()
    with pytest.raises((msgspec.MsgspecError, ValueError)):
        mirror.take(0, entries)
    assert mirror.make().scores(IDS, CONTEXT, FEATURES).tolist() == before


# Memory


def memory(**more: object) -> Memory:
    return Memory(Settings(partitions=2, policy_placements={"home": "linear_igw"}, **more))  # type: ignore[arg-type]


def records_of(outcomes: Sequence[Outcome], size: int) -> list[StateRecord]:
    """Records of changes as the stage writes them, plain sums and all."""
    fold, found = Learn(StateView(), CALM), []
    for version, at in enumerate(range(0, len(outcomes), size)):
        fold.apply(Origin(0, at), OutcomeBlock(1_000, list(outcomes[at : at + size])))
        puts, deletes = fold.take_changes()
        record = change(version, {}, tuple(deletes))
        found.append(msgspec.structs.replace(record, puts=puts))
    return found


def test_memory_makes_linear_policies_of_both_partitions_and_says_how_far_they_have_learnt() -> None:
    known = memory()
    read(known, MODELS, 0, StateWriter.fence("o"), *records_of(OUTCOMES[::2], 40))
    read(known, MODELS, 1, StateWriter.fence("o"), *records_of(OUTCOMES[1::2], 40))
    refresh(known)
    found = known.policy("home")
    assert isinstance(found.policy, LinearPolicy)
    ours = found.policy.scores_for(IDS, CONTEXT, FEATURES)
    assert ours == expected(OUTCOMES).scores(IDS, CONTEXT, FEATURES).tolist()
    assert found.policy.trials == sum(one.trials_delta for one in OUTCOMES)
    assert found.model_version.startswith("0:")
    answer = of_model("home", found, found.updated_ms + 5, [], {})
    assert (answer.policy, answer.age_ms) == ("linear_igw", 5)
    assert {arm.id for arm in answer.arms} == {"a", "b", "c"}
    assert sum(arm.share for arm in answer.arms) == pytest.approx(1.0)


def test_a_linear_placement_logs_what_to_learn_from_before_it_has_learnt_anything() -> None:
    """Else it never would. And one whose policy was another one until now begins with its own model, not the sums."""
    policy = memory().policy("home").policy
    assert read_lesson(policy.lesson_for(CONTEXT, FEATURES[0])).space == Blend.space
    assert policy.probabilities(policy.scores_for(IDS, CONTEXT, FEATURES)) == pytest.approx([1 / 3] * 3)
    known = memory()
    plain = [msgspec.structs.replace(one, lesson=b"") for one in OUTCOMES]
    read(known, MODELS, 0, StateWriter.fence("o"), *records_of(plain, 40))
    refresh(known)
    found = known.policy("home").policy
    assert found.arms["a"].trials > 50
    assert read_lesson(found.lesson_for(CONTEXT, FEATURES[0])).space == Blend.space
    assert found.probabilities(found.scores_for(IDS, CONTEXT, FEATURES)) == pytest.approx([1 / 3] * 3)


def test_a_placement_of_another_policy_keeps_no_linear_model() -> None:
    """Its own choices have no lessons; what is there of before waits in the state."""
    known = Memory(Settings(partitions=2, policy_placements={"home": "ucb"}))
    read(known, MODELS, 0, StateWriter.fence("o"), *records_of(OUTCOMES, 40))
    refresh(known)
    assert isinstance(known.policy("home").policy, UpperBound)
    assert known._mirrors == {}


def test_a_linear_entry_that_cannot_be_read_stops_nobody() -> None:
    known = memory()
    records = records_of(OUTCOMES, 40)
    read(known, MODELS, 0, StateWriter.fence("o"), *records)
    refresh(known)
    before = known.policy("home").policy.scores_for(IDS, CONTEXT, FEATURES)
    puts = [(key_of(LinearKey("journal", "home")), b"\xc1"), ("\x1f?", b"x")]
    known.take(MODELS, 0, msgspec.structs.replace(change(99, {}), puts=puts), len(records) + 1)
    refresh(known)
    assert known.policy("home").policy.scores_for(IDS, CONTEXT, FEATURES) == before


# Decisions


@pytest.mark.parametrize("name", sorted(ALL_POLICIES))
def test_every_policys_decision_is_drawn_again_from_its_log(name: str) -> None:
    """Through JSON, as the warehouse keeps it; three ranks, bit for bit."""
    kind = ALL_POLICIES[name]
    policy = (
        LINEAR_POLICIES[name]({}, PolicyRules(), expected(OUTCOMES))
        if name in LINEAR_POLICIES
        else kind({}, PolicyRules())
    )
    actions = [Action(action_id, features=dict(found)) for action_id, found in zip(IDS, FEATURES, strict=True)]
    ask = Ask("home", "v", actions, 3, CONTEXT)
    for number in range(20):
        made = decide(ask, Known(policy, "0:1"), make_id(1, "v", number), "seed")
        log = msgspec.json.decode(msgspec.json.encode(made), type=DecisionLog)
        assert redraw(log).differences == []
        assert [choice.lesson for choice in log.choices] == [choice.lesson for choice in made.choices]
        is_linear = name in LINEAR_POLICIES
        assert all(bool(choice.lesson) is is_linear for choice in made.choices)


def test_a_choice_made_elsewhere_is_learnt_from_as_our_own() -> None:
    ask = Ask("home", "v", [Action("a", features={"colour": "red"}), Action("b")], 1, CONTEXT)
    log = made_elsewhere(ask, "a", 0.5, make_id(1, "v", 1), memory().policy("home").policy)
    assert log.choices[0].lesson == lesson_of(CONTEXT, "a")


def test_every_action_is_shown_in_one_of_a_hundred_decisions_as_long_as_all_get_no_more_than_a_tenth() -> None:
    policy = LINEAR_POLICIES["linear_igw"]({}, PolicyRules(), expected(OUTCOMES))
    sure = LINEAR_POLICIES["linear_squarecb"]({}, PolicyRules(), policy.model)
    for count in (2, 10, 40, 1_000):
        scores = [0.9] + [0.1] * (count - 1)
        assert min(sure.probabilities(scores)) >= min(0.01, 0.1 / count)
        assert max(sure.probabilities(scores)) == sure.probabilities(scores)[0]


def test_lines_that_say_nothing_new_are_not_added_again() -> None:
    """A journal comes whole with every version: what of it is new is its end."""
    mirror = LinearMirror(0.02)
    lesson = lesson_of(CONTEXT)
    for changes in versions_of([outcome("a", lesson, MICROS)] * (LINES_MAX - 1), 10):
        mirror.take(0, changes)
        mirror.make()
    assert mirror.model.trials == LINES_MAX - 1
    assert told_by([]).own == []
