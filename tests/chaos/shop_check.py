"""What the shop was told, compared with what is stored: an acknowledged event once, any event once at most.

A decision is answered before the broker has it, and a visitor is sent on whatever happens: these records stand in a
file of delivery's, so none of them may be missing either.
"""

import httpx
import msgspec

from pipeline.edge.clock import monotonic_s
from schemas.model import ArmStatistics, PlacementModel
from schemas.profile import Profile, VisitorState
from tests.chaos.expected import SHOWN, Check
from tests.chaos.reference import States
from tests.chaos.shop import BUYERS, PLACEMENTS, Shops
from tests.journeys.rig import Running

MICROS = 1_000_000
EQUAL_WITHIN_S = 60.0


def acknowledged(running: Running, shops: Shops) -> list[Check]:
    """Compare the shops' own lists with the events stored."""
    rows = running.ask(
        "SELECT event_type, decision_id, event_id FROM events FINAL "
        "WHERE protocol = 'herald' OR event_type = 'conversion'"
    )
    of_type: dict[str, list[str]] = {}
    for kind, decision, event_id in rows:
        key = event_id if kind in ("conversion", "reward") else decision
        of_type.setdefault(str(kind), []).append(str(key))
    return [
        _once("impressions acknowledged", shops.named("seen"), of_type.get("impression", [])),
        _once("rewards acknowledged", {f"reward-{one}" for one in shops.named("rewarded")}, of_type.get("reward", [])),
        _once("conversions acknowledged", shops.named("bought"), of_type.get("conversion", [])),
        _once("decisions answered", shops.named("answered"), of_type.get("decision", [])),
        _once("clicks followed", shops.named("clicked"), of_type.get("click", [])),
    ]


def _once(name: str, wanted: set[str], stored: list[str]) -> Check:
    missing = sorted(wanted - set(stored))[:SHOWN]
    doubled = (
        sorted(one for one in set(stored) if stored.count(one) > 1)[:SHOWN] if len(set(stored)) < len(stored) else []
    )
    wrong = [f"missing: {missing}"] * bool(missing) + [f"more than once: {doubled}"] * bool(doubled)
    return Check(name, len(wanted), len(wanted) - len(wanted - set(stored)), "; ".join(wrong))


def delivery(running: Running, clean: States) -> list[Check]:
    """Compare what delivery answers with the clean run's states: models of all placements, profiles of all buyers."""
    until = monotonic_s() + EQUAL_WITHIN_S
    while True:
        checks = [_models(running, clean), _profiles(running, clean)]
        if all(check.holds for check in checks) or monotonic_s() > until:
            return checks


def _models(running: Running, clean: States) -> Check:
    expected = {name: found for name in PLACEMENTS if (found := arms(clean, name))}
    answered = {}
    for name in PLACEMENTS:
        answer = httpx.get(f"{running.delivery_url}/v1/models/{name}", timeout=30)
        if answer.status_code == 200:
            found = answer.json()["arms"]
            answered[name] = {arm["id"]: (arm["trials"], round(arm["reward"] * MICROS)) for arm in found}
    trials = sum(trials for found in expected.values() for trials, _ in found.values())
    told = sum(trials for found in answered.values() for trials, _ in found.values())
    return Check(
        "trials that delivery holds", trials, told, "" if answered == expected else f"{answered} != {expected}"
    )


def arms(states: States, placement: str) -> dict[str, tuple[int, int]]:
    """Return a placement's arms, all partitions added: id -> (trials, reward in millionths)."""
    merged: dict[str, ArmStatistics] = {}
    for (stage, _), view in states.items():
        raw = view.entries.get(placement) if stage == "learn" else None
        for name, arm in (msgspec.msgpack.decode(raw, type=PlacementModel).arms if raw else {}).items():
            sum_ = merged.setdefault(name, ArmStatistics())
            sum_.trials += arm.trials
            sum_.reward_micros += arm.reward_micros
    return {name: (arm.trials, arm.reward_micros) for name, arm in merged.items()}


def _profiles(running: Running, clean: States) -> Check:
    expected = found = 0
    wrong = []
    for number in range(BUYERS):
        name = f"buyer-{number}"
        raws = [view.entries[name] for (stage, _), view in clean.items() if stage == "profile" and name in view.entries]
        if not raws:
            continue
        expected += 1
        profile = msgspec.msgpack.decode(raws[0], type=VisitorState).profile
        answer = httpx.get(f"{running.delivery_url}/v1/profiles/{name}", timeout=30)
        if answer.status_code == 200 and _plain(answer.json()["profile"]) == _plain(_named(profile)):
            found += 1
        else:
            wrong.append(f"{name}: {answer.text[:300]} != {profile}")
    return Check("profiles that delivery holds", expected, found, "; ".join(wrong[:1]))


def _named(profile: Profile) -> dict[str, object]:
    """The profile as delivery answers it: its packed form and that of the interests have no names."""
    interests = {name: msgspec.structs.asdict(one) for name, one in profile.interests.items()}
    return msgspec.structs.asdict(profile) | {"interests": interests}


def _plain(value: object) -> object:
    """As JSON has it."""
    return msgspec.json.decode(msgspec.json.encode(value))
