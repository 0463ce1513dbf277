"""Logging: one line a message, for people on a terminal, as JSON everywhere else."""

import json
import logging
import sys
from datetime import UTC, datetime

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


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def set_up(level: str) -> None:
    """Send all logs to standard error; what other libraries say about routine matters is left out."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextLines() if sys.stderr.isatty() else JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("faust", "mode", "aiokafka", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    # These tell of every attempt to connect, with a traceback; what it means for us we say ourselves.
    for chatty in ("kafka", "clickhouse_driver.connection"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL if level != "DEBUG" else logging.DEBUG)
