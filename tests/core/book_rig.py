"""What the tests of linear models in the learn stage and in delivery share: outcomes, and what is known of them."""

import random
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from pipeline.core.learn import Learn
from pipeline.core.linear import SHARED, pack_lesson
from pipeline.core.linear import learn as learn_all
from pipeline.core.linear_blend import Blend, nothing
from pipeline.core.linear_book import LANDMARK_MS, LearnRules, told_by
from pipeline.core.state import StateView
from schemas.block import Origin, OutcomeBlock
from schemas.linear import LinearArm, LinearJournal, LinearLine, read_key
from schemas.outcome import Outcome

MICROS = 1_000_000
CALM = LearnRules(is_watching=False)
BLANK = Blend(*nothing())
COLOURS = {"a": "red", "b": "blue", "c": "red"}


def lesson_of(context: dict[str, object], action_id: str = "a") -> bytes:
    return pack_lesson(BLANK.lesson(context, {"colour": COLOURS.get(action_id, "green")}))


def outcome(
    action_id: str, lesson: bytes, reward: int = 0, trials: int = 1, placement_id: str = "home", after_ms: int = 0
) -> Outcome:
    decided_ms = LANDMARK_MS + after_ms
    return Outcome(
        "d", action_id, placement_id, "v", decided_ms, 2, 3, 0, 0, reward, 0.5, trials, reward, lesson=lesson
    )


def played(count: int, seed: int = 3) -> list[Outcome]:
    """Trials, and later some of their rewards, of which some are then corrected."""
    rng = random.Random(seed)
    found: list[Outcome] = []
    for number in range(count):
        context: dict[str, object] = {"device": rng.choice(["phone", "desk"]), "age": rng.randrange(80)}
        action_id = rng.choice("abc")
        lesson = lesson_of(context, action_id)
        found.append(outcome(action_id, lesson, after_ms=number))
        if rng.random() < 0.4:
            found.append(outcome(action_id, lesson, MICROS, 0, after_ms=number))
        if rng.random() < 0.1:
            found.append(outcome(action_id, lesson, -300_000, 0, after_ms=number))
    return found


def fold_of(outcomes: Sequence[Outcome], cuts: Sequence[int] = (), rules: LearnRules = CALM) -> dict[str, bytes]:
    """The state that these outcomes leave, cut into blocks there."""
    view = StateView()
    fold = Learn(view, rules)
    edges = [0, *sorted(cuts), len(outcomes)]
    for offset, (start, end) in enumerate(pairwise(edges)):
        fold.apply(Origin(0, offset), OutcomeBlock(1_000, list(outcomes[start:end])))
        fold.take_changes()
    return dict(view.entries)


def known(entries: dict[str, bytes], placement_id: str = "home") -> tuple[dict[str, LinearArm], LinearArm]:
    """All that a state says of a placement: its sums with the lines added; the actions' own, and those of all."""
    own, shared = nothing()
    lines: list[LinearLine] = []
    for key, raw in entries.items():
        if not key.startswith("\x1f") or read_key(key).placement_id != placement_id:
            continue
        kind, _, action_id = read_key(key)
        if kind == "journal":
            lines = msgspec.msgpack.decode(raw, type=LinearJournal).lines
        elif kind in ("arm", "shared"):
            arms = own.arms if kind == "arm" else shared.arms
            arms[action_id if kind == "arm" else SHARED] = msgspec.msgpack.decode(raw, type=LinearArm)
    learn_all(own, told_by(lines).own)
    learn_all(shared, told_by(lines).shared)
    return dict(sorted(own.arms.items())), shared.arms.get(SHARED, LinearArm())


def at_once(outcomes: Sequence[Outcome]) -> tuple[dict[str, LinearArm], LinearArm]:
    """What the pure sums make of all outcomes in one call."""
    lines = [
        LinearLine(one.action_id, one.lesson, one.trials_delta, one.reward_delta_micros, one.decided_ms)
        for one in outcomes
    ]
    own, shared = nothing()
    learn_all(own, told_by(lines).own)
    learn_all(shared, told_by(lines).shared)
    return dict(sorted(own.arms.items())), shared.arms.get(SHARED, LinearArm())


OUTCOMES = played(260)
