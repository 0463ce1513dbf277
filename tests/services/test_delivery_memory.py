"""What delivery knows while state topics are read: whole versions, merged partitions, and what is missing by name."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.core.clean import CleanRules, clean
from pipeline.core.policy import EpsilonGreedy, Uniform
from pipeline.core.prior import described
from pipeline.core.state import StateView, StateWriter
from pipeline.delivery.api import DecisionRequest
from pipeline.delivery.desk import Desk
from pipeline.delivery.explain import of_model
from pipeline.delivery.log import LOG_KEYS_MAX, Pen, Sender
from pipeline.delivery.memory import STALE_MS, Memory
from pipeline.delivery.problems import Problem
from pipeline.delivery.published import Published
from pipeline.delivery.purse import Purse
from pipeline.delivery.till import Till
from pipeline.edge.clock import now_ms
from pipeline.errors import SettingsError
from pipeline.settings import Settings
from schemas.block import partition_of
from schemas.event import Collected, Context, Event
from schemas.model import ArmStatistics, PlacementModel
from schemas.outcome import Choice, DecisionLog
from schemas.profile import Profile, VisitorState
from schemas.topics import MODELS, PROFILES
from tests.services.memory_rig import change, read, refresh

MICROS = 1_000_000


def settings(**more: object) -> Settings:
    return Settings(partitions=2, **more)  # type: ignore[arg-type]


def model(**arms: int) -> PlacementModel:
    return PlacementModel({key: ArmStatistics(100, clicks * MICROS) for key, clicks in arms.items()}, now_ms())


def test_partitions_are_added_up_and_each_change_is_used() -> None:
    memory = Memory(settings())
    read(memory, MODELS, 0, StateWriter.fence("o"), change(5, {"home": model(a=1, b=2)}))
    read(memory, MODELS, 1, StateWriter.fence("o"), change(8, {"home": model(a=3)}))
    refresh(memory)
    found = memory.policy("home")
    assert found.policy.arms == {"a": ArmStatistics(200, 4 * MICROS), "b": ArmStatistics(100, 2 * MICROS)}
    assert found.model_version == "0:5,1:8"
    memory.take(MODELS, 1, change(9, {"home": model(a=7)}), 2)
    refresh(memory)
    assert memory.policy("home").policy.arms["a"] == ArmStatistics(200, 8 * MICROS)
    assert memory.policy("home").model_version == "0:5,1:9"


def test_a_new_creative_begins_with_what_those_like_it_have_earned_and_no_refresh_is_made_for_nothing() -> None:
    memory = Memory(settings())
    features: dict[str, dict[str, object]] = {
        "a": {"tone": "warm"}, "b": {"tone": "cold"}, "warm": {"tone": "warm"}, "cold": {"tone": "cold"},
    }  # fmt: skip
    vectors = described(features)
    assert vectors is not None
    memory.describe({"home": vectors})
    read(memory, MODELS, 0, StateWriter.fence("o"), change(5, {"home": model(a=80, b=10)}))
    refresh(memory)
    found = memory.policy("home")
    warm, cold, unknown = found.policy.scores(["warm", "cold", "unknown"])
    assert cold < unknown < warm
    assert memory.policy("home", "thompson").policy.priors == found.policy.priors
    memory.describe({"home": vectors})
    refresh(memory)
    assert memory.policy("home") is found
    memory.describe({})
    refresh(memory)
    assert memory.policy("home").policy.scores(["warm", "cold"]) == [unknown, unknown]
    arms = {arm.id: arm for arm in of_model("home", found, found.updated_ms, [], {}).arms}
    assert (arms["warm"].trials, arms["warm"].prior) == (0, warm)
    assert arms["a"].prior == warm < arms["a"].mean


def test_an_entry_that_was_only_swept_does_not_make_the_policy_anew() -> None:
    """Records carry unchanged entries too: they keep the log short and mean nothing."""
    memory = Memory(settings())
    read(memory, MODELS, 0, StateWriter.fence("o"), change(5, {"home": model(a=1)}))
    refresh(memory)
    before = memory.policy("home")
    memory.take(MODELS, 0, change(6, {"home": PlacementModel(before.policy.arms, before.updated_ms)}), 2)
    refresh(memory)
    assert memory.policy("home") is before


def test_a_version_in_parts_counts_once_its_last_part_is_there() -> None:
    memory = Memory(settings())
    read(memory, MODELS, 0, StateWriter.fence("o"))
    memory.take(MODELS, 0, change(5, {"home": model(a=1)}, more=True), 1)
    refresh(memory)
    assert not memory.is_known("home")
    memory.take(MODELS, 0, change(5, {"cart": model(a=1)}), 2)
    refresh(memory)
    assert memory.is_known("home")
    assert memory.is_known("cart")


def test_a_partition_that_is_read_anew_stays_in_use_until_it_is_whole_and_forgets_what_is_gone() -> None:
    memory = Memory(settings())
    read(memory, MODELS, 0, StateWriter.fence("o"), change(5, {"home": model(a=1), "old": model(a=1)}))
    refresh(memory)
    memory.begin(MODELS, 0)
    memory.take(MODELS, 0, change(9, {"home": model(a=2)}), 7)
    refresh(memory)
    assert memory.policy("home").policy.arms["a"].reward_micros == MICROS
    memory.loaded(MODELS, 0)
    refresh(memory)
    assert memory.policy("home").policy.arms["a"].reward_micros == 2 * MICROS
    assert memory.policy("old").policy.arms == {}


def test_a_state_that_is_computed_again_comes_into_use_when_it_has_caught_up() -> None:
    """The stage found its log damaged and begins with an older version: until then decisions go on as before."""
    memory, at = Memory(settings()), partition_of("v", 2)

    def known(visitor: str) -> int:
        found = memory.visitor(visitor).state
        return found.profile.events if found else 0

    read(memory, PROFILES, at, StateWriter.fence("o"), change(5, {"v": VisitorState(Profile(events=5))}))
    memory.take(PROFILES, at, StateWriter.fence("p"), 2)
    again = [
        change(-1, {}, epoch=2),
        change(3, {"v": VisitorState(Profile(events=3))}, epoch=2),
        change(5, {"v": VisitorState(Profile(events=4))}, epoch=2),
    ]
    for offset, record in enumerate(again, 3):
        memory.take(PROFILES, at, record, offset)
        assert known("v") == 5
    memory.take(PROFILES, at, change(6, {"w": VisitorState(Profile(events=1))}, epoch=2, begin=3), 6)
    assert (known("v"), memory.visitor("v").version) == (4, 6)
    memory.take(PROFILES, at, change(-1, {}, epoch=0), 7)
    assert known("v") == 4, "a fenced owner's word is void"


def test_what_is_missing_is_named_until_it_is_there() -> None:
    memory, now = Memory(settings()), now_ms()
    at = partition_of("v", 2)
    assert memory.degraded("v", now) == ["profiles_loading", "models_loading"]
    assert memory.degraded("", now) == ["models_loading"]
    for partition in range(2):
        read(memory, MODELS, partition, StateWriter.fence("o"), change(1, {}))
        read(memory, PROFILES, partition, StateWriter.fence("o"), change(1, {}))
    assert memory.is_loaded
    assert memory.degraded("v", now_ms()) == []
    assert memory.degraded("v", now_ms() + STALE_MS + 1_000) == ["profiles_stale", "models_stale"]
    memory.take(PROFILES, at, change(2, {}, block_time_ms=now_ms() + 60_000), 2)
    assert memory.degraded("v", now_ms() + STALE_MS + 1_000) == ["models_stale"]


def test_a_profile_is_found_in_its_partition_and_gone_when_it_is_deleted() -> None:
    memory = Memory(settings())
    at = partition_of("v", 2)
    read(memory, PROFILES, at, StateWriter.fence("o"), change(4, {"v": VisitorState(Profile(events=3))}))
    found = memory.visitor("v")
    assert found.state is not None
    assert (found.state.profile.events, found.version) == (3, 4)
    memory.take(PROFILES, at, change(5, {}, ("v",)), 2)
    assert memory.visitor("v").state is None


def test_a_placement_without_a_model_decides_by_the_prior_of_its_own_policy() -> None:
    memory = Memory(settings(policy_placements={"lab": "uniform"}, policy_epsilon=0.3))
    assert isinstance(memory.policy("lab").policy, Uniform)
    policy = memory.policy("home").policy
    assert isinstance(policy, EpsilonGreedy)
    assert policy.probabilities(policy.scores(["a", "b"])) == [0.5, 0.5]
    assert policy.rules.epsilon == 0.3


def test_a_policy_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"HERALD_POLICY_PLACEMENTS: home = 'exp3'.*epsilon_greedy"):
        Memory(settings(policy_placements={"home": "exp3"}))


class Tape:
    """A block writer that keeps what it is given."""

    is_available = True

    def __init__(self, room: int = 10**9) -> None:
        self.room = room
        self.events: list[tuple[int, Context, str, str, bytes]] = []

    def has_room(self, more_bytes: int) -> bool:
        return more_bytes <= self.room

    def add(self, partition: int, context: Context, event_id: str, visitor: str, raw: bytes) -> None:
        self.events.append((partition, context, event_id, visitor, raw))


def log_of(number: int, features: int = 0) -> DecisionLog:
    ids = [f"a{at}" for at in range(max(1, features))]
    found = {action_id: {"x": 1} for action_id in ids} if features else {}
    choices, propensities = [Choice("a0", 0, 1.0)], [1.0] * len(ids)
    return DecisionLog(f"{number:032x}", "home", "uniform", "", "s", choices, ids, propensities, features=found)


def test_only_so_many_decisions_are_remembered() -> None:
    pen = Pen(Tape(), 2, 3, b"key")  # type: ignore[arg-type]
    for number in range(5):
        assert pen.decision(log_of(number), "v", Sender("shop"), 1)
    assert [pen.recent(f"{number:032x}") is not None for number in range(5)] == [False, False, True, True, True]


def test_events_of_one_moment_share_a_context() -> None:
    tape = Tape()
    pen = Pen(tape, 2, 3, b"key")  # type: ignore[arg-type]
    for number, (site, time_ms) in enumerate([("shop", 1), ("shop", 1), ("blog", 1), ("blog", 2)]):
        pen.decision(log_of(number), "v", Sender(site), time_ms)
    contexts = [context for _, context, *_ in tape.events]
    assert contexts[0] is contexts[1]
    assert len({id(context) for context in contexts}) == 3


def test_a_record_too_complex_for_the_clean_stage_goes_without_features_and_says_so() -> None:
    tape = Tape()
    pen = Pen(tape, 2, 3, b"key")  # type: ignore[arg-type]
    log = log_of(1, features=LOG_KEYS_MAX)
    assert pen.decision(log, "v", Sender("shop"), 1)
    assert (log.features, log.degraded) == ({}, ["features_unlogged"])
    assert len(log.candidates) == LOG_KEYS_MAX


NAMES = st.text(min_size=1, max_size=128) | st.text("aé☃", min_size=1, max_size=128)
SCALARS = (
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=256) | st.none()
)
FEATURES = st.dictionaries(st.text(" -~aZ", min_size=1, max_size=64), SCALARS, max_size=32)
REQUESTS = st.fixed_dictionaries({
    "placement": NAMES,
    "actions": st.lists(
        st.fixed_dictionaries({"id": NAMES}, optional={"campaign_id": NAMES, "features": FEATURES, "url": st.text()}),
        min_size=1, max_size=20,
    ),
    "context": FEATURES,
    "visitor": st.text(max_size=200),
    "count": st.integers(1, 50),
})  # fmt: skip


@given(REQUESTS)
def test_every_decision_that_is_answered_is_one_that_the_clean_stage_takes(request: dict[str, object]) -> None:
    """Whatever ids, features and context were let in: the record is clean, and its log is the decision's."""
    tape = Tape()
    memory, pen = Memory(settings()), Pen(tape, 2, 3, b"key")  # type: ignore[arg-type]
    desk = Desk(settings(), memory, pen, b"k", Published(settings(), memory, Till(Purse(settings())), b"0" * 16))
    try:
        asked = desk.read(DecisionRequest.model_validate(request), no_consent=False)
    except (ValidationError, Problem):
        return
    answer = desk.decide(asked, 1_795_000_000_000)
    _, context, event_id, visitor, raw = tape.events[0]
    found = clean(Collected(0, event_id, visitor, raw), context, CleanRules(1_000, 1_000, 1_000, 1_000, 1_000))
    assert isinstance(found, Event), found
    log = msgspec.json.decode(found.properties, type=DecisionLog)
    assert log.decision_id == answer.decision_id
    assert found.placement_id == log.placement_id == request["placement"]
    assert found.action_id == (answer.actions[0].id if answer.actions else "")
    assert [choice.propensity for choice in log.choices] == [chosen.probability for chosen in answer.actions]


def test_a_view_of_another_epoch_is_void() -> None:
    """A record of a fenced owner leaves the model as it is."""
    memory = Memory(settings())
    read(memory, MODELS, 0, StateWriter.fence("o"), change(5, {"home": model(a=1)}), StateWriter.fence("new"))
    memory.take(MODELS, 0, change(6, {"home": model(a=9)}), 3)
    refresh(memory)
    assert memory.policy("home").policy.arms["a"].reward_micros == MICROS
    assert isinstance(memory._in_use[MODELS.name][0].view, StateView)
