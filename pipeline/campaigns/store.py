"""The store of the marketer's objects: what is there, and the one way in which it changes.

A change checks the version that its author has seen, then writes the object, its new version, who did it, and what the
topic is to be told, in one transaction: all of it, or nothing.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from pydantic import BaseModel
from sqlalchemy import Connection, Row, Select, and_, delete, exists, select, tuple_, update

from pipeline.campaigns import rules
from pipeline.campaigns.buckets import HOLDS_BUCKETS, allotted, kept
from pipeline.campaigns.database import Database
from pipeline.campaigns.groups import check_group
from pipeline.campaigns.refusals import Reason, Refused
from pipeline.campaigns.tables import AUDIT, LABELS, OBJECTS, OUTBOX, VERSIONS
from pipeline.core.json_diff import diff
from pipeline.edge import metrics
from schemas.campaign import PARENTS, Line, Placement, Status, Stored
from schemas.experiment import Experiment

PAGE_MAX: Final = 1_000
NEW: Final = 0
"""The version that is expected of an object that must not be there yet."""
EXPERIMENTS: Final = "experiments"


class Author(NamedTuple):
    """Who changes something. whence: network address, or where the command was typed."""

    name: str
    whence: str


@dataclass(frozen=True)
class Filter:
    """Which objects of a kind. labels: (name, value), all of which it must have; value None = any.

    parent: the id of its parent. after: only ids behind this one.
    """

    status: Status | None = None
    parent: str | None = None
    labels: tuple[tuple[str, str | None], ...] = ()
    after: str = ""


class Change(NamedTuple):
    """One line of the audit. seq: rises with time. what: create, change, "status …", "rollback …"."""

    seq: int
    at_ms: int
    who: str
    whence: str
    what: str
    kind: str
    id: str
    version: int


class Due(NamedTuple):
    """A version that the topic is still to be told of."""

    seq: int
    stored: Stored


class Store:
    """Everything that may be asked of the store. For any number of threads."""

    def __init__(self, database: Database, on_change: Callable[[], None] = lambda: None) -> None:
        """database: migrated. on_change: called after each transaction that changed something."""
        self.database = database
        self._on_change = on_change

    @contextmanager
    def changing(self, author: Author, now_ms: int) -> Iterator["Changes"]:
        """Have one transaction of changes: all of them are stored at the end of the block, or none.

        Raises what the block raises, and Retryable where the store is away; then nothing has changed.
        """
        with self.database.writing() as connection:
            changes = Changes(connection, author, now_ms)
            yield changes
        for kind, what in changes.made:
            metrics.CAMPAIGN_CHANGES.labels(kind, what).inc()
        if changes.made:
            self._on_change()

    def get(self, kind: str, key: str) -> Stored | None:
        """Return an object as it stands, None where there is none. Raises Retryable, as all that follow."""
        with self.database.reading() as connection:
            return _get(connection, kind, key)

    def page(self, kind: str, which: Filter, limit: int) -> list[Stored]:
        """Return objects in the order of their ids, so many at most."""
        query = _matching(kind, which).order_by(OBJECTS.c.id).limit(limit)
        with self.database.reading() as connection:
            return [_stored(row) for row in connection.execute(query)]

    def versions(self, kind: str, key: str, after: int = 0, limit: int = PAGE_MAX) -> list[Stored]:
        """Return an object's versions, the oldest first; [] where there is no such object."""
        found = select(VERSIONS).where(VERSIONS.c.kind == kind, VERSIONS.c.id == key, VERSIONS.c.version > after)
        with self.database.reading() as connection:
            return [_stored(row) for row in connection.execute(found.order_by(VERSIONS.c.version).limit(limit))]

    def version(self, kind: str, key: str, version: int) -> Stored | None:
        """Return one version of an object, None where there is none."""
        with self.database.reading() as connection:
            return _version(connection, kind, key, version)

    def audit(self, kind: str | None, key: str | None, after: int, limit: int) -> list[Change]:
        """Return who changed what, the oldest first. kind, key: None = any. after: a seq."""
        found = select(AUDIT).where(AUDIT.c.seq > after)
        if kind is not None:
            found = found.where(AUDIT.c.kind == kind)
        if key is not None:
            found = found.where(AUDIT.c.id == key)
        with self.database.reading() as connection:
            return [Change(*row) for row in connection.execute(found.order_by(AUDIT.c.seq).limit(limit))]

    def due(self, limit: int) -> list[Due]:
        """Return what the topic is still to be told of, in the order of the changes."""
        of_version = and_(
            OUTBOX.c.kind == VERSIONS.c.kind, OUTBOX.c.id == VERSIONS.c.id, OUTBOX.c.version == VERSIONS.c.version
        )
        found = select(OUTBOX.c.seq, VERSIONS).join(VERSIONS, of_version).order_by(OUTBOX.c.seq).limit(limit)
        with self.database.reading() as connection:
            return [Due(row.seq, _stored(row)) for row in connection.execute(found)]

    def told(self, due: Sequence[Due]) -> None:
        """Note that the broker has these."""
        with self.database.writing() as connection:
            connection.execute(delete(OUTBOX).where(OUTBOX.c.seq.in_([one.seq for one in due])))

    def everything(self) -> Iterator[Stored]:
        """Yield every object as it stands, each behind those that it names.

        Not as of one moment: what changes meanwhile may come as it was.
        """
        return (stored for stored, _ in self.standing())

    def standing(self) -> Iterator[tuple[Stored, bool]]:
        """Yield as `everything` does, each with whether the topic is still to be told of it."""
        due = exists().where(OUTBOX.c.kind == OBJECTS.c.kind, OUTBOX.c.id == OBJECTS.c.id).label("is_due")
        for kind in rules.ORDER:
            after = ""
            while page := self._standing(select(OBJECTS, due).where(OBJECTS.c.kind == kind, OBJECTS.c.id > after)):
                yield from page
                after = page[-1][0].id

    def _standing(self, found: Select[Any]) -> list[tuple[Stored, bool]]:
        with self.database.reading() as connection:
            rows = connection.execute(found.order_by(OBJECTS.c.id).limit(PAGE_MAX))
            return [(_stored(row), bool(row.is_due)) for row in rows]


class Changes:
    """One transaction's changes, all by one author at one time. made: (kind, what) of each."""

    def __init__(self, connection: Connection, author: Author, now_ms: int) -> None:
        """connection: no other writer has begun."""
        self._connection, self._author, self._now_ms = connection, author, now_ms
        self.made: list[tuple[str, str]] = []

    def get(self, kind: str, key: str) -> Stored | None:
        """Return an object as it stands now, in this transaction."""
        return _get(self._connection, kind, key)

    def put(self, kind: str, body: BaseModel, expected: int) -> Stored:
        """Create an object, or give it another body. The same body again changes nothing, and makes no version.

        kind: of KINDS, body of its model. expected: the version its author has seen, NEW for one to be created.
        Raises Refused.
        """
        key: str = body.id  # type: ignore[attr-defined]
        before = self.get(kind, key)
        _check_version(before, kind, key, expected)
        return self._put(before, kind, body, "create" if before is None else "change")

    def rollback(self, kind: str, key: str, version: int, expected: int) -> Stored:
        """Give an object the body that it had in an older version; its status stays. Raises Refused."""
        before = self._there(kind, key, expected)
        wanted = _version(self._connection, kind, key, version)
        if wanted is None:
            detail = f"{kind}/{key}: no version {version}; expected 1 to {before.version}"
            raise Refused(Reason.UNKNOWN_VERSION, detail, [("version", f"1 to {before.version}")])
        return self._put(before, kind, rules.read(wanted), f"rollback {version}")

    def step(self, kind: str, key: str, to: Status, expected: int) -> Stored:
        """Take an object to another status. Raises Refused."""
        before = self._there(kind, key, expected)
        rules.check_step(before, to)
        after = before.model_copy(update={"status": to})
        if kind == EXPERIMENTS and to in HOLDS_BUCKETS:
            body = self._allotted(cast(Experiment, rules.read(after)))
            after = after.model_copy(update={"body": rules.as_json(body)})
        return self._write(before, after, f"status {to}")

    def _there(self, kind: str, key: str, expected: int) -> Stored:
        before = self.get(kind, key)
        if before is None:
            raise Refused(Reason.UNKNOWN, f"{kind}/{key}: no such object")
        _check_version(before, kind, key, expected)
        return before

    def _put(self, before: Stored | None, kind: str, body: BaseModel, what: str) -> Stored:
        if isinstance(body, Experiment):
            body = kept(body, before.body if before else None)
            if before is not None and before.status in HOLDS_BUCKETS:
                body = self._allotted(body)
        values = rules.as_json(body)
        if before is not None and not diff(before.body, values):
            return before
        if before is not None:
            rules.check_change(before, values)
        rules.check_texts(kind, body)
        self._check_parent(before, kind, values)
        if isinstance(body, Line | Experiment):
            self._check_placements(kind, body)
        if isinstance(body, Placement) and (body.members or before is not None):
            check_group(body, self._other_placements(body))
        key: str = values["id"]
        after = before.model_copy(update={"body": values}) if before else _first(kind, key, values)
        return self._write(before, after, what)

    def _check_parent(self, before: Stored | None, kind: str, body: Mapping[str, Any]) -> None:
        """Check that the parent is there. A new child of what has ended would never be shown."""
        parent = rules.parent_of(kind, body)
        if parent is None:
            return
        field, (parent_kind, key) = PARENTS[kind][0], parent
        found = self.get(parent_kind, key)
        if found is None:
            detail = f"{kind}/{body['id']}: {field}: no {parent_kind}/{key}; expected one that is there"
            raise Refused(Reason.UNKNOWN_PARENT, detail, [(field, f"an id of {parent_kind}")])
        is_new = before is None or before.body[field] != key
        if is_new and found.status is Status.ENDED:
            detail = f"{kind}/{body['id']}: {field}: {parent_kind}/{key} has ended; expected one that has not"
            raise Refused(Reason.ENDED, detail, [(field, f"an id of {parent_kind} that has not ended")])

    def _allotted(self, body: Experiment) -> Experiment:
        """Return an experiment with visitors that no other one of its layer has."""
        query = select(OBJECTS).where(OBJECTS.c.kind == EXPERIMENTS, OBJECTS.c.id != body.id)
        others = [_stored(row) for row in self._connection.execute(query.order_by(OBJECTS.c.id))]
        return allotted(body, [cast(Experiment, rules.read(one)) for one in others if one.status in HOLDS_BUCKETS])

    def _check_placements(self, kind: str, body: Line | Experiment) -> None:
        query = select(OBJECTS.c.id).where(OBJECTS.c.kind == "placements", OBJECTS.c.id.in_(body.placements))
        there = set(self._connection.execute(query).scalars())
        unknown = [(at, name) for at, name in enumerate(body.placements) if name not in there]
        if unknown:
            names = ", ".join(name for _, name in unknown[:10])
            errors = [(f"placements.{at}", "an id of placements") for at, _ in unknown[:10]]
            detail = f"{kind}/{body.id}: placements: no {names}; expected ids of placements"
            raise Refused(Reason.UNKNOWN_PLACEMENT, detail, errors)

    def _other_placements(self, body: Placement) -> dict[str, Placement]:
        """Return all placements but this one. Raises Refused where one that it names cannot be read any more.

        Others that cannot be read are left out, as delivery does: who mends one has it checked then.
        """
        query = select(OBJECTS).where(OBJECTS.c.kind == "placements", OBJECTS.c.id != body.id)
        others: dict[str, Placement] = {}
        for row in self._connection.execute(query.order_by(OBJECTS.c.id)):
            one = _stored(row)
            try:
                others[one.id] = cast(Placement, rules.read(one))
            except Refused:
                if one.id in body.members:
                    raise
        return others

    def _write(self, before: Stored | None, after: Stored, what: str) -> Stored:
        """Write the next version of an object, and all that goes with it."""
        version = (before.version if before else 0) + 1
        new = {"version": version, "changed_ms": self._now_ms, "changed_by": self._author.name}
        stored = after.model_copy(update=new)
        body = json.dumps(stored.body, ensure_ascii=True, separators=(",", ":"))
        if len(body) > rules.BODY_BYTES_MAX:
            detail = f"{stored.kind}/{stored.id}: {len(body)} bytes of JSON, expected {rules.BODY_BYTES_MAX} at most"
            raise Refused(Reason.TOO_LARGE, detail)
        name = {"kind": stored.kind, "id": stored.id}
        row = name | new | {"status": stored.status.value, "body": body}
        parent_kind, parent_id = rules.parent_of(stored.kind, stored.body) or (None, None)
        as_it_stands = row | {"parent_kind": parent_kind, "parent_id": parent_id}
        run = self._connection.execute
        if before is None:
            run(OBJECTS.insert().values(as_it_stands))
        else:
            run(update(OBJECTS).where(OBJECTS.c.kind == stored.kind, OBJECTS.c.id == stored.id).values(as_it_stands))
        run(VERSIONS.insert().values(row))
        self._write_labels(stored)
        noted = {"at_ms": self._now_ms, "who": self._author.name, "whence": self._author.whence, "what": what}
        run(AUDIT.insert().values(name | noted | {"version": version}))
        run(OUTBOX.insert().values(name | {"version": version}))
        self.made.append((stored.kind, what.partition(" ")[0]))
        return stored

    def _write_labels(self, stored: Stored) -> None:
        self._connection.execute(delete(LABELS).where(LABELS.c.kind == stored.kind, LABELS.c.id == stored.id))
        labels = stored.body.get("labels")
        if isinstance(labels, dict) and labels:
            rows = [{"kind": stored.kind, "id": stored.id, "name": one, "value": labels[one]} for one in labels]
            self._connection.execute(LABELS.insert(), rows)


def _first(kind: str, key: str, body: dict[str, object]) -> Stored:
    """Return an object that was not there before; whoever writes it fills in when and by whom."""
    return Stored(kind=kind, id=key, version=1, status=Status.DRAFT, changed_ms=0, changed_by="", body=body)


def _check_version(before: Stored | None, kind: str, key: str, expected: int) -> None:
    name = f"{kind}/{key}"
    if expected == NEW and before is not None:
        raise Refused(Reason.EXISTS, f"{name}: it is there already, in version {before.version}")
    if expected != NEW and before is None:
        raise Refused(Reason.STALE, f"{name}: no such object, expected version {expected} of it")
    if before is not None and expected not in (NEW, before.version):
        detail = f"{name}: version {expected} is stale, {before.changed_by} has made it {before.version}; read it again"
        raise Refused(Reason.STALE, detail)


def _matching(kind: str, which: Filter) -> Select[Any]:
    found = select(OBJECTS).where(OBJECTS.c.kind == kind)
    if which.after:
        found = found.where(OBJECTS.c.id > which.after)
    if which.status is not None:
        found = found.where(OBJECTS.c.status == which.status.value)
    if which.parent is not None:
        found = found.where(OBJECTS.c.parent_id == which.parent)
    for name, value in which.labels:
        label = exists().where(LABELS.c.kind == OBJECTS.c.kind, LABELS.c.id == OBJECTS.c.id, LABELS.c.name == name)
        found = found.where(label if value is None else label.where(LABELS.c.value == value))
    return found


def _get(connection: Connection, kind: str, key: str) -> Stored | None:
    named = tuple_(OBJECTS.c.kind, OBJECTS.c.id) == tuple_(kind, key)
    row = connection.execute(select(OBJECTS).where(named)).one_or_none()
    return None if row is None else _stored(row)


def _version(connection: Connection, kind: str, key: str, version: int) -> Stored | None:
    query = select(VERSIONS).where(VERSIONS.c.kind == kind, VERSIONS.c.id == key, VERSIONS.c.version == version)
    row = connection.execute(query).one_or_none()
    return None if row is None else _stored(row)


def _stored(row: Row[Any]) -> Stored:
    return Stored(
        kind=row.kind,
        id=row.id,
        version=row.version,
        status=Status(row.status),
        changed_ms=row.changed_ms,
        changed_by=row.changed_by,
        body=json.loads(row.body),
    )
