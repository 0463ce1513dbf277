"""Query strings, split by hand: `parse_qsl` costs more than the rest of a pixel request together."""

from urllib.parse import unquote_plus

PAIRS_MAX = 256

COMMON = (("%3A", ":"), ("%2F", "/"), ("%3a", ":"), ("%2f", "/"))
"""The escapes of an address, mostly its only ones. No part of another escape can come of them, so they may go first."""

_ASCII = {f"{code:02{case}}": chr(code) for code in range(128) for case in "xX"}


def unquote_fast(text: str) -> str:
    """Return `unquote_plus(text)`, several times faster where all that is escaped is ASCII.

    >>> unquote_fast("https%3A%2f%2Fx.y+z"), unquote_fast("%C3%A9%zz%")
    ('https://x.y z', 'é%zz%')
    """
    plain = text.replace("+", " ")
    for escape, letter in COMMON:
        if "%" not in plain:
            return plain
        plain = plain.replace(escape, letter)
    first, *rest = plain.split("%")
    parts = [first]
    for part in rest:
        char = _ASCII.get(part[:2])
        if char is None:  # beyond ASCII, or no escape at all: the library knows how
            return unquote_plus(text)
        parts.append(char)
        parts.append(part[2:])
    return "".join(parts)


def read_query(query: str) -> dict[str, str]:
    """Return the pairs of a query string, decoded; the last of several equal names wins, past PAIRS_MAX none is read.

    Bytes that are no UTF-8 become U+FFFD. Raises nothing.

    >>> read_query("e=page&t=a%20b+c&empty=&flag")
    {'e': 'page', 't': 'a b c', 'empty': '', 'flag': ''}
    """
    found: dict[str, str] = {}
    for pair in query.split("&", PAIRS_MAX)[:PAIRS_MAX]:
        name, _, value = pair.partition("=")
        if name:
            if "%" in name or "+" in name:
                name = unquote_fast(name)
            found[name] = unquote_fast(value) if "%" in value or "+" in value else value
    return found
