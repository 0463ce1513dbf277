"""The learn stage: sums that do not depend on how the news was cut, ordered, corrected or spread over partitions."""

import random
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import bandit, stats

from pipeline.core.learn import ARMS_MAX, Learn
from pipeline.core.policy import EpsilonGreedy, PolicyRules, merge
from pipeline.core.state import StateView, StateWriter
from schemas.block import Origin, OutcomeBlock
from schemas.model import ArmStatistics, LearnFixed, PlacementModel
from schemas.outcome import Outcome

MICROS = 1_000_000


def outcome(action_id: str, reward: int, delta: int, trials: int = 1, placement_id: str = "home") -> Outcome:
    return Outcome("d", action_id, placement_id, "v", 1, 2, 3, 0, 0, reward, 0.5, trials, delta)


def models(fold: Learn) -> dict[str, PlacementModel]:
    puts, _ = fold.take_changes()
    return {key: msgspec.msgpack.decode(raw, type=PlacementModel) for key, raw in puts}


def learn(blocks: Sequence[Sequence[Outcome]]) -> tuple[dict[str, bytes], LearnFixed]:
    view = StateView()
    fold = Learn(view)
    for offset, found in enumerate(blocks):
        fold.apply(Origin(0, offset), OutcomeBlock(1_000, list(found)))
        fold.take_changes()
    return view.entries, msgspec.msgpack.decode(fold.fixed(), type=LearnFixed)


OUTCOMES = st.lists(
    st.builds(
        outcome,
        st.sampled_from("abc"),
        reward=st.integers(0, MICROS),
        delta=st.integers(-MICROS, MICROS),
        trials=st.sampled_from([0, 1]),
        placement_id=st.sampled_from(["home", "cart"]),
    ),
    max_size=40,
)


@given(OUTCOMES, st.lists(st.integers(0, 40), max_size=6))
def test_the_state_does_not_depend_on_how_outcomes_are_cut_into_blocks(found: list[Outcome], cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(found)]
    cut = [found[start:end] for start, end in pairwise(edges)]
    assert learn([found]) == learn(cut)


def sums(entries: dict[str, bytes]) -> dict[str, dict[str, ArmStatistics]]:
    decoded = {key: msgspec.msgpack.decode(raw, type=PlacementModel).arms for key, raw in entries.items()}
    return {key: dict(sorted(arms.items())) for key, arms in sorted(decoded.items())}


@given(OUTCOMES, st.randoms(use_true_random=False))
def test_the_sums_do_not_depend_on_the_order_of_the_news(found: list[Outcome], rng: random.Random) -> None:
    shuffled = list(found)
    rng.shuffle(shuffled)
    assert sums(learn([found])[0]) == sums(learn([shuffled])[0])


@given(OUTCOMES, st.integers(1, 4))
def test_partitions_add_up_to_what_one_would_have_learnt(found: list[Outcome], partitions: int) -> None:
    shards = [sums(learn([found[at::partitions]])[0]) for at in range(partitions)]
    whole = sums(learn([found])[0])
    for placement_id, arms in whole.items():
        merged = merge([shard.get(placement_id, {}) for shard in shards])
        assert dict(sorted(merged.items())) == arms


def test_a_late_correction_leaves_what_a_timely_reward_would_have() -> None:
    """Shown without a click, then clicked, then the reward by name made less of it: only the last word counts."""
    corrected = [outcome("a", 0, 0), outcome("a", MICROS, MICROS, 0), outcome("a", 300_001, -699_999, 0)]
    assert sums(learn([corrected])[0]) == sums(learn([[outcome("a", 300_001, 300_001)]])[0])
    assert sums(learn([corrected])[0])["home"]["a"] == ArmStatistics(1, 300_001, 300_001**2 // MICROS)


def test_news_that_adds_nothing_writes_nothing() -> None:
    """A bot's outcomes come with deltas of 0."""
    fold = Learn(StateView())
    applied = fold.apply(Origin(0, 0), OutcomeBlock(5, [outcome("a", 0, 0, 0)]))
    assert fold.take_changes() == ([], [])
    assert applied.outputs == []
    assert not applied.counts


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([0.0, 0.3, 1.0])), min_size=1, max_size=150))
def test_the_policy_made_from_the_sums_is_the_one_that_river_would_learn(rewards: list[tuple[str, float]]) -> None:
    rules = PolicyRules()
    river = bandit.EpsilonGreedy(
        epsilon=rules.epsilon, reward_obj=stats.BayesianMean(rules.prior_mean, rules.prior_trials)
    )
    for action_id, reward in rewards:
        river.update(action_id, reward)
    found = [outcome(action_id, round(reward * MICROS), round(reward * MICROS)) for action_id, reward in rewards]
    ours = EpsilonGreedy(sums(learn([found])[0])["home"], rules)
    for action_id in {action_id for action_id, _ in rewards}:
        assert ours.river._rewards[action_id].get() == pytest.approx(river._rewards[action_id].get(), abs=1e-12)
        assert ours.river._counts[action_id] == river._counts[action_id]


def test_a_fold_restored_from_its_state_goes_on_as_if_it_had_never_stopped() -> None:
    first, second = [outcome("a", MICROS, MICROS)], [outcome("a", 0, 0), outcome("b", 5, 5)]
    fold = Learn(StateView())
    fold.apply(Origin(0, 0), OutcomeBlock(7, first))
    view = StateView()
    view.apply(StateWriter.fence("x"), 0)
    for record in StateWriter(view, "x").records(0, fold.fixed(), fold.take_changes(), 1_000_000):
        view.apply(record, 1)
    restored = Learn(view)
    restored.apply(Origin(0, 1), OutcomeBlock(8, second))
    assert models(restored)["home"].arms == {
        "a": ArmStatistics(2, MICROS, MICROS),
        "b": ArmStatistics(1, 5, 0),
    }
    assert msgspec.msgpack.decode(restored.fixed(), type=LearnFixed) == LearnFixed(3, MICROS + 5, 8)


def test_a_trial_that_a_group_learns_from_as_well_counts_once_in_the_totals() -> None:
    both = msgspec.structs.replace(outcome("a", 7, 7), chosen_by="outreach")
    entries, fixed = learn([[both]])
    assert sorted(entries) == ["home", "outreach"]
    assert (fixed.trials, fixed.reward_micros) == (1, 7)


def test_invented_action_ids_do_not_grow_a_placement_without_bound() -> None:
    fold = Learn(StateView())
    many = [outcome(f"a{number}", 0, 0) for number in range(ARMS_MAX + 3)]
    applied = fold.apply(Origin(0, 0), OutcomeBlock(1, many))
    assert applied.counts["learn", "arms_full"] == 3
    assert len(models(fold)["home"].arms) == ARMS_MAX
