"""The benchmark still runs, and its parts speak of the same events. Nothing here looks at a time: machines differ."""

from collections import Counter
from io import StringIO

import msgspec
from rich.console import Console

from tests.bench import floor, kafka, record_per_event
from tests.bench.floor import Floor
from tests.bench.plan import PARTS, Found
from tests.bench.record_per_event import take
from tests.bench.report import ratios, show, total_us
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
    assert all(step.us >= 0 for step in found.steps)


def test_the_small_job_counts_the_same_however_its_state_is_kept() -> None:
    """Sessions and visitors of the comparison are real: a repeat changes nothing."""
    raws = [msgspec.json.encode(message) for message in messages(EVENTS)]
    seen: dict[str, int] = {}
    visitors: dict[str, list[int]] = {}
    assert all(take(raw, seen, visitors) for raw in raws)
    before = {name: list(kept) for name, kept in visitors.items()}
    assert not any(take(raw, seen, visitors) for raw in raws)
    assert visitors == before
    assert sum(kept[4] for kept in visitors.values()) == EVENTS


def test_the_stages_take_every_event_through_a_real_broker_and_both_shapes_agree() -> None:
    """The parts that need Kafka, at a tiny size: each stage says that it took every event; both shapes count alike."""
    through = kafka.run(EVENTS)
    assert through.counts == dict.fromkeys(kafka.STAGES, EVENTS)
    compared = record_per_event.run(300, 300)
    assert compared.record.events == compared.block.events == 300
    assert (compared.record.visitors, compared.record.sessions) == (compared.block.visitors, compared.block.sessions)
    assert (compared.stages.visitors, compared.stages.sessions) == (compared.block.visitors, compared.block.sessions)


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
    assert PARTS["d"][0] not in printed
