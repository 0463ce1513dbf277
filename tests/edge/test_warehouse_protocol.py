"""Where a block of rows ends and what a statement is: the pure half of the embedded warehouse's protocol."""

import contextlib
from datetime import datetime
from decimal import Decimal
from io import BytesIO
from types import SimpleNamespace
from uuid import UUID

import pytest
from clickhouse_cityhash.cityhash import CityHash128  # type: ignore[import-untyped]
from clickhouse_driver.block import ColumnOrientedBlock
from clickhouse_driver.bufferedwriter import BufferedSocketWriter
from clickhouse_driver.context import Context
from clickhouse_driver.streams.native import BlockOutputStream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.embedded.native.answer import blocks_of
from pipeline.embedded.native.blocks import skip_block
from pipeline.embedded.native.faults import ServerError
from pipeline.embedded.native.statement import Kind, read_statement
from pipeline.embedded.native.wire import ByteReader, compress, read_frame, text, varint


def test_another_compression_than_lz4_is_refused_by_name() -> None:
    """The driver offers zstd too; its frames cannot be read here."""
    frame = b"\x90" + (12).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    good = compress(b"abc")
    assert read_frame(reader_of([good])) == b"abc"
    with pytest.raises(ServerError) as damaged:
        read_frame(reader_of([good[:-1] + b"x"]))
    assert damaged.value.code == 40
    with pytest.raises(ServerError) as other:
        read_frame(reader_of([checksum(frame) + frame]))
    assert other.value.code == 89


# --- where a block ends -------------------------------------------------------------------------------------------


def reader_of(pieces: list[bytes]) -> ByteReader:
    """Return a reader over bytes that come in these pieces."""
    rest = iter([piece for piece in pieces if piece])

    def refill() -> bytes:
        piece = next(rest, b"")
        if not piece:
            raise EOFError
        return piece

    return ByteReader(refill)


def checksum(frame: bytes) -> bytes:
    """Return the checksum as the wire has it."""
    value = int(CityHash128(frame))
    return (value >> 64).to_bytes(8, "little") + (value & (2**64 - 1)).to_bytes(8, "little")


class _Sent:
    """A socket that only remembers what was sent."""

    def __init__(self) -> None:
        self.data = BytesIO()

    def sendall(self, data: bytes) -> None:
        """Remember."""
        self.data.write(bytes(data))


def encoded(columns: list[tuple[str, str]], values: list[list[object]]) -> bytes:
    """Let the driver encode a block, as it would at revision 51902: without block info."""
    context = Context()
    context.server_info = SimpleNamespace(used_revision=51902, get_timezone=lambda: "UTC")
    context.settings, context.client_settings = (
        {},
        {
            "strings_as_bytes": False,
            "strings_encoding": "utf-8",
            "use_numpy": False,
            "input_format_null_as_default": False,
            "opentelemetry_traceparent": None,
            "server_side_params": False,
        },
    )
    sent = _Sent()
    BlockOutputStream(BufferedSocketWriter(sent, 1 << 16), context).write(ColumnOrientedBlock(columns, values))
    return sent.data.getvalue()


LEAVES = {
    "UInt8": st.integers(0, 255),
    "Int64": st.integers(-(2**63), 2**63 - 1),
    "Float64": st.floats(allow_nan=False),
    "Decimal(18, 3)": st.integers(-(10**14), 10**14).map(lambda n: Decimal(n) / 1000),
    "UUID": st.uuids(),
    "FixedString(7)": st.text("ab", max_size=7),
    "String": st.text(max_size=300),
    "Nullable(String)": st.none() | st.text(max_size=5),
    "LowCardinality(String)": st.sampled_from(["a", "b", "c" * 130]),
    "LowCardinality(Nullable(String))": st.sampled_from(["a", None]),
    "DateTime64(6)": st.just(datetime(2026, 1, 2, 3, 4, 5, 6)),
    "Enum8('a, (' = 1, 'b' = -2)": st.sampled_from(["a, (", "b"]),
}


@st.composite
def columns(draw: st.DrawFn) -> tuple[list[tuple[str, str]], list[list[object]]]:
    """Columns of all our kinds, some nested, and as many values in each."""
    rows = draw(st.integers(1, 20))
    names, values = [], []
    for at in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(sorted(LEAVES)))
        leaf = LEAVES[kind]
        wraps = draw(st.lists(st.sampled_from(["Array", "Map", "Tuple"]), max_size=2, unique=True).map(sorted))
        # What the driver itself cannot do: a Map in a Map, quoted signs or an empty Tuple column within a container.
        for wrap in () if kind.startswith(("Enum8", "LowCardinality(Nullable")) else wraps:
            if wrap == "Array":
                kind, leaf = f"Array({kind})", st.lists(leaf, max_size=4)
            elif wrap == "Map":
                kind, leaf = f"Map(String, {kind})", st.dictionaries(st.text(max_size=9), leaf, max_size=3)
            else:
                kind, leaf = f"Tuple(a {kind}, `b c` UInt16)", st.tuples(leaf, st.integers(0, 9))
        names.append((f"c{at}", kind))
        values.append(draw(st.lists(leaf, min_size=rows, max_size=rows)))
    return names, values


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(columns(), st.lists(st.integers(1, 400), max_size=40))
def test_a_block_ends_where_its_encoder_ended(
    block: tuple[list[tuple[str, str]], list[list[object]]], cuts: list[int]
) -> None:
    """However the bytes are cut on the way, exactly the block is passed on, and what follows is left alone."""
    raw = encoded(*block)
    pieces, at = [], 0
    for cut in cuts:
        pieces.append((raw + b"NEXT")[at : at + cut])
        at += cut
    reader = reader_of([*pieces, (raw + b"NEXT")[at:]])
    passed: list[bytes] = []
    reader.tap(passed.append)
    assert skip_block(reader) == (len(block[0]), len(block[1][0]))
    reader.untap(keep=True)
    assert b"".join(passed) == raw
    assert reader.take(4) == b"NEXT"
    assert blocks_of(raw + raw, -1) == [(len(block[1][0]), raw)] * 2


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_block_end_in_a_refusal_or_in_waiting(garbage: bytes) -> None:
    """Never in another error, never in an endless loop."""
    with contextlib.suppress(ServerError, EOFError):
        skip_block(reader_of([garbage]))


@pytest.mark.parametrize("kind", ["AggregateFunction(sum, UInt8)", "JSON", "Dynamic", "Variant(UInt8, String)", "Nope"])
def test_a_type_of_unknown_length_is_refused_by_name(kind: str) -> None:
    """Code 48, because reading on at a guess would store garbage."""
    with pytest.raises(ServerError, match=kind.split("(")[0]) as caught:
        skip_block(reader_of([varint(1) + varint(1) + text("c") + text(kind)]))
    assert caught.value.code == 48


# --- what a statement is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "kind", "head", "names"),
    [
        ("INSERT INTO t VALUES", Kind.INSERT, "INSERT INTO t", ()),
        ("insert into db.`t x` (a, `b c`) values ;", Kind.INSERT, "insert into db.`t x` (a, `b c`)", ("a", "b c")),
        ("INSERT INTO t (a) SETTINGS x = 1 VALUES", Kind.INSERT, "INSERT INTO t (a)", ("a",)),
        ("INSERT INTO t FORMAT Native", Kind.INSERT, "INSERT INTO t", ()),
        ("INSERT INTO t /* VALUES (1) */ VALUES -- (2)", Kind.INSERT, "INSERT INTO t", ()),
        ("INSERT INTO FUNCTION null('a UInt8') VALUES", Kind.INSERT, "INSERT INTO FUNCTION null('a UInt8')", ()),
        ("INSERT INTO values VALUES", Kind.INSERT, "INSERT INTO values", ()),
        ("INSERT INTO t", Kind.INSERT, "INSERT INTO t", ()),
        ("INSERT INTO t VALUES (1)", Kind.COMMAND, "INSERT INTO t VALUES (1)", ()),
        ("INSERT INTO t (a) SELECT 1", Kind.COMMAND, "INSERT INTO t (a) SELECT 1", ()),
        ("SELECT 'INSERT INTO t VALUES'", Kind.READ, "SELECT 'INSERT INTO t VALUES'", ()),
        ("SELECT 1 FORMAT TSV", Kind.READ, "SELECT 1 ", ()),
        ("SELECT format FROM t", Kind.READ, "SELECT format FROM t", ()),
        ("/* x */ (SELECT 1)", Kind.READ, "/* x */ (SELECT 1)", ()),
        ("CREATE TABLE t (n UInt8)", Kind.COMMAND, "CREATE TABLE t (n UInt8)", ()),
        ("SET x = 1", Kind.SET, "SET x = 1", ()),
        ("USE db", Kind.USE, "USE db", ()),
    ],
)
def test_a_statement_is_recognised(sql: str, kind: Kind, head: str, names: tuple[str, ...]) -> None:
    """Comments, quotes and odd names do not mislead it."""
    statement = read_statement(sql)
    assert (statement.kind, statement.sql, statement.columns) == (kind, head, names)


@pytest.mark.parametrize(("sql", "code"), [("", 62), (" ; -- x", 62), ("SELECT 1 INTO OUTFILE 'x'", 358)])
def test_a_statement_that_cannot_be_is_refused(sql: str, code: int) -> None:
    """Before the engine sees it."""
    with pytest.raises(ServerError) as caught:
        read_statement(sql)
    assert caught.value.code == code


@settings(max_examples=300, deadline=None)
@given(st.text("INSERTVALUESFORMAT t()'`\"$;,.-/*\\\n1", max_size=60))
def test_no_text_breaks_the_reading_of_statements(sql: str) -> None:
    """It is told apart or refused; the engine says the rest."""
    for prefix in ("", "INSERT INTO ", "KILL QUERY WHERE "):
        with contextlib.suppress(ServerError):
            read_statement(prefix + sql)


def test_a_uuid_survives_the_block_walk() -> None:
    """A plain example beside the law: one UUID, sixteen bytes."""
    raw = encoded([("u", "UUID")], [[UUID(int=7)]])
    assert blocks_of(raw, 1) == [(1, raw)]
