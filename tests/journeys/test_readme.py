"""What the README shows is done as it stands there: its commands, its answers, its lines of Python."""

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.docs import README
from tests.journeys.rig import Whole, whole

pytestmark = pytest.mark.journey

WAIT_S = 30.0
DECISION_ID = re.compile(r"\b[0-9a-f]{32}\b")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """The first command, `herald up`."""
    with whole(tmp_path_factory.mktemp("readme")) as found:
        yield found


class Shown(NamedTuple):
    """A command of the README and the answer that is printed under it."""

    command: str
    answer: str


def shown(name: str) -> list[Shown]:
    """Return the commands of the part between `<!-- run:NAME -->` and `<!-- end -->`."""
    part = re.search(rf"<!-- run:{name} -->\n(.*?)<!-- end -->", README.read_text("utf-8"), re.DOTALL)
    assert part is not None
    return [Shown(*found) for found in re.findall(r"```\n\$ ([^\n]*)\n(.*?)```", part[1], re.DOTALL)]


def placed(text: str, running: Whole) -> str:
    """Put the ports of this run in place of the README's."""
    settings = running.settings
    return text.replace(":8080", f":{settings.collector_port}").replace(":8081", f":{settings.delivery_port}")


def curl(command: str) -> httpx.Response:
    """Do what curl does with these arguments; -s, -u and --json are known."""
    name, *arguments = shlex.split(command)
    assert name == "curl"
    body: str | None = None
    user: tuple[str, str] | None = None
    url = ""
    rest = iter(arguments)
    for argument in rest:
        if argument == "--json":
            body = next(rest)
        elif argument == "-u":
            left, _, right = next(rest).partition(":")
            user = (left, right)
        elif argument != "-s":
            assert not argument.startswith("-"), argument
            url = argument
    headers = {"content-type": "application/json"} if body is not None else {}
    method = "GET" if body is None else "POST"
    return httpx.request(method, url, content=body, headers=headers, auth=user, timeout=10)


def when_there(url: str) -> None:
    """Wait until an address is no 404 any more."""
    end = time.monotonic() + WAIT_S
    while httpx.get(url, timeout=10).status_code == 404:
        assert time.monotonic() < end, f"{url} is still unknown after {WAIT_S} s"
        time.sleep(0.05)


def shape(value: object) -> object:
    """A JSON value with every leaf replaced by its type's name: what of an answer stays the same from run to run."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__


def test_five_commands_lead_to_a_first_decision_and_to_a_better_model(running: Whole) -> None:
    """Each answer has the README's shape; the visitor is known, and the reward is what the model then shows."""
    up, *commands = shown("first-decision")
    assert up.command == "herald up"
    assert len(commands) == 4
    ours, theirs, answers = "", "", []
    for number, one in enumerate(commands):
        if number == 1:
            when_there(f"{running.delivery_url}/v1/profiles/bea")
        if number == 3:
            when_there(f"{running.delivery_url}/v1/models/home")
        answer = curl(placed(one.command.replace(theirs, ours) if theirs else one.command, running))
        assert answer.status_code == 200, answer.text
        assert shape(answer.json()) == shape(json.loads(one.answer))
        answers.append(answer.json())
        if number == 1:
            ours, theirs = answer.json()["decision_id"], json.loads(one.answer)["decision_id"]
    assert answers[0] == {"accepted": 1, "rejected": [], "duplicate": 0}
    assert answers[1]["profile"]["known"]
    assert answers[1]["actions"][0]["probability"] == 0.5
    shown_action = answers[1]["actions"][0]["id"]
    assert [(arm["id"], arm["trials"], arm["reward"]) for arm in answers[3]["arms"]] == [(shown_action, 1, 1.0)]


def snippets() -> list[str]:
    """The README's Python."""
    return re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(2), ids=["segment", "snowplow"])
def test_the_readmes_sdk_lines_deliver_an_event(running: Whole, number: int, tmp_path: Path) -> None:
    """As they stand there, in a process of their own; the event is then in the warehouse."""
    assert len(snippets()) == 2
    running.drained()  # of what the test before has sent
    before = stored(running)
    script = tmp_path / "snippet.py"
    script.write_text(placed(snippets()[number], running), "utf-8")
    subprocess.run([sys.executable, str(script)], check=True, timeout=60)
    running.drained()
    assert stored(running) == before + 1


def stored(running: Whole) -> int:
    """How many events of clients the warehouse has."""
    (count,) = running.ask("SELECT count() FROM events FINAL WHERE protocol != 'herald'")[0]
    return int(str(count))


def test_no_command_shows_an_id_that_no_answer_gave() -> None:
    """The reward goes to the decision that is printed above it."""
    _, _, decision, reward, _ = shown("first-decision")
    assert DECISION_ID.findall(reward.command) == [json.loads(decision.answer)["decision_id"]]
