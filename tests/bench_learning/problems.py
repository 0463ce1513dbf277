"""The problems: contexts, actions, and what each action would earn in each round, drawn before anybody plays.

All players of a seed meet the same rounds and the same luck. Data sets are those that River ships in its package (and
scikit-learn's digits where it is installed): nothing is fetched.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray
from river import datasets

Floats = NDArray[np.float64]
Features = dict[str, object]


@dataclass(frozen=True)
class World:
    """One seed of a problem.

    contexts: one a round. expected: shape (rounds, K), chance of a reward of 1 for each action. luck: shape (rounds,),
    a reward is given where luck < expected. action_features: one for each action, or empty ones.
    late_rounds: rounds after which everything is told. conversion_rounds: for each round, after how many a reward is
    told (its absence after window_rounds, to those who cannot take a reward back up); None: at once.
    """

    contexts: list[Features]
    expected: Floats
    luck: Floats
    action_features: list[Features]
    late_rounds: int = 0
    conversion_rounds: NDArray[np.int64] | None = None
    window_rounds: int = 2_000

    @property
    def rounds(self) -> int:
        """How many rounds it has."""
        return len(self.contexts)

    @property
    def action_ids(self) -> list[str]:
        """The actions' ids."""
        return [f"a{number}" for number in range(self.expected.shape[1])]


@dataclass(frozen=True)
class Problem:
    """A family of worlds. has_attributes: whether what an action earns depends on its features."""

    name: str
    meaning: str
    rounds: int
    make: Callable[[int, int], World] = field(repr=False)
    has_attributes: bool = False
    group: str = "classify"


Rows = tuple[list[Features], Floats]


def scaled(rows: Callable[[], Rows]) -> Callable[[], Rows]:
    """Every number less its mean, by its deviation, over the whole set: a kindness to all players alike."""

    def read() -> Rows:
        contexts, right = rows()
        names = list(contexts[0])
        values = np.array([[float(str(context[name])) for name in names] for context in contexts])
        deviations = values.std(axis=0)
        values = (values - values.mean(axis=0)) / np.where(deviations > 0.0, deviations, 1.0)
        return [dict(zip(names, row, strict=True)) for row in values.tolist()], right

    return cache(read)


@cache
def segment() -> Rows:
    """River's ImageSegments: 2,310 rows, 18 numbers, 7 classes."""
    return _one_hot(list(datasets.ImageSegments()))


@cache
def phishing() -> Rows:
    """River's Phishing: 1,250 rows, 9 numbers, 2 classes."""
    return _one_hot(list(datasets.Phishing()))


@cache
def yeast() -> Rows:
    """River's Yeast: 2,417 rows, 103 numbers, 14 labels of which several are right."""
    rows = list(datasets.Yeast())
    labels = sorted(rows[0][1])
    return [dict(x) for x, _ in rows], np.array([[float(y[label]) for label in labels] for _, y in rows])


@cache
def digits() -> Rows:
    """scikit-learn's digits: 1,797 rows, 64 numbers, 10 classes."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return _one_hot(
        [({f"p{at}": v for at, v in enumerate(x)}, str(y)) for x, y in zip(found.data, found.target, strict=True)]
    )


def _one_hot(rows: list[tuple[Features, object]]) -> Rows:
    classes = sorted({str(y) for _, y in rows})
    return [dict(x) for x, _ in rows], np.array([[float(str(y) == one) for one in classes] for _, y in rows])


def classified(rows: Callable[[], Rows], low: float = 0.0, high: float = 1.0) -> Callable[[int, int], World]:
    """A classification turned into a bandit: the right action is paid with chance `high`, all others with `low`."""

    def make(seed: int, rounds: int) -> World:
        contexts, right = rows()
        rng = np.random.default_rng([seed, 1])
        order = np.concatenate([rng.permutation(len(contexts)) for _ in range(-(-rounds // len(contexts)))])[:rounds]
        expected = low + (high - low) * right[order]
        return World([contexts[at] for at in order], expected, rng.random(rounds), [{}] * right.shape[1])

    return make


def changed(make: Callable[[int, int], World]) -> Callable[[int, int], World]:
    """The same, but in the middle every action's payment moves to the next one."""

    def changing(seed: int, rounds: int) -> World:
        world = make(seed, rounds)
        half = rounds // 2
        expected = np.concatenate((world.expected[:half], np.roll(world.expected[half:], 1, axis=1)))
        return World(world.contexts, expected, world.luck, world.action_features)

    return changing


def late(make: Callable[[int, int], World], late_rounds: int) -> Callable[[int, int], World]:
    """The same, but everything is told so many rounds late."""

    def later(seed: int, rounds: int) -> World:
        world = make(seed, rounds)
        return World(world.contexts, world.expected, world.luck, world.action_features, late_rounds)

    return later


def converted(make: Callable[[int, int], World], mean_rounds: float) -> Callable[[int, int], World]:
    """The same, but a reward comes after an exponential time (none later than the window), its absence never."""

    def converting(seed: int, rounds: int) -> World:
        world = make(seed, rounds)
        waits = np.minimum(1_999, np.random.default_rng([seed, 2]).exponential(mean_rounds, rounds)).astype(np.int64)
        return World(world.contexts, world.expected, world.luck, world.action_features, conversion_rounds=waits)

    return converting


def shop(actions: int, own_deviation: float = 0.0) -> Callable[[int, int], World]:
    """Logistic click rates, a median of 5 %, from the context x the actions' attributes.

    own_deviation: of what each action has of its own, in logits, and no attribute tells.
    """

    def make(seed: int, rounds: int) -> World:
        rng = np.random.default_rng([seed, 3])
        topics, devices = ["sport", "home", "travel", "food"], ["phone", "desk", "tablet"]
        taste = rng.normal(0, 1.0, (len(devices) + 2, len(topics) + 1))
        own = rng.normal(0.0, own_deviation, actions)
        topic = rng.integers(0, len(topics), actions)
        price = rng.random(actions)
        device = rng.integers(0, len(devices), rounds)
        age, loyal = rng.random(rounds), rng.integers(0, 2, rounds)
        left = np.column_stack((np.eye(len(devices))[device], age, loyal))
        right = np.column_stack((np.eye(len(topics))[topic], price))
        logits = left @ taste @ right.T + own
        expected = 1.0 / (1.0 + np.exp(-(logits - np.log(19) - logits.mean())))
        contexts: list[Features] = [
            {"device": devices[d], "age": float(a), "loyal": bool(y)}
            for d, a, y in zip(device, age, loyal, strict=True)
        ]
        features: list[Features] = [{"topic": topics[t], "price": float(p)} for t, p in zip(topic, price, strict=True)]
        return World(contexts, expected, rng.random(rounds), features)

    return make


def problems() -> Iterator[Problem]:
    """Give every problem that can be played here."""
    segments, click = scaled(segment), (0.05, 0.2)
    yield Problem("segment", "7 classes, 18 numbers, reward 0 or 1", 5_000, classified(segments))
    yield Problem("phishing", "2 classes, 9 numbers", 2_500, classified(scaled(phishing)))
    yield Problem("yeast", "14 labels, several right, 103 numbers", 5_000, classified(scaled(yeast)))
    yield Problem("segment_click", "the right one pays 20 %, others 5 %", 15_000, classified(segments, *click))
    if importlib.util.find_spec("sklearn") is not None:
        yield Problem("digits", "10 classes, 64 numbers", 5_000, classified(scaled(digits)))
        yield Problem("digits_click", "right: 20 %, others: 5 %", 15_000, classified(scaled(digits), *click))
    yield Problem("raw_segment", "segment, numbers as they come", 5_000, classified(segment), group="raw")
    for actions, rounds in ((5, 10_000), (34, 10_000), (100, 10_000), (1_000, 5_000)):
        yield Problem(f"shop_{actions}", "simulated clicks, attributes tell all", rounds, shop(actions), True, "many")
    yield Problem("own_100", "simulated clicks, attributes tell a part", 10_000, shop(100, 0.3), True, "many")
    yield Problem(
        "drift", "segment, all turns round in the middle", 5_000, changed(classified(segments)), group="drift"
    )
    clicks = changed(classified(segments, 0.05, 0.4))
    yield Problem("drift_click", "the same, paid 40 % and 5 %", 10_000, clicks, group="drift")
    yield Problem("late_100", "segment, told 100 rounds late", 5_000, late(classified(segments), 100), group="late")
    yield Problem(
        "late_1000", "segment, told 1,000 rounds late", 5_000, late(classified(segments), 1_000), group="late"
    )
    soon, conversions = classified(segments, 0.02, 0.15), "paid 15 % and 2 %"
    yield Problem("conversions_at_once", f"segment, {conversions}, told at once", 15_000, soon, group="late")
    exponential = converted(soon, 500.0)
    yield Problem("conversions", f"segment, {conversions}, told 500 rounds later", 15_000, exponential, group="late")
