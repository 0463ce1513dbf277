"""Read a web server's access log, line by line: the common and the combined format of Apache and nginx.

The door for history: a replay turns old log lines into pageviews. What does not parse is counted by the caller.
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Final

import msgspec

LINE_CHARS_MAX: Final = 65_536

_TEXT: Final = r'"([^"\\]*+(?>(?:\\.[^"\\]*+)*))'
_LINE = re.compile(
    r"(\S+) \S+ (?:\S+|\S.*?) \[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d):(\d\d) ([+-]\d{4})\] "
    + _TEXT
    + r'" (\d{3}) (\d+|-)(?: '
    + _TEXT
    + '" '
    + _TEXT
    + r'(?:"|\Z))?(?: .*)?\s*\Z',  # a server that ran out of disk cuts the last field
    re.DOTALL,
)
_REQUEST = re.compile(r"([A-Z][A-Z_-]*) (.*?)(?: (HTTP/\d(?:\.\d)?))?\Z", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_NAMED: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v"}
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class AccessLine(msgspec.Struct, frozen=True, gc=False):
    """One request. What the log writes as "-" is "".

    host: client's address or name. event_time_ms: Unix time of the request in ms (the log has whole seconds).
    method, protocol: "" when the request line was empty or no HTTP; target then holds it as it came.
    target: path and query as sent. body_bytes: size of the answer, 0 for "-".
    referrer, user_agent: "" in the common format, which has neither.
    """

    host: str
    event_time_ms: int
    method: str
    target: str
    protocol: str
    status: int
    body_bytes: int
    referrer: str = ""
    user_agent: str = ""


def read_access_line(line: str) -> AccessLine | None:
    """Parse one line, with or without its line end; fields after the user agent are not read.

    Returns None for what is no access line. Raises nothing.
    Source: Apache mod_log_config ("%h %l %u %t \\"%r\\" %>s %b"), nginx ngx_http_log_module (combined).
    """
    found = _LINE.match(line) if len(line) <= LINE_CHARS_MAX else None
    if found is None:
        return None
    host, minute, second, zone, request, status, size, referrer, user_agent = found.groups()
    minute_ms = _minute_ms(minute, zone)
    if minute_ms is None or int(second) > 60:  # 60: a leap second
        return None
    method, target, protocol = _read_request(_read_text(request))
    return AccessLine(
        host=host,
        event_time_ms=minute_ms + int(second) * 1_000,
        method=method,
        target=target,
        protocol=protocol,
        status=int(status),
        body_bytes=0 if size == "-" else int(size),
        referrer=_read_text(referrer),
        user_agent=_read_text(user_agent),
    )


@lru_cache(maxsize=1_024)
def _minute_ms(minute: str, zone: str) -> int | None:
    """Unix ms of "17/May/2015:10:05" in zone "+0100"; None when there is no such minute."""
    day, month, rest = minute.split("/")
    year, hour, minutes = rest.split(":")
    try:
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:]))
        tz = timezone(-offset if zone[0] == "-" else offset)
        at = datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minutes), tzinfo=tz)
    except ValueError:  # the 31st of June, a month in another language: expected bad data
        return None
    return (at - _EPOCH) // timedelta(milliseconds=1)


def _read_request(text: str) -> tuple[str, str, str]:
    found = _REQUEST.match(text)
    return (found[1], found[2], found[3] or "") if found else ("", text, "")


def _read_text(text: str | None) -> str:
    if text is None or text == "-":
        return ""
    return _unescape(text) if "\\" in text else text


def _unescape(text: str) -> str:
    r"""Undo the servers' escapes: \" and \\, \n and its like, \xhh (bytes, read as UTF-8).

    >>> _unescape(r"a\"b \xc3\xa9")
    'a"b é'
    """
    if "\\x" not in text:
        return _ESCAPE.sub(lambda found: _NAMED.get(found[2], found[2]), text)
    raw = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _NAMED.get(found[2], found[2]), text)
    try:
        return raw.encode("latin-1").decode("utf-8", "replace")
    except UnicodeEncodeError:  # the line mixes escaped bytes and letters beyond Latin-1: keep each as it is
        return raw
