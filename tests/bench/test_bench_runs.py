"""The benchmark still runs, and its parts speak of the same events. Nothing here looks at a time: machines differ."""

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO

import msgspec
from rich.console import Console

from tests.bench import engines, floor, raw, requests
from tests.bench.floor import Floor
from tests.bench.plan import PARTS, Found
from tests.bench.report import as_json, ratios, show, total_us
from tests.bench.workload import BATCH_EVENTS, PARTITIONS, bodies, collected, messages, newcomers, recorded

EVENTS = 1_200


def test_the_workload_repeats_itself_with_other_ids_and_visitors_and_never_goes_back_in_time() -> None:
    """More events than were recorded: each has an id of its own, and time goes on from one repeat to the next."""
    count = len(recorded()) + 500
    made = list(messages(count))
    assert len({message["messageId"] for message in made}) == count
    times = [message["timestamp"] for message in made]
    assert times == sorted(times)
    assert not {message["anonymousId"] for message in made[:500]} & {message["anonymousId"] for message in made[-500:]}


def test_newcomers_have_their_events_each_and_no_more() -> None:
    """The memory part must meet exactly the visitors that it says it does."""
    seen = Counter(message["anonymousId"] for message in newcomers(50, events=3))
    assert len(seen) == 50
    assert set(seen.values()) == {3}


def test_bodies_and_blocks_hold_every_event_once() -> None:
    """What goes over HTTP and what is put into the log are the same events, and none is refused at the door."""
    sent = [one["messageId"] for body in bodies(messages(EVENTS)) for one in msgspec.json.decode(body)["batch"]]
    placed = collected(messages(EVENTS))
    stored = [event for placed_block in placed for event in placed_block.block.events]
    assert len(bodies(messages(EVENTS))) == EVENTS // BATCH_EVENTS
    assert sorted(event.event_id for event in stored) == sorted(sent)
    assert not any(event.refused for event in stored)
    assert {partition for partition, _ in placed} <= set(range(PARTITIONS))


def test_the_floor_measures_every_step_and_loses_no_event() -> None:
    """Each pure function has a line, and as many rows come out as events went in."""
    found = floor.run(EVENTS, rounds=1)
    names = {step.name.split(":")[0].strip() for step in found.steps}
    assert {"collector", "clean", "sessionise", "profile", "learn", "rows", "dedupe"} <= names
    assert found.counts["events"] == EVENTS
    assert found.counts["sessions"] > 0
    assert all(step.us > 0 for step in found.steps)
    assert {step.of for step in found.steps} - {""} <= {step.name for step in found.steps}


def test_an_event_that_comes_alone_makes_the_rows_that_it_makes_in_a_block() -> None:
    """Our stages and Faust with an event a record, through a real broker: every event, session and profile is equal."""
    compared = engines.run(600, names=("faust",), at_once=True)
    assert compared.stages["profile"].rows == 600
    assert compared.outputs.events == 600
    assert compared.outputs.sessions > 0
    assert compared.is_equal("faust"), (compared.outputs, compared.engines["faust"].outputs)


def test_requests_hold_every_message_once() -> None:
    """Each way in carries the same events: the pixel and single calls one by one, batches by the hundred."""
    found = list(messages(250))
    counts: dict[requests.Way, int] = {"pixel": 250, "single": 250, "batch": 3}
    for way, count in counts.items():
        made = requests.of(way, found)
        assert len(made) == count
        carried = re.findall(r"rees46-\d+-\d+", b" ".join(made).decode())
        assert sorted(carried) == sorted(message["messageId"] for message in found)


def test_the_load_generator_counts_from_when_a_request_was_due() -> None:
    """A server that stands still for a while is felt by all requests of that while, not only by the one it held up."""
    stall_s, step_s = 0.3, 0.01
    with _slow_server(stall_s) as port:
        fired = raw.scheduled(port, [b"GET / HTTP/1.1\r\n\r\n"] * 50, 1 / step_s, connections=1)
    assert fired.statuses == {200: 50}
    felt = [ms for ms in fired.latencies_ms if ms > stall_s * 1_000 / 2]
    assert len(felt) > stall_s / step_s / 4


@contextmanager
def _slow_server(stall_s: float) -> Iterator[int]:
    """Answer each request at once, but the first one only after stall_s."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            line, _ = server.accept()
            with line:
                time.sleep(stall_s)
                while line.recv(65_536):
                    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        thread.join(10)


def test_each_figure_can_be_read_by_a_program() -> None:
    """The JSON holds what the tables show, whatever was left out."""
    found = Found(floor=Floor(10, 1, [floor.Step("clean: fold", 2.0)], {}))
    read = msgspec.json.decode(as_json(found, "tiny"))
    assert read["floor"]["steps"][0]["us"] == 2.0
    assert read["machine"]["size"] == "tiny"
    assert read["kafka"] is None


def test_the_report_shows_what_was_measured_and_nothing_else() -> None:
    """A part that was left out has no table, and no ratio is made of it."""
    found = Found(floor=Floor(10, 1, [floor.Step("clean: fold", 2.0), floor.Step("  adapt", 1.0, "clean: fold")], {}))
    console = Console(file=StringIO(), width=120)
    show(found, console, "tiny")
    assert ratios(found) == []
    assert found.floor is not None
    assert total_us(found.floor) == 2.0
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert PARTS["a"][0] in printed
    assert PARTS["e"][0] not in printed
