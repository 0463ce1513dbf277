"""What the auditor compares, without the stores: sums of rows by slice, and the rows of one block against the log's.

A row's hash is ClickHouse's cityHash64 of all its columns, origin included, so it names the row as well as its content;
sums of hashes do not depend on order. A slice is SLICE_BLOCKS blocks of one partition, by offset in `collected`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

SLICE_BLOCKS = 256
HASH_MASK = 2**64 - 1

MISSING, EXTRA, ALTERED, COPIED = "missing", "extra", "altered", "copied"
KINDS = (MISSING, EXTRA, ALTERED, COPIED)


class Sum(NamedTuple):
    """How many rows, and the sum of their hashes modulo 2**64."""

    rows: int = 0
    hash: int = 0

    def plus(self, other: "Sum") -> "Sum":
        """Return the sum over both."""
        return Sum(self.rows + other.rows, (self.hash + other.hash) & HASH_MASK)


class Cell(NamedTuple):
    """Rows that are summed together. slice: offset // SLICE_BLOCKS. day: of the column that rows expire by, since 1970.

    By day, since rows of one slice expire at different times: whole days that are not expired stay comparable.
    """

    partition: int
    slice: int
    day: int


Sums = dict[Cell, Sum]


class Span(NamedTuple):
    """Blocks [first, end) of a partition."""

    partition: int
    first: int
    end: int


class Fault(NamedTuple):
    """One block whose rows in one table are not what the log says.

    offset: of the block; -1 where only its slice is known. rows: how many are meant. healed: whether the table has been
    put right.
    """

    table: str
    partition: int
    offset: int
    kind: str
    rows: int
    healed: bool = False
    note: str = ""


class Stored(NamedTuple):
    """One row as the table has it. name: what tells rows of a block apart. part: the part of the table it stands in."""

    name: object
    hash: int
    part: str


class Verdict(NamedTuple):
    """What is wrong with one block's rows.

    absent: hashes of rows to insert; also of a right row that stands beside a wrong one on its name, since a merge
    keeps the one that was inserted last. wrong: hashes of rows to delete. copies: (hash, part) to delete, all but one
    each. counts: rows by kind of fault.
    """

    absent: frozenset[int]
    wrong: frozenset[int]
    copies: tuple[tuple[int, str], ...]
    counts: dict[str, int]


def judge(expected: Mapping[object, int], stored: Iterable[Stored]) -> Verdict:
    """Compare one block's rows. expected: name -> hash, from the log.

    A row whose right content is there beside another one is `extra`; alone with a wrong content it is `altered`; the
    same row in several parts is `copied`: readers with FINAL see it once, as they do until a merge after any retry.
    """
    found: defaultdict[object, defaultdict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in stored:
        found[row.name][row.hash].append(row.part)
    counts = dict.fromkeys(KINDS, 0)
    absent: set[int] = set()
    wrong: set[int] = set()
    copies: list[tuple[int, str]] = []
    for name, right in expected.items():
        hashes: dict[int, list[str]] = found.get(name, {})
        others = [one for one in hashes if one != right]
        if right in hashes:
            counts[EXTRA] += len(others)
            absent.update([right] if others else ())
            spare = sorted(hashes[right])[1:]
            counts[COPIED] += len(spare)
            copies += [(right, part) for part in spare if part != min(hashes[right])]
        else:
            absent.add(right)
            counts[ALTERED if others else MISSING] += 1
        wrong.update(others)
    for name in found.keys() - expected.keys():
        counts[EXTRA] += sum(len(parts) for parts in found[name].values())
        wrong.update(found[name])
    return Verdict(frozenset(absent), frozenset(wrong), tuple(copies), {kind: n for kind, n in counts.items() if n})


def differing(sealed: Mapping[Cell, Sum], stored: Mapping[Cell, Sum], first_day: int) -> list[tuple[int, int]]:
    """Return the (partition, slice) whose stored rows are not the sealed ones, among days from first_day on.

    sealed: the cells of sealed slices, each slice whole; a slice that has no cell here is not compared.
    """
    known = {(cell.partition, cell.slice) for cell in sealed}
    wrong = {
        (cell.partition, cell.slice)
        for cell in sealed.keys() | stored.keys()
        if cell.day >= first_day
        and (cell.partition, cell.slice) in known
        and sealed.get(cell, Sum()) != stored.get(cell, Sum())
    }
    return sorted(wrong)


def sliced(partition: int, first: int, end: int) -> Iterator[Span]:
    """Cut blocks [first, end) where slices end.

    >>> [tuple(span) for span in sliced(0, 250, 515)]
    [(0, 250, 256), (0, 256, 512), (0, 512, 515)]
    """
    while first < end:
        stop = min(end, (first // SLICE_BLOCKS + 1) * SLICE_BLOCKS)
        yield Span(partition, first, stop)
        first = stop
