"""Keeps the score: every answer is a documented one in its documented form, and every 200 is a promise to be kept."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.gun import Answer
from tests.fuzz.plan import Plan, as_text
from tests.fuzz.shots import COLLECTOR, DELIVERY, Shot

FAULTS_SHOWN = 20
UNREAD_BYTES = 65_536
EVENTS_MAX = 1_001  # of one shot
LOST_SHARE_MAX = 0.01
KEPT = frozenset({"bad_json", "too_complex", "too_many"})
"""Whole requests that the collector refuses and keeps a sample of, as one refused event."""


@dataclass
class Tally:
    """Counts of one run. promised: events that a 200 said are in the log, by side. faults: what must not have been."""

    plan: Plan
    has_warehouse: bool
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    promised: Counter[str] = field(default_factory=Counter)
    refused_alone: int = 0  # events refused inside of requests that were taken
    may_be_kept: int = 0  # refused requests of which a sample may be in the log
    may_be_stored: int = 0  # events whose answer was lost, or says that nobody knows
    lost: int = 0  # shots that were sent again
    faults: list[str] = field(default_factory=list)

    def score(self, shot: Shot, answer: Answer) -> None:
        """Take one answer."""
        self.answers[shot.side, answer.status] += 1
        self.lost += answer.was_lost
        self.may_be_stored += EVENTS_MAX * (answer.was_lost + (answer.status == 0))
        if answer.status not in shot.allowed() and not self._is_excused(shot, answer):
            self._fault(shot, answer, f"expected one of {sorted(shot.allowed())}")
        if answer.after and b"\r\n\r\nGET /metrics" in shot.wire:
            self._fault(shot, answer, "a request was smuggled in behind another")
        if b"Traceback" in answer.body:
            self._fault(shot, answer, "a traceback")
        try:
            self._read(shot, answer)
        except (ValueError, KeyError, TypeError) as error:
            self._fault(shot, answer, f"its form is not the documented one: {error!r}")

    def _is_excused(self, shot: Shot, answer: Answer) -> bool:
        """The server's own 400 for what is no HTTP has no body; without a warehouse nothing can be asked of it.

        While a client still sends a body larger than is read, the server closes, and its answer may be lost on the way.
        What the broker has not confirmed in time is a 503 with Retry-After.
        """
        if answer.status == 0:
            return len(shot.body) > UNREAD_BYTES
        if answer.status == 400:
            return not answer.body
        if answer.status != 503 or "retry-after" not in answer.headers:
            return False
        asks = "/v1/reports/" in shot.target or "/v1/decisions/" in shot.target
        is_away = asks and not self.has_warehouse and (b"warehouse" in answer.body or shot.method == "HEAD")
        return is_away or b"in time" in answer.body or "gif" in answer.headers.get("content-type", "")

    def _fault(self, shot: Shot, answer: Answer, what: str) -> None:
        if len(self.faults) < FAULTS_SHOWN:
            said = answer.body[:200].decode("latin-1")
            after = f", after {as_text(answer.before)}" if answer.status == 0 and answer.before else ""
            self.faults.append(f"{what}; answered {answer.status} {said!r} to {as_text(shot)}{after}")

    def _read(self, shot: Shot, answer: Answer) -> None:
        kind = answer.headers.get("content-type", "")
        said: Any = json.loads(answer.body) if answer.body and "json" in kind else None
        (self._of_collector if shot.side == COLLECTOR else self._of_delivery)(shot, answer, kind, said)

    def _of_collector(self, shot: Shot, answer: Answer, kind: str, said: Any) -> None:
        if answer.status == 200 and kind == "image/gif":
            self.promised[COLLECTOR] += 1
        elif answer.status == 200 and isinstance(said, dict) and "accepted" in said:
            here = [one for one in said["rejected"] if one["reason"] != "unknown_key"]
            self.promised[COLLECTOR] += said["accepted"] + len(here)
            self.refused_alone += len(here)
        elif answer.status >= 400 and isinstance(said, dict):
            assert_keys(said, {"error", "detail", "accepted", "rejected", "duplicate"})
            self.may_be_kept += said["error"] in KEPT
        if answer.status == 405 and not answer.headers.get("allow"):
            raise ValueError("405 without Allow")

    def _of_delivery(self, shot: Shot, answer: Answer, kind: str, said: Any) -> None:
        if answer.status == 302 or (answer.status == 200 and kind == "image/gif"):
            self.promised[DELIVERY] += shot.method != "HEAD"
            if answer.status == 302 and not answer.headers["location"].startswith("https://shop.example/"):
                raise ValueError("redirected to another place")
        elif answer.status == 200 and isinstance(said, dict) and "model_version" in said and "actions" in said:
            self.promised[DELIVERY] += "unlogged" not in said["degraded"]
            self.plan.learn(
                said["decision_id"], [_path(one[name]) for one in said["actions"] for name in LINKS if one[name]]
            )
        elif answer.status == 200 and isinstance(said, dict) and set(said) == {"event_id"}:
            self.promised[DELIVERY] += 1
        elif answer.status == 503 and ("gif" in kind or b"in time" in answer.body):
            self.may_be_stored += 1
        elif answer.status >= 400 and said is not None:
            assert_keys(said, {"type", "title", "status", "code", "detail", "errors"})


LINKS = ("impression_url", "click_url")


def _path(url: str) -> str:
    return "/" + url.split("/", 3)[3]


def assert_keys(said: dict[str, Any], expected: set[str]) -> None:
    """Raise ValueError where an error's answer has another form than documented."""
    if set(said) != expected:
        raise ValueError(f"keys {sorted(said)}, expected {sorted(expected)}")
