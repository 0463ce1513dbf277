"""What a statement is, read from its tokens: what the protocol has to treat apart, the engine parses the rest."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pipeline.embedded.native.faults import ServerError

_TOKEN: Final = re.compile(
    r"""
    (?P<gap>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/)
  | (?P<quoted>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`|(?P<tag>\$\w*\$).*?(?P=tag))
  | (?P<word>[^\W\d]\w*)
  | (?P<other>\d[\w.]*|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_READS: Final = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "FROM", "("})


class Kind(Enum):
    """How the session has to treat a statement."""

    READ = "read"
    """Returns rows, streamed block by block."""
    COMMAND = "command"
    """Changes something; may return a few rows."""
    INSERT = "insert"
    """Rows follow from the client."""
    KILL = "kill"
    """KILL QUERY, answered here because the engine does not know the clients' query ids."""
    SET = "set"
    USE = "use"


@dataclass(frozen=True)
class Statement:
    """A statement as the engine shall get it.

    sql: without a FORMAT clause (the wire has one format) and, for INSERT, up to the list of columns.
    rest: INSERT: what stood between the columns and VALUES, such as SETTINGS.
    target: INSERT: table or `FUNCTION f(…)`; KILL: the condition; USE: the database.
    columns: names that an INSERT lists; () = all.
    mode: KILL: SYNC, ASYNC or TEST.
    """

    kind: Kind
    sql: str
    target: str = ""
    columns: tuple[str, ...] = ()
    mode: str = "ASYNC"
    rest: str = ""


@dataclass(frozen=True)
class Token:
    """A word, quoted piece or sign with its place and the depth of parentheses around it."""

    text: str
    start: int
    end: int
    depth: int
    is_word: bool

    @property
    def upper(self) -> str:
        """The word in capitals; "" for what is no word, so that a quoted keyword is none."""
        return self.text.upper() if self.is_word else ""


def tokens_of(sql: str) -> list[Token]:
    """Cut a statement into tokens; spaces and comments are left out.

    >>> [token.text for token in tokens_of("SELECT 'a--b' /* no */ FROM t -- end")]
    ['SELECT', "'a--b'", 'FROM', 't']
    """
    tokens, depth = [], 0
    for found in _TOKEN.finditer(sql):
        if found["gap"] is not None:
            continue
        text = found[0]
        if text in ("(", "[", "{"):
            tokens.append(Token(text, found.start(), found.end(), depth, False))
            depth += 1
            continue
        if text in (")", "]", "}"):
            depth -= 1
        tokens.append(Token(text, found.start(), found.end(), depth, found["word"] is not None))
    return tokens


def read_statement(sql: str) -> Statement:
    """Say what a statement is.

    Raises ServerError 62 when there is none, 358 for INTO OUTFILE (it would write on the server's side).
    """
    tokens = tokens_of(sql)
    while tokens and tokens[-1].text == ";":
        tokens.pop()
    if not tokens:
        raise ServerError(62, "Syntax error: the query is empty. (SYNTAX_ERROR)")
    sql = sql[: tokens[-1].end]
    words = [token.upper for token in tokens]
    if words[0] == "INSERT":
        return _read_insert(sql, tokens)
    if words[:2] == ["KILL", "QUERY"] and "WHERE" in words:
        return _read_kill(sql, tokens)
    if words[0] == "SET" and words[1:2] not in (["DEFAULT"], ["ROLE"]):
        return Statement(Kind.SET, sql)
    if words[0] == "USE" and len(tokens) >= 2:
        return Statement(Kind.USE, sql, target=sql[tokens[-1].start : tokens[-1].end])
    if words[0] in _READS or tokens[0].text == "(":
        return Statement(Kind.READ, _without_format(sql, tokens))
    return Statement(Kind.COMMAND, _without_format(sql, tokens))


@dataclass(frozen=True)
class Shown:
    """How a statement that runs shows in system.processes: the engine has another id for it.

    waiting: an INSERT whose client still sends rows; the engine does not know of it yet.
    """

    tag: str
    query_id: str
    sql: str
    waiting: bool
    elapsed_s: float


def show_query_ids(sql: str, running: Sequence[Shown]) -> str:
    """Make `system.processes` show what runs as the clients know it."""
    if "processes" not in sql or not running:
        return sql
    tokens = tokens_of(sql)
    for at in range(len(tokens) - 1, 1, -1):
        if [token.text for token in tokens[at - 2 : at + 1]] == ["system", ".", "processes"]:
            sql = sql[: tokens[at - 2].start] + _processes(running) + sql[tokens[at].end :]
    return sql


def quote(value: str) -> str:
    """Write a string literal.

    >>> quote("it's")
    "'it\\\\'s'"
    """
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _processes(running: Sequence[Shown]) -> str:
    named = [one for one in running if one.query_id and not one.waiting]
    tags, ids = (
        ", ".join(quote(value) for value in values)
        for values in ([one.tag for one in named] or [""], [one.query_id for one in named] or [""])
    )
    shown = f"transform(Settings['{TAG_SETTING}'], [{tags}], [{ids}], query_id)"
    known = f"SELECT * REPLACE ({shown} AS query_id, {shown} AS initial_query_id) FROM system.processes"  # noqa: S608
    waiting = ", ".join(
        f"({quote(one.query_id)}, {quote(one.sql)}, {quote(one.tag)}, {one.elapsed_s:.3f})"
        for one in running
        if one.waiting
    )
    if not waiting:
        return f"({known})"
    # The row of the asking query itself lends the other columns; there is always one.
    rows = f"SELECT *, arrayJoin([{waiting}]) AS w FROM (SELECT * FROM system.processes LIMIT 1)"  # noqa: S608
    replaced = (
        f"w.1 AS query_id, w.1 AS initial_query_id, w.2 AS query, 'Insert' AS query_kind, w.4 AS elapsed, "
        f"map('{TAG_SETTING}', w.3) AS Settings"
    )
    return f"({known} UNION ALL SELECT * EXCEPT (w) REPLACE ({replaced}) FROM ({rows}))"  # noqa: S608


TAG_SETTING: Final = "chdb_client_name"
"""Setting that carries a session's tag into system.processes; the engine uses it for remote() only."""


def _without_format(sql: str, tokens: list[Token]) -> str:
    """Cut `FORMAT name` out: over the native protocol a server leaves formats to the client."""
    for at in range(len(tokens) - 1, 0, -1):
        token = tokens[at]
        if token.depth == 0 and token.upper == "OUTFILE" and tokens[at - 1].upper == "INTO":
            raise ServerError(358, "INTO OUTFILE is not allowed over the native protocol. (INTO_OUTFILE_NOT_ALLOWED)")
        follows = tokens[at + 1] if at + 1 < len(tokens) else None
        ends = at + 2 == len(tokens) or (at + 2 < len(tokens) and tokens[at + 2].upper == "SETTINGS")
        # `format` is also an alias or a column: it is the clause only where nothing but SETTINGS follows its name.
        if token.depth == 0 and token.upper == "FORMAT" and follows is not None and follows.is_word and ends:
            return sql[: token.start] + sql[follows.end :]
    return sql


def _read_insert(sql: str, tokens: list[Token]) -> Statement:
    at = 1
    while at < len(tokens) and tokens[at].upper in ("INTO", "TABLE"):
        at += 1
    first = at
    is_function = at < len(tokens) and tokens[at].upper == "FUNCTION"
    at = _after_name(tokens, at + is_function)
    if is_function:
        at = _after_parentheses(tokens, at)
    if at > len(tokens):
        return Statement(Kind.COMMAND, sql)  # no table: the engine says what is wrong
    target = sql[tokens[first].start : tokens[at - 1].end]
    columns: tuple[str, ...] = ()
    if at < len(tokens) and tokens[at].text == "(":
        end = _after_parentheses(tokens, at)
        columns = _names(sql[tokens[at].end : tokens[end - 1].start])
        at = end
    return _rest_of_insert(sql, tokens, at, target, columns)


def _rest_of_insert(sql: str, tokens: list[Token], at: int, target: str, columns: tuple[str, ...]) -> Statement:
    head_end = tokens[at - 1].end
    for place in range(at, len(tokens)):
        token = tokens[place]
        if token.depth or token.upper not in ("VALUES", "FORMAT", "SELECT", "WITH", "FROM", "WATCH", "EXPLAIN"):
            continue
        ends = place + (2 if token.upper == "FORMAT" else 1) >= len(tokens)
        if token.upper in ("VALUES", "FORMAT") and ends:
            rest = sql[head_end : token.start].strip()
            return Statement(Kind.INSERT, sql[:head_end], target, columns, rest=rest)
        if [one.upper for one in tokens[place : place + 2]] == ["FROM", "INFILE"]:
            raise ServerError(78, "FROM INFILE reads a file of the client's; send its rows. (UNKNOWN_TYPE_OF_QUERY)")
        return Statement(Kind.COMMAND, sql)
    if at < len(tokens) and tokens[at].text == "(":
        return Statement(Kind.COMMAND, sql)
    return Statement(Kind.INSERT, sql[:head_end], target, columns, rest=sql[head_end:].strip())


def _after_name(tokens: list[Token], at: int) -> int:
    at += 1
    while at + 1 < len(tokens) and tokens[at].text == ".":
        at += 2
    return at


def _after_parentheses(tokens: list[Token], at: int) -> int:
    depth = tokens[at].depth if at < len(tokens) else 0
    for place in range(at + 1, len(tokens)):
        if tokens[place].text == ")" and tokens[place].depth == depth:
            return place + 1
    raise ServerError(62, "Syntax error: a parenthesis is not closed. (SYNTAX_ERROR)")


def _names(text: str) -> tuple[str, ...]:
    return tuple(
        token.text[1:-1] if token.text[0] in '`"' else token.text for token in tokens_of(text) if token.text != ","
    )


def _read_kill(sql: str, tokens: list[Token]) -> Statement:
    where = next(token for token in tokens if token.upper == "WHERE")
    mode, end = "ASYNC", len(sql)
    for token in tokens:
        if token.start > where.start and token.depth == 0 and token.upper in ("SYNC", "ASYNC", "TEST", "FORMAT"):
            mode = token.upper if token.upper != "FORMAT" else mode
            end = min(end, token.start)
    return Statement(Kind.KILL, sql, target=sql[where.end : end].strip(), mode=mode)
