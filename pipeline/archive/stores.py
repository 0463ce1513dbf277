"""The stores that a copy needs: those that answer, or the embedded ones, started for as long as it takes."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline import parts, up
from pipeline.archive import log
from pipeline.edge.clickhouse import Warehouse
from pipeline.embedded.warehouse import WarehouseConfig
from pipeline.errors import SettingsError
from pipeline.settings import Settings
from pipeline.supervisor import Supervisor


@contextmanager
def running(settings: Settings, console: Console, *, with_warehouse: bool = False) -> Iterator[None]:
    """Have the broker running, and the warehouse where it is wanted and has something: the embedded ones if need be.

    Raises EmbeddedError or PartFailed where they cannot be started.
    """
    has_rows = bool(settings.clickhouse_url) or WarehouseConfig(settings.data_dir).data_path.exists()
    names = {"broker", "warehouse"} if with_warehouse and has_rows else {"broker"}
    missing = [part for part in parts.stores(settings) if part.name in names and not part.is_ready()]
    supervisor = Supervisor(settings)
    try:
        if missing:
            up.prepare(settings, console)
            with console.status("starting " + " and ".join(part.name for part in missing)):
                supervisor.start(missing)
        yield
    finally:
        supervisor.stop()


def need_unused(settings: Settings) -> None:
    """Raise SettingsError where a generation is in use: a stage has begun with it, or its database has blocks.

    Blocks that come to stand under names that are known there would be taken for those. Raises Retryable.
    """
    used = log.used_topics(settings)
    if used:
        raise SettingsError(
            f"generation {settings.generation} is in use: {', '.join(used)} hold something; expected nothing but "
            "`collected`. Choose another one with --to-generation"
        )
    embedded = not settings.clickhouse_url
    if embedded and not WarehouseConfig(settings.data_dir).data_path.exists():
        return
    blocks = _ledger_blocks(settings)
    if blocks:
        raise SettingsError(
            f"the warehouse's database {settings.warehouse_database} knows {blocks} blocks of another log; expected an "
            "empty one. Choose another generation with --to-generation"
        )


def _ledger_blocks(settings: Settings) -> int:
    database = settings.warehouse_database
    with Warehouse.from_url(settings.first_warehouse_url) as warehouse:
        sql = "SELECT count() FROM system.tables WHERE database = %(database)s AND name = 'blocks'"
        if warehouse.execute(sql, {"database": database}) == [(0,)]:
            return 0
    with Warehouse.from_url(settings.warehouse_url) as warehouse:
        return int(str(warehouse.execute("SELECT count() FROM blocks")[0][0]))


def progress(console: Console) -> Progress:
    """Return a bar of blocks."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )


def settings_line(settings: Settings) -> str:
    """Return the settings that name a generation, as one types them."""
    return f"HERALD_GENERATION={settings.generation} HERALD_PARTITIONS={settings.partitions}"
