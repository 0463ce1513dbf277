"""A disk without a byte left, and a change of the tables: the one thing that a full disk must not meet."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import tables
from pipeline.edge.clickhouse import Unavailable, Warehouse
from tests.agents.rig import until
from tests.faults.plant import SmallWarehouse, can_mount
from tests.faults.scenarios import fill
from tests.journeys.rig import free_ports

DISK_MB = 96
KEPT_DAYS = 400


@contextmanager
def small_warehouse(folder: Path) -> Iterator[SmallWarehouse]:
    found = SmallWarehouse(folder, free_ports(1)[0], DISK_MB)
    try:
        until(found.answers, "the warehouse answers", 180)
        yield found
    finally:
        found.stop()


def descriptions(small: SmallWarehouse) -> dict[str, int]:
    """Each table's description as it lies on the disk, with its bytes."""
    return {path.stem: path.stat().st_size for path in small.disk.glob("store/*/*/*.sql")}


def test_on_a_full_disk_no_table_is_made_or_changed(tmp_path: Path) -> None:
    """ClickHouse would write an empty description, answer that all is well, and never start again."""
    if not can_mount(tmp_path):
        pytest.skip("no mount namespace to be had here")
    with small_warehouse(tmp_path / "small") as small, Warehouse.from_url(small.url) as warehouse:
        made = {difference.table for difference in tables.apply(warehouse, KEPT_DAYS)}
        whole = descriptions(small)
        assert made == whole.keys()
        fill(small.disk / "ballast")
        with pytest.raises(Unavailable, match=r"disk 'default' has [0-9,]+ bytes left, expected 16,777,216 or more"):
            tables.apply(warehouse, KEPT_DAYS + 1)
        assert descriptions(small) == whole
        (small.disk / "ballast").unlink()
        assert tables.apply(warehouse, KEPT_DAYS + 1)
        assert tables.differences(warehouse, KEPT_DAYS + 1) == []
        assert min(descriptions(small).values()) > 0
