"""Logging: one line a message, for people on a terminal, as JSON everywhere else."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

EVERY_S: Final = 10.0
KINDS_MAX: Final = 1_000
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a record; what was passed as `extra` becomes fields.

    CR, LF and ESC in texts are escaped by JSON.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        own = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "part": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            own["error"] = self.formatException(record.exc_info)
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD and key not in own}
        return json.dumps(own | extra, default=str)


class TextLines(logging.Formatter):
    """The same for a terminal; control characters are escaped so that a log line cannot write on the screen."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        extra = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD)
        clock = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        text = f"{clock} {record.levelname:<8}{record.name}: {record.getMessage()} {extra}".rstrip()
        error = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n".join(_printable(line) for line in [text, *error])


class OnceInAWhile(logging.Filter):
    """Lets libraries say the same thing once in EVERY_S seconds, and tells how often it was said meanwhile.

    aiokafka tells of every attempt to connect: while a broker is away that would be megabytes an hour for each worker,
    on a disk that nobody watches.
    """

    def __init__(self, libraries: tuple[str, ...]) -> None:
        """libraries: whose loggers, and all below them; others' records pass."""
        super().__init__()
        self._libraries = libraries
        self._said: dict[tuple[str, str], tuple[float, int]] = {}  # (logger, text before its values) -> (when, since)

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether to let a record through; of a repeated one the number of those left out becomes a field."""
        if record.name.partition(".")[0] not in self._libraries:
            return True
        key = (record.name, str(record.msg))
        said_s, left_out = self._said.get(key, (-EVERY_S, 0))
        if 0 <= record.created - said_s < EVERY_S:
            self._said[key] = (said_s, left_out + 1)
            return False
        if len(self._said) >= KINDS_MAX:  # a library that puts its values into the text itself
            self._said.clear()
        self._said[key] = (record.created, 0)
        if left_out:
            record.left_out = left_out
        return True


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def set_up(level: str) -> None:
    """Send all logs to standard error; what other libraries say about routine matters is left out."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextLines() if sys.stderr.isatty() else JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("faust", "mode", "aiokafka", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    if level != "DEBUG":
        handler.addFilter(OnceInAWhile(("aiokafka", "faust", "mode")))
    # These tell of every attempt to connect, with a traceback; what it means for us we say ourselves.
    for chatty in ("kafka", "clickhouse_driver.connection"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL if level != "DEBUG" else logging.DEBUG)
