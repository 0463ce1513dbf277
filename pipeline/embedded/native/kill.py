"""KILL QUERY under the clients' own query ids, which the engine does not know."""

from typing import Final

from pipeline.embedded.native.engine import Engine
from pipeline.embedded.native.faults import ServerError
from pipeline.embedded.native.packets import header_block, string_block
from pipeline.embedded.native.running import Running, RunningQueries, Stop
from pipeline.embedded.native.statement import TAG_SETTING, Statement, show_query_ids

_COLUMNS: Final = ["kill_status", "query_id", "user", "query"]
_WAIT_S: Final = 60.0


def kill_queries(engine: Engine, running: RunningQueries, statement: Statement) -> bytes:
    """Stop what the condition names and return the block that KILL QUERY answers with.

    SYNC waits until each has ended, a minute at most (then ServerError 159). TEST stops nothing.
    """
    session = engine.session("herald-kill")
    try:
        source = show_query_ids("system.processes", running.shown())
        found = session.rows(
            f"SELECT query_id, user, query, Settings['{TAG_SETTING}'] FROM {source} "  # noqa: S608
            f"WHERE ({statement.target}\n) AND Settings['{TAG_SETTING}'] != 'herald-kill'"
        )
    finally:
        session.close()
    rows: list[list[str]] = []
    for query_id, user, query, tag in found:
        if statement.mode != "TEST":
            stopped = running.kill(str(tag), Stop.BY_KILL)
            if statement.mode == "SYNC" and stopped is not None:
                _wait(stopped)
        status = {"SYNC": "finished", "TEST": "unknown_status"}.get(statement.mode, "waiting")
        rows.append([status, str(query_id), str(user), str(query)])
    if not rows:
        return header_block([(name, "String") for name in _COLUMNS])
    return string_block(_COLUMNS, rows)


def _wait(running: Running) -> None:
    if not running.ended.wait(_WAIT_S):
        raise ServerError(159, f"query {running.query_id or running.tag} has not ended {_WAIT_S:.0f} s after its KILL")
