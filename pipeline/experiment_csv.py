"""Reads an experiment's visitors from a CSV file: visitor, variant, when he was shown it, and what he did.

Columns: `visitor`, `variant`, one for each goal; if it has them `exposed` (a time, or ms since 1970 UTC; empty = never
shown it) and what the experiment names as covariates and segments, to which `pre_...` and `segment_...` are added.
"""

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.core.experiment.analysis.tally import Row, Tally
from pipeline.errors import SettingsError
from schemas.experiment import Experiment

COVARIATE = "pre_"
SEGMENT = "segment_"
VALUE_MAX = 1e15
"""Sums of squares of so many stay numbers."""
DIGITS_MIN, DIGITS_MAX = 9, 15
"""Of a time in ms; eight digits are a date."""


@dataclass
class Read:
    """What was read and left out. rows: of the file, or decisions shown. unshown: visitors (of a file: rows) never
    shown their variant. outside: rows that are not of the experiment's time. unnamed: without a visitor's id.
    """

    rows: int = 0
    unshown: int = 0
    outside: int = 0
    unnamed: int = 0


def read_csv(path: Path, experiment: Experiment) -> tuple[Experiment, Tally, Read]:
    """Return the experiment with the file's own covariates and segments, its visitors, and what was left out.

    path: *.gz is unpacked. Raises SettingsError: file, line, column, what was found, what was expected.
    """
    try:
        unpacked = gzip.open if path.suffix == ".gz" else open
        with unpacked(path, "rt", encoding="utf-8-sig", newline="") as stream:
            return _read(path, csv.reader(stream, strict=True), experiment)
    except (OSError, EOFError, zlib.error) as error:
        said = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"{path}: {said}, expected a CSV file{' packed by gzip' * (path.suffix == '.gz')}"
        ) from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: byte {error.start} of a part is no UTF-8, expected text") from None


def _read(path: Path, lines: "Iterator[list[str]]", experiment: Experiment) -> tuple[Experiment, Tally, Read]:
    try:
        header = next(lines, [])
        wider = _with_columns(experiment, header)
        reader = _Reader(path, header, wider)
        for fields in lines:
            if fields:
                reader.take(fields, lines.line_num)  # type: ignore[attr-defined]
    except csv.Error as error:
        raise SettingsError(f"{path}:{lines.line_num}: {error}, expected CSV") from None  # type: ignore[attr-defined]
    return wider, reader.tally, reader.read


def _with_columns(experiment: Experiment, header: Sequence[str]) -> Experiment:
    """Return the experiment with the covariates and segments that the file has by name."""
    goals = {goal.metric for goal in experiment.goals}
    more = [name for name in header if name.startswith(COVARIATE) and name not in goals]
    of_segments = [name for name in header if name.startswith(SEGMENT) and name not in goals]
    covariates = list(dict.fromkeys([*experiment.covariates, *more]))
    segments = list(dict.fromkeys([*experiment.segments, *of_segments]))
    return experiment.model_copy(update={"covariates": covariates, "segments": segments})


class _Reader:
    """Takes one line after the other."""

    def __init__(self, path: Path, header: Sequence[str], experiment: Experiment) -> None:
        self._path, self._header, self._experiment = path, header, experiment
        self.tally, self.read = Tally(experiment), Read()
        self._numbers = {variant.name: number for number, variant in enumerate(experiment.variants)}
        self._visitor, self._variant = self._column("visitor"), self._column("variant")
        self._exposed = header.index("exposed") if "exposed" in header else None
        self._goals = [(self._column(goal.metric), goal.kind) for goal in experiment.goals]
        self._covariates = [self._column(name) for name in experiment.covariates]
        self._segments = [self._column(name) for name in experiment.segments]
        self._from_ms = experiment.starts.timestamp() * 1_000 if experiment.starts else -math.inf
        self._to_ms = experiment.ends.timestamp() * 1_000 if experiment.ends else math.inf

    def _column(self, name: str) -> int:
        if self._header.count(name) != 1:
            known = ", ".join(self._header) or "nothing"
            count = self._header.count(name)
            said = f"{count} columns {name!r}, expected one" if count else f"no column {name!r} among: {known}"
            raise SettingsError(f"{self._path}:1: {said}")
        return self._header.index(name)

    def take(self, fields: Sequence[str], line: int) -> None:
        """Take a line in, or count why not."""
        if len(fields) != len(self._header):
            raise self._wrong(line, f"{len(fields)} fields, expected {len(self._header)}")
        self.read.rows += 1
        exposed_ms = 0
        if self._exposed is not None:
            if not fields[self._exposed].strip():
                self.read.unshown += 1
                return
            exposed_ms = self._time(fields[self._exposed].strip(), line)
            if not self._from_ms <= exposed_ms < self._to_ms:
                self.read.outside += 1
                return
        if not fields[self._visitor]:
            self.read.unnamed += 1
            return
        self.tally.add(self._row(fields, line, exposed_ms))

    def _row(self, fields: Sequence[str], line: int, exposed_ms: int) -> Row:
        number = self._numbers.get(fields[self._variant])
        if number is None:
            known = ", ".join(self._numbers)
            raise self._wrong(line, f"variant: found {fields[self._variant]!r}, expected one of {known}")
        return Row(
            fields[self._visitor],
            number,
            [self._metric(fields[at], kind, at, line) for at, kind in self._goals],
            [self._number(fields[at], at, line) if fields[at].strip() else math.nan for at in self._covariates],
            [fields[at] for at in self._segments],
            exposed_ms,
        )

    def _metric(self, text: str, kind: str, at: int, line: int) -> float:
        value = self._number(text, at, line)
        if kind == "rate" and value not in (0.0, 1.0):
            raise self._wrong(line, f"{self._header[at]}: found {text!r}, expected 0 or 1: it is a rate")
        if kind == "money" and value < 0.0:
            raise self._wrong(line, f"{self._header[at]}: found {text!r}, expected an amount of 0 or more")
        return value

    def _number(self, text: str, at: int, line: int) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not abs(value) <= VALUE_MAX:
            raise self._wrong(line, f"{self._header[at]}: found {text!r}, expected a number up to {VALUE_MAX:g}")
        return value

    def _time(self, text: str, line: int) -> int:
        try:
            if text.isdecimal() and DIGITS_MIN <= len(text) <= DIGITS_MAX:
                return int(text)
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise self._wrong(line, f"exposed: found {text!r}, expected a time, ms since 1970 or nothing") from None
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)

    def _wrong(self, line: int, said: str) -> SettingsError:
        return SettingsError(f"{self._path}:{line}: {said}")
