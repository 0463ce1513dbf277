"""How requests are spelt: names of headers, and letters beyond ASCII in the request line."""

import re
from typing import Final

NAMES: Final = {
    spelt.encode(): name
    for name in (
        "host", "user-agent", "accept", "accept-encoding", "accept-language", "connection", "content-type", "referer",
        "content-length", "content-encoding", "origin", "cookie", "authorization", "x-write-key", "x-forwarded-for",
        "x-forwarded-proto", "x-herald-key", "dnt", "sec-gpc", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest",
    )
    for spelt in (name, name.title())
}  # fmt: skip
"""The usual names as they are mostly spelt: a look-up costs less than making them anew for each request."""

_RAW_BYTES = re.compile(rb"[\x80-\xff]")


def escaped(data: bytes) -> bytes:
    """Percent-encode a request line's raw bytes, as browsers do: some scripts send letters beyond ASCII unescaped."""
    line, separator, rest = data.partition(b"\r\n")
    if line.isascii():
        return data
    return _RAW_BYTES.sub(lambda found: b"%%%02X" % found[0][0], line) + separator + rest
