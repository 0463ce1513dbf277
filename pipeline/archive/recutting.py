"""Writing a log that is cut anew: pure core in `pipeline.core.recut`, here the reading, writing and going on.

Each new block says in its header `copied` which log it was made from, at which offset it has to stand, and how far each
old partition had been read. So the new topics alone tell where to go on, at whatever instant the last run was killed;
and a block that somebody else wrote in between (or one of the killed run that landed late) moves those behind it away
from where they have to stand, which is noticed at once, by every later run too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console

from pipeline.archive import stores
from pipeline.archive.log import Appender, CollectedLog, LogRecord, Source
from pipeline.core.recut import Piece, Placed, Recut, RecutRules, Standing, begin, merged
from pipeline.errors import Gap, SettingsError, StateError
from schemas import block as codec
from schemas.block import CollectedBlock, Headers

HEADER = "copied"


class Mark(NamedTuple):
    """What the header says. source: the old log's name. at: the offset of this record. read: as in `Piece`."""

    source: str
    at: int
    read: tuple[int, ...]


@dataclass
class Copied:
    """What a run did. read: how far each old partition has been read, in the end."""

    events: int
    blocks: int
    read: tuple[int, ...]


def mark_of(headers: Headers) -> Mark | None:
    """Return a record's mark, or None where it has none that can be read."""
    raw = dict(headers).get(HEADER, b"").decode("ascii", "replace")
    source, _, rest = raw.partition(":")
    at, _, read = rest.partition(":")
    if not (source and at.isdigit() and all(number.isdigit() for number in read.split(","))):
        return None
    return Mark(source, int(at), tuple(int(number) for number in read.split(",")))


def header_of(mark: Mark) -> tuple[str, bytes]:
    """Return the header of a mark."""
    return HEADER, f"{mark.source}:{mark.at}:{','.join(map(str, mark.read))}".encode()


def copy(source: Source, generation: int, target: CollectedLog, console: Console, *, accept_gap: bool) -> Copied:
    """Copy what the new log lacks of the old one, up to the old one's end as it was seen.

    generation: the old one's, for the ids of events that have none. accept_gap: go on although the old log's beginning
    is gone. Raises Gap where it is and may not be, SettingsError where somebody else has written into the new log,
    StateError where that happens now, Retryable where the broker is away, CorruptBlock where a block cannot be read.
    """
    settings = target.settings
    standings = _standings(source, target, accept_gap=accept_gap)
    rules = RecutRules(
        settings.partitions, generation, settings.tick_ms, settings.block_events_max, settings.block_bytes_max
    )
    work, start, events, blocks = Recut(rules, standings), begin(standings), 0, 0
    total = sum(end - first for first, end in zip(start, source.ends, strict=True))
    logs = [_placed(source, partition, offset) for partition, offset in enumerate(start)]
    with Appender(target) as out, stores.progress(console) as bar:
        task = bar.add_task(f"generation {settings.generation}", total=total)
        for placed in merged(logs):
            for piece in work.take(placed):
                events, blocks = events + len(piece.block.events), blocks + 1
                _write(out, source.name, piece)
            bar.advance(task)
        for piece in work.finish():
            events, blocks = events + len(piece.block.events), blocks + 1
            _write(out, source.name, piece)
        out.flush()
    return Copied(events, blocks, tuple(work.read))


def _write(out: Appender, source: str, piece: Piece) -> None:
    value = codec.encode(piece.block)
    mark = Mark(source, out.ends[piece.partition], piece.read)
    out.append(piece.partition, value, [*codec.headers(value, len(piece.block.events)), header_of(mark)])


def _placed(source: Source, partition: int, start: int) -> Iterator[Placed]:
    for record in source.read(partition, start):
        try:
            codec.check(record.value, record.headers)
            block = codec.decode(record.value, CollectedBlock)
        except codec.CorruptBlock as error:
            raise StateError(f"collected[{partition}] at {record.offset}: {error}") from error
        yield Placed(partition, record.offset, block)


def _standings(source: Source, target: CollectedLog, *, accept_gap: bool) -> list[Standing]:
    """Return how far each new partition is."""
    found = [_standing(source, target, partition) for partition in range(target.settings.partitions)]
    lost = [
        f"collected[{partition}] begins at {first}, expected {wanted} or before"
        for partition, (first, wanted) in enumerate(zip(source.firsts, begin(found), strict=True))
        if first > wanted
    ]
    if lost and not accept_gap:
        raise Gap(
            "\n".join(lost)
            + "\nthe log has lost its beginning to retention: `herald repartition --from-backup DIR` takes it from a "
            "backup; "
            "--accept-gap goes on without it, and the new generation will know nothing of what it held"
        )
    return [
        Standing(tuple(map(max, standing.read, source.firsts)), standing.block_time_ms) if lost else standing
        for standing in found
    ]


def _standing(source: Source, target: CollectedLog, partition: int) -> Standing:
    last = target.last(partition)
    if last is None:
        return Standing((0,) * len(source.ends))
    mark = _checked(last, source, target, partition)
    return Standing(mark.read, codec.decode(last.value, CollectedBlock).block_time_ms)


def _checked(last: LogRecord, source: Source, target: CollectedLog, partition: int) -> Mark:
    place = f"{target.topic}[{partition}]"
    mark = mark_of(last.headers)
    if mark is None:
        raise SettingsError(
            f"{place}: its last block (offset {last.offset}) is no copy: generation {target.settings.generation} is in "
            "use, and nothing more can be copied into it. Choose another one with --to-generation"
        )
    if mark.source != source.name or len(mark.read) != len(source.ends):
        raise SettingsError(f"{place} was copied from {mark.source}, expected {source.name}")
    if mark.at != last.offset:
        raise StateError(
            f"{place}: the block at {last.offset} should stand at {mark.at}: somebody else has written there. Stop "
            "whatever runs on that generation and begin again with --start-over"
        )
    return mark
