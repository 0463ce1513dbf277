"""Heads that were read before: a client sends the same header lines again and again, so they are read once.

What a head means says llhttp alone. What it has taken is remembered by its very bytes, and where the same bytes come
again nothing is left to find out but the request's target and the length of its body.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

HEADS_MAX: Final = 1_024
LINES_BYTES_MAX: Final = 2_048
LINES_MAX: Final = 32
"""Of one head that is remembered: all together take some 10 MiB at most, and mostly 2."""
MISSES_MAX: Final = 4
"""So many new heads in a row, and a connection's next ones are not looked up: there are proxies that number them."""

_REQUEST_LINE = re.compile(rb"(GET|POST) (/[!-~]*) HTTP/1\.1(?=\r\n)")
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,9})(?=\r\n)")
_END: Final = b"\r\n\r\n"


class Parts(Struct, frozen=True):
    """A head in its parts. lines: without that of the body's length. length: None where none is stated. size: bytes."""

    method: str
    target: str
    lines: bytes
    length: int | None
    size: int


class Known(Struct, frozen=True):
    """What header lines say, all without content-length. lines: how many. notes: the application's own, see `Head`."""

    headers: Mapping[str, str]
    lines: int
    notes: dict[str, Any]


def split(data: bytes) -> Parts | None:
    """Return the head that data begins with; None where it is not whole, or anything but the plainest of requests."""
    start = _REQUEST_LINE.match(data)
    end = data.find(_END)
    if start is None or not 0 <= end - start.end() <= LINES_BYTES_MAX:
        return None
    lines, length = data[start.end() : end], None
    stated = _LENGTH.search(data, start.end(), end + 2)
    if stated is not None:
        lines, length = data[start.end() : stated.start()] + data[stated.end() : end], int(stated[1])
    return Parts(start[1].decode(), start[2].decode(), lines, length, end + len(_END))


class Heads:
    """The heads seen last, HEADS_MAX of them. To find one takes no longer the more of a guess is right.

    (A dict compares hashes first, and those of bytes are keyed anew in every process: lines may hold secrets.)
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, lines: bytes) -> Known | None:
        """Return what these lines say, None where they are new."""
        known = self._known.get(lines)
        if known is not None:
            self._known.move_to_end(lines)
        return known

    def put(self, lines: bytes, known: Known) -> None:
        """Remember lines; those not seen for the longest time are forgotten."""
        self._known[lines] = known
        if len(self._known) > HEADS_MAX:
            self._known.popitem(last=False)
