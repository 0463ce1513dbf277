"""Where a block of rows ends.

A block on the wire has no length: its end follows from its column types. It is walked, never decoded: the engine gets
the client's own bytes (decoding and encoding again lost the precision of DateTime64).
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from pipeline.embedded.native.faults import ServerError
from pipeline.embedded.native.wire import ByteReader

_COLUMNS_MAX: Final = 10_000
_NAME_BYTES_MAX: Final = 1 << 20
_SIZES: Final = {
    **dict.fromkeys(("UInt8", "Int8", "Bool", "Enum8", "Nothing"), 1),
    **dict.fromkeys(("UInt16", "Int16", "Enum16", "Date", "BFloat16"), 2),
    **dict.fromkeys(("UInt32", "Int32", "Float32", "DateTime", "Date32", "IPv4", "Decimal32", "Time"), 4),
    **dict.fromkeys(("UInt64", "Int64", "Float64", "DateTime64", "Decimal64", "Time64"), 8),
    **dict.fromkeys(("UInt128", "Int128", "UUID", "IPv6", "Decimal128"), 16),
    **dict.fromkeys(("UInt256", "Int256", "Decimal256"), 32),
}
_ALIASES: Final = {
    "Point": "Tuple(Float64, Float64)",
    "Ring": "Array(Point)",
    "LineString": "Array(Point)",
    "Polygon": "Array(Ring)",
    "MultiLineString": "Array(LineString)",
    "MultiPolygon": "Array(Polygon)",
}
_NAMED: Final = re.compile(r"\s*(?:`(?:[^`\\]|\\.)*`|\w+)\s+(\S.*)", re.DOTALL)
_GLOBAL_DICTIONARY: Final = 1 << 8
_OWN_KEYS: Final = 1 << 9

Walk = Callable[[ByteReader, int], None]


class Column:
    """How to pass a column by: its prefix (state before the values), then its values, given their number."""

    def __init__(self, walk: Walk, prefix_bytes: int = 0) -> None:
        """Take the walk over the values and the size of the prefix."""
        self.walk = walk
        self.prefix_bytes = prefix_bytes


def skip_block(reader: ByteReader) -> tuple[int, int]:
    """Pass one block by (no block info before it); return (columns, rows).

    Raises ServerError 48 on a type whose length cannot be known here, 33 on numbers that cannot be.
    """
    columns, rows = reader.varint(), reader.varint()
    if columns > _COLUMNS_MAX or rows >= 1 << 40:
        raise ServerError(33, f"a block claims {columns} columns and {rows} rows", fatal=True)
    for _ in range(columns):
        reader.text(_NAME_BYTES_MAX)
        column = column_of(reader.text(_NAME_BYTES_MAX))
        if rows:
            reader.skip(column.prefix_bytes)
            column.walk(reader, rows)
    return columns, rows


@lru_cache(maxsize=4096)
def column_of(type_name: str) -> Column:
    """Read a type's name, such as `Array(LowCardinality(String))`. Raises ServerError 48 for one not known."""
    name, _, rest = type_name.strip().partition("(")
    arguments = _split(rest[:-1]) if rest else []
    if name in _ALIASES:
        return column_of(_ALIASES[name])
    if name.startswith("Interval"):
        return _fixed(8)
    if name in _SIZES:
        return _fixed(_SIZES[name])
    if name in _COMPOSITE:
        return _COMPOSITE[name](arguments)
    raise ServerError(
        48,
        f"type {type_name} cannot be inserted through the embedded warehouse (its length on the wire is unknown)",
        fatal=True,
    )


def _split(arguments: str) -> list[str]:
    """Split at the commas of the outermost level.

    >>> _split("a Map(String, UInt8), Enum8('x, (' = 1)")
    ['a Map(String, UInt8)', "Enum8('x, (' = 1)"]
    """
    parts, depth, start, quoted, at = [], 0, 0, "", 0
    while at < len(arguments):
        letter = arguments[at]
        if quoted:
            if letter == "\\":
                at += 1
            elif letter == quoted:
                quoted = ""
        elif letter in "'`":
            quoted = letter
        elif letter in "()":
            depth += 1 if letter == "(" else -1
        elif letter == "," and not depth:
            parts.append(arguments[start:at].strip())
            start = at + 1
        at += 1
    return [*parts, arguments[start:].strip()]


def _fixed(size: int) -> Column:
    return Column(lambda reader, rows: reader.skip(rows * size))


def _fixed_string(arguments: list[str]) -> Column:
    return _fixed(int(arguments[0]))


def _decimal(arguments: list[str]) -> Column:
    digits = int(arguments[0])
    return _fixed(next(size for most, size in ((9, 4), (18, 8), (38, 16), (76, 32)) if digits <= most))


def _nullable(arguments: list[str]) -> Column:
    inner = column_of(arguments[0])

    def walk(reader: ByteReader, rows: int) -> None:
        reader.skip(rows)
        inner.walk(reader, rows)

    return Column(walk, inner.prefix_bytes)


def _array(arguments: list[str]) -> Column:
    return _array_of(column_of(arguments[0]))


def _array_of(inner: Column) -> Column:
    def walk(reader: ByteReader, rows: int) -> None:
        if rows:
            reader.skip((rows - 1) * 8)
            inner.walk(reader, reader.u64())

    return Column(walk, inner.prefix_bytes)


def _tuple(arguments: list[str]) -> Column:
    columns = [column_of(_without_name(argument)) for argument in arguments]

    def walk(reader: ByteReader, rows: int) -> None:
        for column in columns:
            column.walk(reader, rows)

    return Column(walk, sum(column.prefix_bytes for column in columns))


def _map(arguments: list[str]) -> Column:
    return _array_of(_tuple(arguments))


def _simple_aggregate(arguments: list[str]) -> Column:
    return column_of(arguments[-1])


def _low_cardinality(arguments: list[str]) -> Column:
    name = arguments[0]
    # The dictionary holds plain values; NULL is its first one.
    keys = column_of(name[len("Nullable(") : -1] if name.startswith("Nullable(") else name)

    def walk(reader: ByteReader, rows: int) -> None:
        left = rows
        while left > 0:
            flags = reader.u64()
            if flags & _GLOBAL_DICTIONARY or not flags & _OWN_KEYS:
                raise ServerError(48, "a shared LowCardinality dictionary is not supported", fatal=True)
            keys.walk(reader, reader.u64())
            count = reader.u64()
            if not count:
                raise ServerError(33, "a LowCardinality column holds fewer values than its block", fatal=True)
            reader.skip(count << (flags & 0xFF))
            left -= count

    return Column(walk, 8)


def _string(_: list[str]) -> Column:
    return Column(lambda reader, rows: reader.skip_strings(rows))


def _without_name(argument: str) -> str:
    found = _NAMED.fullmatch(argument)
    return found[1] if found else argument


_COMPOSITE: Final[dict[str, Callable[[list[str]], Column]]] = {
    "String": _string,
    "FixedString": _fixed_string,
    "Decimal": _decimal,
    "Nullable": _nullable,
    "Array": _array,
    "Tuple": _tuple,
    "Map": _map,
    "Nested": _map,
    "LowCardinality": _low_cardinality,
    "SimpleAggregateFunction": _simple_aggregate,
}
