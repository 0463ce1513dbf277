"""Faults of the native protocol, as ClickHouse numbers them."""

import re
from typing import Final

UNKNOWN_EXCEPTION: Final = 1002
_ENGINE_TEXT: Final = re.compile(r"Code: (\d+)\. (DB::.*)", re.DOTALL)


class ServerError(Exception):
    """A refusal that the client is told.

    code: ClickHouse's error code. fatal: the place in the byte stream is lost, so the connection ends after it.
    """

    def __init__(self, code: int, text: str, fatal: bool = False) -> None:
        super().__init__(f"DB::Exception: {text}" if not text.startswith("DB::") else text)
        self.code = code
        self.fatal = fatal


class ClientGone(Exception):
    """The client closed its end or the connection broke: there is nobody left to tell."""


def from_engine(error: Exception) -> ServerError:
    """Read code and text out of what the engine raised.

    >>> fault = from_engine(RuntimeError("Streaming query failed: Code: 60. DB::Exception: Unknown table"))
    >>> fault.code, str(fault)
    (60, 'DB::Exception: Unknown table')
    """
    found = _ENGINE_TEXT.search(str(error))
    if found is None:
        return ServerError(UNKNOWN_EXCEPTION, str(error))
    return ServerError(int(found[1]), found[2])
