"""What the README shows is done as it stands there: its commands, its answers; also collecting.md's SDK lines."""

import io
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from rich.console import Console

from pipeline import decisions
from tests.docs import FOLDER, README
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


def part(name: str) -> str:
    """Return what stands between `<!-- run:NAME -->` and `<!-- end -->`."""
    found = re.search(rf"<!-- run:{name} -->\n(.*?)<!-- end -->", README.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def shown(name: str) -> list[Shown]:
    """Return the commands of a part."""
    return [Shown(*found) for found in re.findall(r"```\n\$ ([^\n]*)\n(.*?)```", part(name), re.DOTALL)]


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


def when_there(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Return the first answer that is no 404."""
    end = time.monotonic() + WAIT_S
    while (answer := ask()).status_code == 404:
        assert time.monotonic() < end, f"{answer.request.url} is still unknown after {WAIT_S} s"
        time.sleep(0.05)
    return answer


def herald(command: str, running: Whole, folder: Path) -> list[str]:
    """Run a command of ours in a folder; return its lines."""
    name, *arguments = shlex.split(command)
    assert name == "herald"
    ours, environment = [sys.executable, "-m", "pipeline.cli", *arguments], running.settings.as_environment()
    done = subprocess.run(ours, env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def explained(decision_id: str, running: Whole) -> list[str]:
    """Return the lines of `herald decisions explain`, on a wide terminal: in this process, to save another start."""
    said = io.StringIO()
    wish = decisions.Wish("explain", decision_id, as_json=False)
    assert decisions.run(running.settings, Console(file=said, width=200), wish) == 0
    return [line.rstrip() for line in said.getvalue().splitlines()]


def shape(value: object) -> object:
    """A JSON value with every leaf replaced by its type's name: what of an answer stays the same from run to run.

    Without what a decision had to do without: on a busy machine stages may be behind in the first seconds.
    """
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items() if key != "degraded"}
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
            when_there(lambda: httpx.get(f"{running.delivery_url}/v1/profiles/bea", timeout=10))
        if number == 3:
            when_there(lambda: httpx.get(f"{running.delivery_url}/v1/models/home", timeout=10))
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


def test_a_first_campaign_is_published_shown_and_explained(running: Whole, tmp_path: Path) -> None:
    """What is printed comes out word for word but for ids, versions, and which of two equals was drawn."""
    published, asked, why = shown("first-campaign")
    (text,) = re.findall(r"```yaml\n(.*?)```", part("first-campaign"), re.DOTALL)
    (tmp_path / "campaigns.yaml").write_text(text, "utf-8")
    assert herald(published.command, running, tmp_path) == published.answer.splitlines()
    page = when_there(lambda: curl(placed(asked.command, running)))
    assert page.status_code == 200, page.text
    assert shape(page.json()) == shape(json.loads(asked.answer))
    hero, side = page.json()["decisions"]
    assert hero["actions"][0]["id"] in ("red", "blue")
    assert side["fallback"] == {"title": "Read our letter"}
    running.drained()  # the decision is a row
    theirs = json.loads(asked.answer)["decisions"][0]["decision_id"]
    assert why.command == f"herald decisions explain {theirs}"
    lines = explained(hero["decision_id"], running)
    assert _plain(lines) == _plain(why.answer.splitlines())
    assert "fallen         thanks (audience)" in lines


def _plain(lines: list[str]) -> list[str]:
    """Lines of an explanation without what differs from run to run: ids, ranks, seeds, models and what was known."""
    told = [re.sub(r"[0-9a-f]{32}|│ [0 ] +(?=│ 0\.5)", "", line).strip() for line in lines if line.strip()]
    return [re.sub(r"^(seed|known|model version|missing) .*", r"\1", line) for line in told]


def snippets() -> list[str]:
    """The Python of the page about collecting."""
    return re.findall(r"```python\n(.*?)```", (FOLDER / "collecting.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(2), ids=["segment", "snowplow"])
def test_the_pages_sdk_lines_deliver_an_event(running: Whole, number: int, tmp_path: Path) -> None:
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
