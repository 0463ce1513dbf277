"""Off-policy evaluation: the laws of its estimators, the coverage of its interval, and what it refuses to say."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.core.evaluate.bootstrap import Bootstrap, percentile, split_mix
from pipeline.core.evaluate.estimate import Evaluation, Evaluator, Method, Reason
from pipeline.core.evaluate.fold import Counts, EvaluateRules, evaluate
from pipeline.core.evaluate.intervals import effective, empirical_bernstein, fay_feuer
from pipeline.core.evaluate.logged import MICROS, Logged
from pipeline.core.evaluate.reward_model import RewardModel
from pipeline.core.evaluate.targets import KINDS, EpsilonGreedySpec, Fixed, FixedSpec, Learnt, Target, UniformSpec
from pipeline.core.policy import POLICIES, PolicyRules
from pipeline.core.prior import priors

SEED = 20_261_122
ABC = ("a", "b", "c")
FEW = EvaluateRules(resamples=40)


def logged(
    n: int, action: str, reward: float = 0.0, p: Sequence[float] = (0.5, 0.3, 0.2), candidates: tuple[str, ...] = ABC
) -> Logged:
    """Decision number n, shown at once and rewarded one second later."""
    at_ms = 1_000 * (n + 1)
    probability = p[candidates.index(action)]
    return Logged(f"{n:032x}", at_ms, action, probability, candidates, p, round(reward * MICROS), at_ms, at_ms + 1_000)


def judged(log: Sequence[Logged], target: Target, rules: EvaluateRules = FEW) -> Evaluation:
    return evaluate(log, target, rules)[0]


def values(found: Evaluation) -> dict[Method, float]:
    return {method: one.value for method, one in found.estimates.items()}


def of_terms(terms: NDArray[np.float64]) -> Evaluation:
    evaluator = Evaluator(1, resamples=40)
    evaluator.add(terms)
    return evaluator.result()


LOGS = st.lists(st.tuples(st.sampled_from(ABC), st.sampled_from([0.0, 0.0, 0.25, 1.0])), min_size=1, max_size=60).map(
    lambda rows: [logged(n, action, reward) for n, (action, reward) in enumerate(rows)]
)
SHARES = st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3).map(lambda some: [one / sum(some) for one in some])
TERMS = st.lists(
    st.tuples(st.floats(0.01, 50.0), st.sampled_from([0.0, 0.5, 1.0]), st.floats(0.0, 1.0), st.floats(0.0, 1.0)),
    min_size=1,
    max_size=60,
).map(np.array)


# --- laws ------------------------------------------------------------------------------------------------------------


@given(LOGS)
def test_the_logging_policy_itself_earns_exactly_what_was_logged(log: list[Logged]) -> None:
    found = judged(log, Fixed({"a": 0.5, "b": 0.3, "c": 0.2}))
    mean = sum(one.reward for one in log) / len(log)
    assert values(found)[Method.IPS] == values(found)[Method.SNIPS] == values(found)[Method.LOGGED]
    assert values(found)[Method.IPS] == pytest.approx(mean, abs=1e-12)
    assert found.weight_max == found.weight_mean == 1.0
    assert found.ess == pytest.approx(len(log))


@given(TERMS, st.floats(0.01, 100.0))
def test_snips_does_not_care_how_the_weights_are_scaled(terms: NDArray[np.float64], factor: float) -> None:
    scaled = terms * [factor, 1.0, 1.0, 1.0]
    one, other = of_terms(terms), of_terms(scaled)
    assert values(other)[Method.SNIPS] == pytest.approx(values(one)[Method.SNIPS], rel=1e-9)
    assert values(other)[Method.IPS] == pytest.approx(factor * values(one)[Method.IPS], rel=1e-9)
    assert (other.ess, other.matched) == pytest.approx((one.ess, one.matched))


@given(TERMS)
def test_dr_is_dm_with_a_perfect_model_and_ips_with_none(terms: NDArray[np.float64]) -> None:
    perfect, none = terms.copy(), terms.copy()
    perfect[:, 3] = perfect[:, 1]
    none[:, 2:] = 0.0
    assert values(of_terms(perfect))[Method.DR] == pytest.approx(values(of_terms(perfect))[Method.DM], abs=1e-12)
    assert values(of_terms(none))[Method.DR] == pytest.approx(values(of_terms(none))[Method.IPS], abs=1e-12)


@given(LOGS, SHARES)
def test_an_arm_that_is_never_taken_changes_nothing(log: list[Logged], shares: list[float]) -> None:
    more = [one._replace(candidates=(*one.candidates, "d"), propensities=[*one.propensities, 0.0]) for one in log]
    target = dict(zip(ABC, shares, strict=True))
    one, other = judged(log, Fixed(target)), judged(more, Fixed(target))
    assert values(other) == values(one)
    assert (other.ess, other.matched, other.missing, other.refusals) == (
        one.ess,
        one.matched,
        one.missing,
        one.refusals,
    )
    assert [each.interval for each in other.estimates.values()] == [each.interval for each in one.estimates.values()]


@given(LOGS, SHARES)
def test_dm_of_a_log_without_rewards_is_zero_and_so_is_all_else(log: list[Logged], shares: list[float]) -> None:
    nothing = [one._replace(reward_micros=0) for one in log]
    found = judged(nothing, Fixed(dict(zip(ABC, shares, strict=True))))
    assert set(values(found).values()) == {0.0}
    assert found.matched == 0.0
    assert math.isnan(found.estimates[Method.IPS].lift)


@given(TERMS, st.lists(st.integers(0, 60), max_size=4))
def test_how_terms_are_cut_into_chunks_changes_nothing(terms: NDArray[np.float64], cuts: list[int]) -> None:
    whole, cut = Evaluator(7, resamples=20), Evaluator(7, resamples=20)
    whole.add(terms)
    for part in np.split(terms, sorted(cuts)):
        cut.add(part)
    one, other = whole.result(), cut.result()
    for method in Method:
        assert other.estimates[method].value == pytest.approx(one.estimates[method].value, rel=1e-9, nan_ok=True)
        assert other.estimates[method].bootstrap == pytest.approx(
            one.estimates[method].bootstrap, rel=1e-9, nan_ok=True
        )


@given(st.lists(st.floats(0.0, 100.0), max_size=30), st.integers(0, 30))
def test_an_effective_number_is_at_most_the_number(terms: list[float], zeros: int) -> None:
    squares = sum(term * term for term in terms)
    assert effective(sum(terms), squares) <= len(terms) + 1e-6
    assert effective(3.0, 3.0) == 3.0


# --- intervals -------------------------------------------------------------------------------------------------------


def test_the_gamma_interval_covers_in_at_least_94_of_100_small_logs() -> None:
    """300 logs of 600 decisions by a skewed policy, about eleven rewards each, judged for a policy unlike it."""
    rng = np.random.Generator(np.random.PCG64(SEED))
    rates = np.array([0.01, 0.015, 0.02, 0.03, 0.04])
    log, target = np.array([0.4, 0.3, 0.15, 0.1, 0.05]), np.array([0.02, 0.03, 0.15, 0.2, 0.6])
    truth = float(target @ rates)
    covered = narrow = 0
    for _ in range(300):
        arms = rng.choice(5, 600, p=log)
        weights = (target / log)[arms]
        earned = weights * (rng.random(600) < rates[arms])
        interval = fay_feuer(float(earned.sum()), float((earned**2).sum()), float(weights.max()), 600)
        covered += interval.covers(truth)
        deviation = float(earned.std()) / math.sqrt(600)
        narrow += abs(earned.mean() - truth) <= 1.96 * deviation
    print(f"seed {SEED}: Fay-Feuer covers {covered} of 300, the normal interval {narrow}")
    assert covered >= 0.94 * 300
    assert narrow < covered


def test_with_weights_of_one_the_gamma_interval_is_the_exact_one_of_a_count() -> None:
    """Garwood's for 10 events: 4.795 to 18.39; for none, 0 to 3.689."""
    assert fay_feuer(10.0, 10.0, 1.0, 1) == pytest.approx((4.795, 18.39), abs=0.005)
    assert fay_feuer(0.0, 0.0, 1.0, 1) == pytest.approx((0.0, 3.689), abs=0.005)


def test_one_reward_of_large_weight_says_little() -> None:
    one = fay_feuer(30.0, 900.0, 30.0, 1_000)
    assert one.low < 0.005
    assert one.high > 0.1


def test_bernsteins_interval_is_wide_and_within_what_is_possible() -> None:
    """By hand: mean .5, variance .2506, ln 80 = 4.382: reach .0468 + .0102 at 1,000 fair coins."""
    found = empirical_bernstein(500.0, 500.0, 1.0, 1_000)
    assert found == pytest.approx((0.5 - 0.0571, 0.5 + 0.0571), abs=2e-4)
    assert empirical_bernstein(1.0, 1.0, 1.0, 1) == (0.0, 1.0)


def test_the_bootstraps_generator_is_the_named_one() -> None:
    """SplitMix64's first outputs for the seed 1234567, as its authors' C code prints them."""
    gamma = 0x9E3779B97F4A7C15
    states = np.array([(1_234_567 + n * gamma) % 2**64 for n in range(3)], dtype=np.uint64)
    assert split_mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_the_bootstrap_has_the_spread_of_the_mean() -> None:
    """Of 2,000 coins its percentiles are 1.96 standard errors away, within the noise of 1,000 resamples."""
    coins = (np.arange(2_000) % 2 == 0).astype(float)
    bootstrap = Bootstrap(2, SEED)
    bootstrap.add(np.column_stack((coins, np.ones(2_000))))
    means = bootstrap.sums[:, 0] / bootstrap.sums[:, 1]
    found = percentile(means)
    assert found == pytest.approx((0.5 - 0.0219, 0.5 + 0.0219), abs=0.003)
    assert abs(float(bootstrap.sums[:, 1].mean()) - 2_000) < 6.0
    other = Bootstrap(2, SEED + 1)
    other.add(np.column_stack((coins, np.ones(2_000))))
    assert other.sums.tolist() != bootstrap.sums.tolist()


# --- refusals --------------------------------------------------------------------------------------------------------


def many(count: int, every: int = 10, p: Sequence[float] = (0.5, 0.3, 0.2)) -> list[Logged]:
    """A log that takes the actions in their shares and rewards every tenth."""
    order = [name for name, share in zip(ABC, p, strict=True) for _ in range(round(share * 10))]
    return [logged(n, order[n * 7 % len(order)], float(n % every == 3), p) for n in range(count)]


def reasons(found: Evaluation) -> set[Reason]:
    return {refusal.reason for refusal in found.refusals}


def test_a_log_that_is_long_enough_is_not_refused() -> None:
    found = judged(many(1_000), UniformSpec(policy="uniform").target())
    assert found.refusals == ()
    assert (found.decisions, found.rewards) == (1_000, 100)


def test_nothing_is_said_of_an_empty_log() -> None:
    found = judged([], Fixed({"a": 1.0}))
    assert reasons(found) == {Reason.NO_DECISIONS}
    assert found.estimates == {}


def test_fewer_than_ten_matched_rewards_are_refused() -> None:
    found = judged(many(1_000, every=200), Fixed({"a": 0.5, "b": 0.3, "c": 0.2}))
    assert found.matched == pytest.approx(5.0)
    assert reasons(found) == {Reason.FEW_REWARDS}


def test_rewards_of_hardly_matching_choices_do_not_count_as_matched() -> None:
    """Nine rewards of full weight and ninety of nearly none are nine."""
    terms = np.array([[1.0, 1.0, 0.0, 0.0]] * 9 + [[1e-6, 1.0, 0.0, 0.0]] * 90 + [[1.0, 0.0, 0.0, 0.0]] * 900)
    assert of_terms(terms).matched == pytest.approx(9.0, abs=0.01)
    assert reasons(of_terms(terms)) == {Reason.FEW_REWARDS}


def test_rewards_of_what_the_target_hardly_shows_do_not_stand_for_what_it_shows() -> None:
    """Forty rewards of weight .05, none of weight 32: their spread is small, and they say nothing."""
    terms = np.array([[0.05, 1.0, 0.0, 0.0]] * 40 + [[0.05, 0.0, 0.0, 0.0]] * 9_660 + [[32.35, 0.0, 0.0, 0.0]] * 300)
    assert of_terms(terms).matched < 0.2
    assert Reason.FEW_REWARDS in reasons(of_terms(terms))


@given(st.integers(1, 50), st.floats(0.01, 100.0), st.sampled_from([0.01, 1.0]))
def test_rewards_of_one_weight_match_as_many_as_they_are(count: int, weight: float, reward: float) -> None:
    terms = np.array([[weight, reward, 0.0, 0.0]] * count + [[weight, 0.0, 0.0, 0.0]] * 10)
    assert of_terms(terms).matched == pytest.approx(count, rel=1e-6)


def test_an_effective_sample_of_less_than_a_hundred_is_refused() -> None:
    found = judged(many(1_000, p=(0.5, 0.4, 0.1))[:500], Fixed({"c": 1.0}))
    assert found.ess == pytest.approx(50.0)
    assert Reason.SMALL_SAMPLE in reasons(found)


def test_what_the_log_could_not_choose_is_refused() -> None:
    log = many(1_000, p=(0.5, 0.5, 0.0))
    found = judged(log, Fixed({"a": 0.4, "b": 0.4, "c": 0.2}))
    assert found.missing == pytest.approx(0.2)
    assert reasons(found) == {Reason.NO_SUPPORT}
    assert judged(log, Fixed({"a": 0.6, "b": 0.4})).refusals == ()


def test_an_action_that_never_was_a_candidate_is_refused_by_name() -> None:
    found = judged(many(1_000), Fixed({"a": 0.5, "typo": 0.5}))
    assert reasons(found) == {Reason.NO_SUPPORT}
    assert "typo" in found.refusals[0].text


def test_another_systems_certain_choices_support_nothing_else() -> None:
    """It told only its choice's probability, 1: so the others' was 0."""
    log = [one._replace(propensity=1.0, propensities=()) for one in many(1_000)]
    assert reasons(judged(log, UniformSpec(policy="uniform").target())) == {Reason.NO_SUPPORT}


def test_weights_that_do_not_average_one_are_refused() -> None:
    """Another system said 1/2 for choices that it made ever so often: no policy can have weights like that."""
    log = [one._replace(propensity=0.5, propensities=()) for one in many(1_000)]
    assert reasons(judged(log, UniformSpec(policy="uniform").target())) == {Reason.WEIGHTS_OFF}


def test_a_log_that_only_holds_what_was_rewarded_is_refused() -> None:
    """Where impressions are not reported, a decision is known to be shown only once it is rewarded."""
    log = [one if one.reward else one._replace(shown_ms=0) for one in many(1_000)]
    uniform = UniformSpec(policy="uniform")
    assert reasons(judged(log, uniform.target())) >= {Reason.NOT_SHOWN}
    whole, counts = evaluate(log, uniform.target(), EvaluateRules(counts_unshown=True, resamples=40))
    assert whole.refusals == ()
    assert (whole.decisions, counts.unshown) == (1_000, 900)


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.5, math.nan, math.inf])
def test_a_choice_of_impossible_probability_is_counted_and_left_out(wrong: float) -> None:
    log = [*many(20), many(21)[20]._replace(propensity=wrong), many(22)[21]._replace(action_id="x")]
    found, counts = evaluate(log, Fixed({"a": 1.0}), FEW)
    assert (found.decisions, counts.unusable, counts.read) == (20, 2, 22)


# --- policies that learn ---------------------------------------------------------------------------------------------


class Diary:
    """A target that writes down what it is told and when it is asked."""

    learns = True
    reads_context = False

    def __init__(self, refresh_every: int) -> None:
        self.refresh_every = refresh_every
        self.lines: list[str] = []

    def learn(self, decision: Logged, trials: int, reward_micros: int) -> None:
        self.lines.append(f"{int(decision.decision_id, 16)}+{trials}+{reward_micros // MICROS}")

    def refresh(self) -> None:
        self.lines.append("refresh")

    def probabilities(self, decision: Logged) -> list[float]:
        self.lines.append(f"ask {int(decision.decision_id, 16)}")
        return [1.0, 0.0, 0.0]

    def unseen(self) -> Sequence[str]:
        return ()


def test_a_policy_knows_at_each_decision_what_was_known_then_and_no_more() -> None:
    """Decision 0 is shown late; the reward of 1 comes between 2 and 3; what nobody saw teaches nothing."""
    log = [logged(n, "a", float(n == 1)) for n in range(4)]
    log[0] = log[0]._replace(shown_ms=log[1].decided_ms + 500)
    log[1] = log[1]._replace(rewarded_ms=log[2].decided_ms + 500)
    log[2] = log[2]._replace(shown_ms=0)
    diary = Diary(refresh_every=1)
    judged(log, diary)
    said = ["refresh", "ask 0", "refresh", "ask 1", "1+1+0", "0+1+0", "refresh", "1+0+1", "refresh", "ask 3"]
    assert diary.lines == said


def test_a_model_is_refreshed_every_so_many_decisions() -> None:
    diary = Diary(refresh_every=3)
    judged([logged(n, "a") for n in range(7)], diary)
    assert diary.lines.count("refresh") == 3


def test_what_came_before_the_span_teaches_but_is_not_judged() -> None:
    log = many(400)
    rules = EvaluateRules(from_ms=log[200].decided_ms, resamples=40)
    target = EpsilonGreedySpec(policy="epsilon_greedy", refresh_every=50).target()
    found, counts = evaluate(log, target, rules)
    assert (found.decisions, counts.taught_only) == (200, 200)
    fresh = judged(log[200:], EpsilonGreedySpec(policy="epsilon_greedy", refresh_every=50).target())
    assert values(found)[Method.IPS] != values(fresh)[Method.IPS]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_learnt_target_is_deliverys_policy_of_the_same_sums(name: str) -> None:
    """As made from what the learn stage would hold."""
    target = Learnt(name, PolicyRules(), 1)
    log = many(300)
    for one in log:
        target.learn(one, 1, 0)
        target.learn(one, 0, one.reward_micros)
    target.refresh()
    arms = target.sums.arms
    assert {action: arm.trials for action, arm in arms.items()} == {"a": 150, "b": 90, "c": 60}
    assert sum(arm.reward_micros for arm in arms.values()) == 30 * MICROS
    rules = PolicyRules()
    policy = POLICIES[name](arms, rules, priors(arms, rules.prior_mean, rules.prior_trials))
    assert target.probabilities(log[0]) == policy.probabilities(policy.scores(ABC))


def test_a_better_policy_is_found_better() -> None:
    """Known rates .02, .05, .2 under a uniform log: greedy learning earns about three times the log."""
    rng = np.random.Generator(np.random.PCG64(SEED))
    third = [1 / 3] * 3
    actions = rng.choice(3, 20_000)
    clicks = rng.random(20_000) < np.array([0.02, 0.05, 0.2])[actions]
    log = [logged(n, ABC[a], float(c), third) for n, (a, c) in enumerate(zip(actions, clicks, strict=True))]
    found = judged(log, EpsilonGreedySpec(policy="epsilon_greedy").target(), EvaluateRules(resamples=200))
    print(f"seed {SEED}: {found.estimates[Method.DR]}")
    best = 0.9 * 0.2 + 0.1 * 0.09
    assert found.refusals == ()
    for method in (Method.IPS, Method.SNIPS, Method.DR):
        one = found.estimates[method]
        assert one.interval.covers(best) or 0.9 * best < one.value < best  # it starts ignorant
        assert one.lift_interval.low > 0.5
    dr, ips = found.estimates[Method.DR].bootstrap, found.estimates[Method.IPS].bootstrap
    assert dr.high - dr.low < ips.high - ips.low
    bernstein = found.estimates[Method.IPS].bernstein
    assert bernstein is not None
    assert bernstein.low < ips.low
    assert bernstein.high > ips.high


class Told(Diary):
    """A target that shows what the context says."""

    reads_context = True

    def probabilities(self, decision: Logged) -> list[float]:
        return [float(name == decision.context["best"]) for name in decision.candidates]


def test_a_policy_that_reads_the_context_is_asked_at_every_decision() -> None:
    """Only what the context names earns anything: whoever reads it earns always, the log a third of the time."""
    log = [
        logged(n, ABC[n % 3], float(n % 3 == n * 7 % 5 % 3), [1 / 3] * 3)._replace(context={"best": ABC[n * 7 % 5 % 3]})
        for n in range(900)
    ]
    found = judged(log, Told(refresh_every=1_000))
    assert found.refusals == ()
    assert values(found)[Method.IPS] == pytest.approx(1.0, abs=0.01)
    assert values(found)[Method.LOGGED] == pytest.approx(1 / 3, abs=0.01)


class Turning(Diary):
    """A target that shows a, from its fourth version on b."""

    def probabilities(self, decision: Logged) -> list[float]:
        later = self.lines.count("refresh") > 3
        return [float(not later), float(later), 0.0]


def test_dms_interval_has_the_models_doubt_about_all_that_the_target_shows() -> None:
    """Half a, half b: as wide as the model's error for this mixture, and less than for either alone."""
    log = [logged(n, ABC[n % 3], float(n % 3 == 1 and n % 2), [1 / 3] * 3) for n in range(600)]
    dm = judged(log, Turning(refresh_every=100), EvaluateRules(resamples=400)).estimates[Method.DM]
    model = RewardModel()
    for one in log[:500]:  # what was known at the last refresh
        model.sums.add(one.action_id, 1, one.reward_micros)
    model.refresh()
    noise = (dm.bootstrap.high - dm.bootstrap.low) / (2 * 1.96)
    reach = (dm.interval.high - dm.value) / 1.96
    assert reach == pytest.approx(math.hypot(noise, model.error({"a": 0.5, "b": 0.5})), rel=0.03)
    assert reach > 1.5 * noise
    assert model.error({"a": 0.5, "b": 0.5}) < 0.9 * model.error({"b": 1.0})


def test_every_policy_of_delivery_can_be_asked_about() -> None:
    assert set(POLICIES) <= set(KINDS)
    for name, kind in KINDS.items():
        target = kind.model_validate({"policy": name} | ({"actions": {"a": 1.0}} if kind is FixedSpec else {})).target()
        assert sum(target.probabilities(logged(0, "a"))) == pytest.approx(1.0), name


def test_a_fixed_policy_shares_its_probabilities_among_those_that_are_there() -> None:
    target = FixedSpec(policy="fixed", actions={"a": 0.5, "b": 0.25, "z": 0.25}).target()
    assert target.probabilities(logged(0, "a")) == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert target.probabilities(logged(0, "c")._replace(candidates=("c",))) == [0.0]
    assert list(target.unseen()) == ["z"]
    assert Counts() == Counts(read=0)
