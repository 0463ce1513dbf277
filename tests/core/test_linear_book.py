"""Linear models in the learn stage: what outcomes leave does not depend on how they came; bad ones leave nothing."""

import random
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model

from pipeline.core.features import GRID, FeatureSpace
from pipeline.core.learn import Learn
from pipeline.core.linear import SHARED, Lesson, pack_lesson
from pipeline.core.linear_blend import Blend, nothing
from pipeline.core.linear_book import (
    ARMS_MAX,
    LANDMARK_MS,
    LINES_MAX,
    PLACEMENTS_MAX,
    STRANGERS_MAX,
    LearnRules,
    LinearBooks,
)
from pipeline.core.linear_model import RidgeRules
from pipeline.core.state import StateView, StateWriter
from schemas.block import Origin, OutcomeBlock
from schemas.linear import LinearJournal, LinearKey, LinearStatistics, key_of, read_key
from schemas.outcome import Outcome
from tests.core.book_rig import BLANK, CALM, MICROS, OUTCOMES, at_once, fold_of, known, lesson_of, outcome


def journal_of(entries: dict[str, bytes], placement_id: str = "home") -> LinearJournal:
    return msgspec.msgpack.decode(entries[key_of(LinearKey("journal", placement_id))], type=LinearJournal)


@pytest.mark.parametrize("rules", [CALM, LearnRules()], ids=["calm", "watching"])
@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, len(OUTCOMES)), max_size=6))
def test_the_state_does_not_depend_on_how_outcomes_are_cut_into_blocks(cuts: list[int], rules: LearnRules) -> None:
    """Every byte of it, a watch's too: when lines go into the sums depends on their number alone."""
    assert fold_of(OUTCOMES, cuts, rules) == WHOLE[rules]


WHOLE = {rules: fold_of(OUTCOMES, (), rules) for rules in (CALM, LearnRules())}


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_what_is_known_does_not_depend_on_the_order_of_the_news(rng: random.Random) -> None:
    """Sums and lines are other bytes then; added up they are the same to the last bit, and the sums' own."""
    shuffled = list(OUTCOMES)
    rng.shuffle(shuffled)
    assert known(fold_of(shuffled)) == known(WHOLE[CALM]) == at_once(OUTCOMES)


def test_the_actions_own_ridges_are_rivers_given_the_same_vectors() -> None:
    """To 1e-9: what the fold has learnt of each action is River's BayesianLinearRegression, fed one by one."""
    river = {action_id: linear_model.BayesianLinearRegression() for action_id in "abc"}
    rng, found = random.Random(2), []
    for _ in range(300):
        action_id, reward = rng.choice("abc"), MICROS * (rng.random() < 0.3)
        lesson = BLANK.lesson({"age": rng.randrange(80), "device": rng.choice(["phone", "desk"])}, {})
        found.append(outcome(action_id, pack_lesson(lesson), reward))
        x = {at: value for at, value in enumerate((lesson.own / GRID).tolist()) if value}
        river[action_id].learn_one(x, reward / MICROS)
    own, shared = nothing()
    own.arms, shared.arms[SHARED] = known(fold_of(found))
    model = Blend(own, shared, RidgeRules(prior_mean=0.0))
    vector = BLANK.lesson({"age": 33, "device": "phone"}, {}).own
    x = {at: value for at, value in enumerate((vector / GRID).tolist()) if value}
    ours = model.own.weights_of(model.own.rows("abc")) @ (vector / GRID)
    assert ours.tolist() == pytest.approx([river[action_id].predict_one(x) for action_id in "abc"], abs=1e-9)


def test_lines_are_added_up_so_many_at_a_time_and_a_record_stays_small() -> None:
    """263 kB of shared sums with every outcome would be most of what the broker carries."""
    lesson = lesson_of({"age": 30})
    few = fold_of([outcome("a", lesson)] * (LINES_MAX - 1))
    assert {read_key(key).kind for key in few if key.startswith("\x1f")} == {"journal"}
    assert max(map(len, few.values())) < 100 * LINES_MAX
    many = fold_of([outcome("a", lesson)] * LINES_MAX)
    assert {read_key(key).kind for key in many if key.startswith("\x1f")} == {"journal", "arm", "shared"}
    assert journal_of(many).lines == []
    assert max(map(len, many.values())) < 1_048_576 // 2, "the shared sums, in one record of the state topic"


def test_a_fold_restored_from_its_state_goes_on_as_if_it_had_never_stopped() -> None:
    half = len(OUTCOMES) // 2
    fold = Learn(StateView(), LearnRules())
    fold.apply(Origin(0, 0), OutcomeBlock(1_000, OUTCOMES[:half]))
    view = StateView()
    view.apply(StateWriter.fence("x"), 0)
    for offset, record in enumerate(StateWriter(view, "x").records(0, fold.fixed(), fold.take_changes(), 100_000), 1):
        view.apply(record, offset)
    restored = Learn(view, LearnRules())
    restored.apply(Origin(0, 1), OutcomeBlock(1_000, OUTCOMES[half:]))
    restored.take_changes()
    assert view.entries == WHOLE[LearnRules()]


# What must not be learnt


def counts_of(fold: Learn, outcomes: Sequence[Outcome]) -> Counter[tuple[str, str]]:
    return +fold.apply(Origin(0, 0), OutcomeBlock(1, list(outcomes))).counts


@pytest.mark.parametrize("raw", [b"\x00", b"\xff" * 40, lesson_of({"age": 3})[:-1], lesson_of({}) + b"\x00\x01\x02"])
def test_a_lesson_that_nobody_here_has_made_is_counted_and_changes_nothing(raw: bytes) -> None:
    """The outcome still counts in the plain sums."""
    fold = Learn(StateView(), CALM)
    assert counts_of(fold, [outcome("a", raw)]) == {("learn", "trial"): 1, ("lesson", "bad"): 1}
    puts, _ = fold.take_changes()
    assert [key for key, _ in puts] == ["home"]


def test_a_bot_teaches_nothing_and_neither_does_a_placement_without_a_linear_policy() -> None:
    """A bot's outcomes come with deltas of 0; a choice of another policy comes without a lesson."""
    fold = Learn(StateView(), CALM)
    bot = outcome("a", lesson_of({}), trials=0)
    assert not counts_of(fold, [bot])
    assert fold.take_changes() == ([], [])
    assert counts_of(fold, [outcome("a", b"")]) == {("learn", "trial"): 1}
    assert [key for key, _ in fold.take_changes()[0]] == ["home"]


def test_invented_actions_get_no_sums_of_their_own_beyond_the_bound() -> None:
    """They are counted; and what all actions share is learnt from them as well."""
    fold, counts = Learn(StateView(), CALM), Counter[tuple[str, str]]()
    many = -(-(ARMS_MAX + 5) // LINES_MAX) * LINES_MAX
    for start in range(0, many, LINES_MAX):
        found = [outcome(f"a{number}", lesson_of({})) for number in range(start, start + LINES_MAX)]
        counts += counts_of(fold, found)
    puts, _ = fold.take_changes()
    assert sum(read_key(key).kind == "arm" for key, _ in puts if key.startswith("\x1f")) == ARMS_MAX
    assert counts["lesson", "arms_full"] == many - ARMS_MAX
    assert known(dict(puts))[1].trials == many


def test_wide_vectors_are_bounded_by_their_bytes() -> None:
    """256 columns are 263 kB an action: of those there is room for 23."""
    vector = FeatureSpace(256).vector({})
    raw = pack_lesson(Lesson(7, np.zeros(0, np.int16), vector))
    fold = Learn(StateView(), CALM)
    counts = counts_of(fold, [outcome(f"a{number}", raw) for number in range(LINES_MAX)])
    assert counts["lesson", "arms_full"] == LINES_MAX - 23
    assert sum(len(raw) for _, raw in fold.take_changes()[0]) < 6_500_000


def test_invented_placements_get_no_model_beyond_the_bound() -> None:
    fold, lesson = Learn(StateView(), CALM), lesson_of({})
    counts = counts_of(fold, [outcome("a", lesson, placement_id=f"p{n}") for n in range(PLACEMENTS_MAX + 2)])
    assert counts["lesson", "placements_full"] == 2
    assert counts["learn", "trial"] == PLACEMENTS_MAX + 2


def test_a_placement_whose_name_looks_like_a_linear_key_is_not_learnt() -> None:
    fold = Learn(StateView(), CALM)
    name = key_of(LinearKey("arm", "home", "a"))
    assert counts_of(fold, [outcome("a", b"", placement_id=name)]) == {("learn", "bad_placement"): 1}
    assert fold.take_changes() == ([], [])


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_key_says_whose_it_is_whatever_the_names(placement_id: str, action_id: str) -> None:
    for kind in ("journal", "shared", "arm", "watch"):
        key = LinearKey(kind, placement_id, action_id)
        assert read_key(key_of(key)) == key


@pytest.mark.parametrize("key", ["home", "\x1f", "\x1fz4:homea", "\x1fa:home", "\x1fax:home"])
def test_another_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="expected one of a linear"):
        read_key(key)


# Another feature space


def test_other_columns_are_not_learnt_until_they_alone_are_logged() -> None:
    """Two deliveries of different versions side by side: the sums stay whole; then the new one's are learnt anew."""
    view = StateView()
    fold = Learn(view, CALM)
    ours = lesson_of({"age": 20})
    other = pack_lesson(BLANK.lesson({"age": 20}, {})._replace(space=5))
    fold.apply(Origin(0, 0), OutcomeBlock(1, [outcome("a", ours)] * LINES_MAX))
    fold.take_changes()
    mixed = [outcome("a", other)] * (STRANGERS_MAX - 1) + [outcome("a", ours)]
    counts = counts_of(fold, mixed * 3)
    fold.take_changes()
    assert counts["lesson", "other_space"] == 3 * (STRANGERS_MAX - 1)
    assert known(dict(view.entries))[0]["a"].trials == LINES_MAX + 3
    folds = journal_of(dict(view.entries)).folds
    fold.apply(Origin(0, 1), OutcomeBlock(1, [outcome("a", other)] * (STRANGERS_MAX + 1)))
    _, deletes = fold.take_changes()
    journal = journal_of(dict(view.entries))
    assert (journal.space, len(journal.lines)) == (5, 2)
    assert journal.folds > folds, "a reader takes lines of another count of folds for new ones"
    assert {read_key(key).kind for key in deletes} == {"arm", "shared"}


# Drift


def test_an_action_that_changes_is_started_anew_and_the_rest_is_kept() -> None:
    view = StateView()
    fold, counts = Learn(view, LearnRules()), Counter[tuple[str, str]]()
    for block in range(60):
        paid = MICROS * (block < 30)
        found = [outcome("a", lesson_of({}), paid, after_ms=100 * block + at) for at in range(64)]
        found += [outcome("b", lesson_of({}, "b"), 0, after_ms=100 * block + at) for at in range(64)]
        counts += counts_of(fold, found)
        fold.take_changes()
    own, shared = known(dict(view.entries))
    assert counts["lesson", "restarted"] == 1
    assert 3_000 <= own["a"].since_ms - LANDMARK_MS < 3_500
    assert own["a"].reward_micros == 0
    assert own["b"].trials == 60 * 64
    assert shared.trials == 60 * 128, "what all share is not forgotten"


def test_without_a_watch_nothing_is_started_anew() -> None:
    changing = [outcome("a", lesson_of({}), MICROS * (number < 2_000), after_ms=number) for number in range(4_000)]
    own, _ = known(fold_of(changing))
    assert own["a"].trials == 4_000
    assert not [key for key in fold_of(changing) if key.startswith("\x1fw")]


# Cold start


def test_a_new_action_with_features_has_the_score_of_its_features() -> None:
    """Red earns with phones, blue with desks; an action never shown is known by its colour, one without is between."""
    rng, found = random.Random(1), []
    for _ in range(600):
        device, action_id = rng.choice(["phone", "desk"]), rng.choice("ab")
        paid = MICROS * ((device == "phone") == (action_id == "a"))
        found.append(outcome(action_id, lesson_of({"device": device}, action_id), paid))
    own, shared = nothing()
    own.arms, shared.arms[SHARED] = known(fold_of(found))
    model = Blend(own, shared)
    features: list[dict[str, object]] = [{"colour": "red"}, {"colour": "blue"}, {}]
    for device, best in (("phone", 0), ("desk", 1)):
        scores = model.scores(["new1", "new2", "new3"], {"device": device}, features).tolist()
        assert scores[best] > 0.8
        assert scores[1 - best] < 0.2
        assert 0.2 < scores[2] < 0.8


def test_books_made_of_nothing_have_nothing_to_write() -> None:
    books = LinearBooks({}, CALM)
    assert books.take_changes() == ([], [])
    assert LinearStatistics(1, 1).arms == {}
