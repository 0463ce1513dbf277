"""A linear placement learns through a real broker: from a decision, by its reward, to a better next decision.

Two kinds of visitors, two actions, each good for one kind. A policy without context cannot do better than one half.
"""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from statistics import fmean
from typing import Any, NamedTuple

import msgspec
import pytest

from pipeline.core.redraw import redraw
from pipeline.edge.clock import now_ms
from schemas.outcome import DecisionLog
from tests.agents.rig import Stages, broker, kill
from tests.journeys.rig import free_run
from tests.services.delivery_rig import Service, read_collected
from tests.services.published_rig import Desk
from tests.waits import until

PARTITIONS = 2
WANTED = {"phone": "app", "desk": "film"}
FEATURES = {"app": {"kind": "install", "length": 1}, "film": {"kind": "video", "length": 9}}
A_ROUND, ROUNDS = 40, {"home": 4, "plain": 2}


class Shown(NamedTuple):
    """A decision as its visitor saw it. right: the probability with which the right one was to be shown."""

    decision_id: str
    action: str
    right: float
    reward: float


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """The stages from a decision to the model; two placements, of which one is linear."""
    folder = tmp_path_factory.mktemp("linear")
    with broker(tmp_path_factory.mktemp("broker")) as running:
        found = Stages.on(
            running,
            folder,
            "linear-",
            partitions=PARTITIONS,
            delivery_port=free_run(1),
            metrics_port=free_run(7),
            policy_placements={"home": "linear_igw", "plain": "epsilon_greedy"},
            policy_prior_mean=0.2,
            holdout_share=0.0,
        )
        for stage in ("clean", "profile", "learn"):
            found.start(stage, instance="one")
        try:
            yield found
        finally:
            found.stop()


@pytest.fixture(scope="module")
def service(stages: Stages) -> Iterator[Service]:
    delivery = Service(stages.settings, stages.logs / "delivery.log")
    try:
        delivery.wait_for("/readyz")
        yield delivery
    finally:
        delivery.stop()


def decide(service: Service, placement: str, device: str, actions: list[str]) -> Shown:
    body = {
        "placement": placement,
        "visitor": f"v{random.getrandbits(32)}",
        "context": {"device": device, "hour": 13},
        "actions": [{"id": action, "features": FEATURES.get(action, {})} for action in actions],
    }
    answer = service.http.post("/v1/decisions", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    [chosen] = found["actions"]
    is_right = chosen["id"] == WANTED[device]
    right = chosen["probability"] if is_right else 1 - chosen["probability"]
    return Shown(found["decision_id"], chosen["id"], right, float(is_right))


def reward(service: Service, shown: Shown) -> None:
    answer = service.http.post(f"/v1/decisions/{shown.decision_id}/reward", json={"value": shown.reward})
    assert answer.status_code == 200, answer.text


def model(service: Service, placement: str) -> Any:
    answer = service.http.get(f"/v1/models/{placement}")
    return answer.json() if answer.status_code == 200 else {"arms": []}


def trials(service: Service, placement: str) -> int:
    return sum(arm["trials"] for arm in model(service, placement)["arms"])


def play(service: Service, placement: str) -> None:
    """Rewarded decisions, some at a time; each time the model knows of all before."""
    devices = list(WANTED) * (A_ROUND // 2)
    with ThreadPoolExecutor(8) as pool:
        for number in range(1, ROUNDS[placement] + 1):
            shown = list(pool.map(lambda device: decide(service, placement, device, list(FEATURES)), devices))
            list(pool.map(lambda one: reward(service, one), shown))
            until(lambda many=number: trials(service, placement) == many * A_ROUND, f"{placement} has learnt", 60)


def share(service: Service, placement: str, actions: list[str]) -> dict[str, float]:
    """With what probability each kind of visitor is shown the right action, the mean of some decisions."""
    return {device: fmean(decide(service, placement, device, actions).right for _ in range(10)) for device in WANTED}


@pytest.fixture(scope="module")
def learnt(service: Service) -> Service:
    for placement in ROUNDS:
        play(service, placement)
    return service


def test_each_kind_of_visitor_gets_its_own_action_and_without_context_that_is_impossible(learnt: Service) -> None:
    found, plain = share(learnt, "home", list(FEATURES)), share(learnt, "plain", list(FEATURES))
    print(f"right: linear {found}, epsilon-greedy {plain}")
    assert min(found.values()) > 0.8
    assert sum(plain.values()) == pytest.approx(1.0, abs=1e-6), "one right for phones is wrong for desks"
    assert min(plain.values()) < 0.51


def test_a_new_action_is_known_by_its_features_from_its_first_decision_on(learnt: Service) -> None:
    """A second film, never shown: visitors at desks are shown it far more often than those on phones."""
    FEATURES["film2"] = FEATURES["film"]
    try:
        counts = dict.fromkeys(WANTED, 0)
        for device in WANTED:
            counts[device] = sum(decide(learnt, "home", device, ["app", "film2"]).action == "film2" for _ in range(30))
    finally:
        del FEATURES["film2"]
    assert counts["desk"] > counts["phone"] + 10


def test_the_model_says_what_it_has_learnt_and_a_decision_comes_out_again_from_its_log(learnt: Service) -> None:
    found = model(learnt, "home")
    assert found["policy"] == "linear_igw"
    assert sum(arm["trials"] for arm in found["arms"]) == ROUNDS["home"] * A_ROUND
    assert sum(arm["share"] for arm in found["arms"]) == pytest.approx(1.0)
    shown = decide(learnt, "home", "desk", list(FEATURES))
    told = learnt.http.get(f"/v1/decisions/{shown.decision_id}").json()
    assert (told["policy"], told["context"]["device"]) == ("linear_igw", "desk")
    assert told["scores"][told["candidates"].index("film")] > 0.6
    log = until(lambda: logged(learnt, shown.decision_id), "its log is there")
    assert redraw(log).differences == []
    assert log.choices[0].lesson


def logged(service: Service, decision_id: str) -> DecisionLog | None:
    for _, _, event in read_collected(service.settings, PARTITIONS):
        if event.event_id == decision_id:
            return msgspec.convert(msgspec.json.decode(event.raw)["properties"], DecisionLog)
    return None


def test_a_reward_for_nothing_and_numbers_that_are_none_leave_the_model_as_it_is(learnt: Service) -> None:
    before = model(learnt, "home")["arms"]
    bad = '{"placement": "home", "context": {"age": NaN}, "actions": [{"id": "a"}]}'
    answer = learnt.http.post("/v1/decisions", content=bad, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    unknown = f"{now_ms():012x}" + "0" * 20
    learnt.http.post(f"/v1/decisions/{unknown}/reward", json={"value": 1.0})
    seen = decide(learnt, "home", "desk", list(FEATURES))
    reward(learnt, seen)
    until(lambda: trials(learnt, "home") == sum(arm["trials"] for arm in before) + 1, "the next one is learnt")


def test_a_learn_stage_that_was_killed_learns_on_from_where_it_was(learnt: Service, stages: Stages) -> None:
    """What was rewarded meanwhile is learnt once, and decisions are as good as before."""
    before = trials(learnt, "home")
    kill(stages.workers[2])
    shown = [decide(learnt, "home", device, list(FEATURES)) for device in list(WANTED) * 10]
    for one in shown:
        reward(learnt, one)
    stages.start("learn", instance="one")
    until(lambda: trials(learnt, "home") == before + len(shown), "the rest is learnt", 60)
    assert min(share(learnt, "home", list(FEATURES)).values()) > 0.8


# --- the same loop one level up: the channel is a part of the choice -------------------------------------------------


@pytest.fixture(scope="module")
def outreach(service: Service) -> Iterator[Desk]:
    """A group of a mail and a push placement, published; a line that names the group stands in both."""
    desk = Desk(service.settings, [service])
    try:
        for channel in ("mail", "push"):
            desk.publish("placements", id=channel, name=channel, channel=channel)
        desk.publish("placements", id="outreach", name="Outreach", members=["mail", "push"], fallback={"title": "-"})
        desk.publish("advertisers", id="adv", name="adv")
        desk.publish("campaigns", id="spring", advertiser="adv", name="spring")
        desk.publish("lines", id="news", campaign="spring", name="news", placements=["outreach"])
        for creative in ("red", "blue"):
            desk.publish("creatives", id=creative, line="news", name=creative, content={"title": creative})
        until(lambda: desk.is_asked("outreach", 0) and desk.shown("outreach", "somebody"), "the group is published")
        yield desk
    finally:
        desk.close()


def reach(desk: Desk, number: int) -> dict[str, Any]:
    found = desk.ask("outreach", f"person{number}").json()
    assert isinstance(found, dict)
    return found


def test_the_channel_that_answers_better_is_chosen_more_and_both_levels_learn_once(
    service: Service, outreach: Desk
) -> None:
    """Pushes are answered, mails are not: pushes become the rule, and the group has learnt as much as its members."""
    before = [reach(outreach, number) for number in range(A_ROUND)]
    assert {one["placement"] for one in before} == {"mail", "push"}
    for turn in (1, 2):
        asked = [reach(outreach, turn * A_ROUND + number) for number in range(A_ROUND)]
        for one in asked:
            is_answered = float(one["placement"] == "push")
            reward(service, Shown(one["decision_id"], one["actions"][0]["id"], 0.0, is_answered))
        until(lambda many=turn * A_ROUND: trials(service, "outreach") == many, "the group has learnt", 60)
    until(lambda: trials(service, "mail") + trials(service, "push") == 2 * A_ROUND, "the members have learnt")
    shares = {arm["id"]: arm["share"] for arm in model(service, "outreach")["arms"]}
    print(f"before {[one['placement'] for one in before].count('push')} of {A_ROUND} pushes, then a share of {shares}")
    assert shares["push"] > 0.9
    assert {arm["id"] for arm in model(service, "push")["arms"]} == {"red", "blue"}


def test_the_answer_says_channel_and_time_and_both_levels_are_explained_and_drawn_again(
    service: Service, outreach: Desk
) -> None:
    asked_ms = now_ms()
    found = reach(outreach, 0)
    [chosen] = found["actions"]
    assert (found["group"], found["channel"]) == ("outreach", found["placement"])
    assert chosen["content"] == {"title": chosen["id"]}
    sent_ms = datetime.fromisoformat(found["send_at"]).timestamp() * 1_000
    assert asked_ms - 1_000 <= sent_ms <= asked_ms + 86_400_000
    assert 0 <= found["sending"]["sure"] <= 1
    told = service.http.get(f"/v1/decisions/{found['decision_id']}").json()
    group, choice = told["group"], told["choices"][0]
    assert (group["placement_id"], sum(group["propensities"])) == ("outreach", pytest.approx(1.0))
    assert chosen["probability"] == choice["propensity"] * group["propensity"]
    assert (choice["chosen_by"], choice["group_propensity"]) == ("outreach", group["propensity"])
    log = until(lambda: logged(service, found["decision_id"]), "its log is there")
    again = redraw(log)
    assert (again.differences, again.member) == ([], (found["placement"], group["propensity"]))


def test_a_member_without_anything_to_show_is_excluded_with_its_reasons(service: Service, outreach: Desk) -> None:
    outreach.publish("lines", id="news", campaign="spring", name="news", placements=["outreach"], channels=["mail"])
    until(lambda: {reach(outreach, number)["placement"] for number in range(20)} == {"mail"}, "mails alone")
    found = reach(outreach, 0)
    told = service.http.get(f"/v1/decisions/{found['decision_id']}").json()
    assert (told["group"]["excluded"], told["choices"][0]["group_propensity"]) == ({"push": "unpublished"}, 1.0)
    nothing = outreach.ask("outreach", "v", exclude=["news"]).json()
    assert (nothing["placement"], nothing["actions"], nothing["fallback"]) == ("outreach", [], {"title": "-"})
    why = service.http.get(f"/v1/decisions/{nothing['decision_id']}").json()["excluded"]
    assert why == {"push": "unpublished", "mail": "nothing:unwanted", "mail/blue": "unwanted", "mail/red": "unwanted"}
