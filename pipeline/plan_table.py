"""Reads the CSV files that plans are made from: columns by name, numbers checked, every mistake with its place."""

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from pipeline.errors import SettingsError

MICROS: Final = 1_000_000
AMOUNT_MAX: Final = Decimal(10**12)


class Row(NamedTuple):
    """One line of a file. cells: in the order of the columns that were asked for. line: its number, from 1."""

    cells: tuple[str, ...]
    line: int


class Table:
    """A CSV file with a header line, plain or gzip. Its rows are read as they are asked for, from the beginning."""

    def __init__(self, path: Path) -> None:
        """path: *.gz is unpacked. Raises SettingsError where it cannot be read or has no header."""
        self.path = path
        with self._lines() as lines:
            self.columns = [name.strip() for name in next(csv.reader(lines), [])]
        if not self.columns:
            raise SettingsError(f"{path}: empty, expected a line with the names of the columns")

    def column(self, asked: str, known: Sequence[str], what: str) -> str:
        """Return the name of a column: the one asked for, else the first of the usual names that is there.

        known: usual names, in lower case. what: for the message. Raises SettingsError where it is not there.
        """
        if asked:
            if asked not in self.columns:
                raise SettingsError(f"{self.path}: no column {asked!r} ({what}), expected one of {self._named()}")
            return asked
        lower = {name.lower(): name for name in reversed(self.columns)}
        for name in known:
            if name in lower:
                return lower[name]
        raise SettingsError(f"{self.path}: no column {' or '.join(known)} ({what}): name it; there are {self._named()}")

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield every row. A missing cell is "". Raises SettingsError where the file is torn."""
        places = [self.columns.index(name) for name in columns]
        with self._lines() as lines:
            reader = csv.reader(lines)
            next(reader, None)
            for cells in reader:
                if cells:
                    found = tuple(cells[place].strip() if place < len(cells) else "" for place in places)
                    yield Row(found, reader.line_num)

    def wrong(self, row: Row, column: str, found: str, expected: str) -> SettingsError:
        """Return the error that says where a cell is, what it holds and what was expected."""
        return SettingsError(f"{self.path}:{row.line}: {column}: found {found[:60]!r}, expected {expected}")

    def number(self, row: Row, column: str, cell: str) -> Decimal:
        """Return a cell as a number from 0 to 10^12; raises SettingsError."""
        value = amount(cell)
        if value is None:
            raise self.wrong(row, column, cell, "a number from 0 to 10^12")
        return value

    def _named(self) -> str:
        return ", ".join(self.columns[:20]) + (", …" if len(self.columns) > 20 else "")

    @contextmanager
    def _lines(self) -> Iterator[TextIO]:
        try:
            opened = gzip.open if self.path.suffix == ".gz" else open
            with opened(self.path, "rt", encoding="utf-8-sig", newline="") as stream:
                yield stream
        except (OSError, EOFError, zlib.error) as error:
            raise SettingsError(
                f"{self.path}: {getattr(error, 'strerror', None) or error}, expected a CSV file"
            ) from None
        except UnicodeDecodeError as error:
            raise SettingsError(f"{self.path}: byte {error.start} of a part is no UTF-8, expected text") from None
        except csv.Error as error:
            raise SettingsError(f"{self.path}: {error}, expected a CSV file") from None


def amount(text: str) -> Decimal | None:
    """Return a plain number from 0 to 10^12; None where the text is none."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() and 0 <= value <= AMOUNT_MAX else None


def micros(value: Decimal) -> int:
    """Return an amount of money in micros, rounded to the nearest."""
    return round(value * MICROS)
