"""The campaigns' HTTP face: one method for each address of the table in routes.py."""

import asyncio
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from pydantic import BaseModel

from pipeline.campaigns import rules
from pipeline.campaigns.publisher import Announcer
from pipeline.campaigns.query import Query
from pipeline.campaigns.refusals import Reason, Refused
from pipeline.campaigns.routes import (
    COMMON,
    SEQ_MAX,
    VERSION_MAX,
    AuditAnswer,
    Audited,
    DiffAnswer,
    Different,
    ObjectsAnswer,
    RollbackRequest,
    StepRequest,
    VersionsAnswer,
    document,
    routes_of,
)
from pipeline.campaigns.store import NEW, Author, Changes, Filter, Store
from pipeline.collector.identity import client_ip, read_networks
from pipeline.core.json_diff import diff
from pipeline.delivery.pages import HEADERS, PAGES, content
from pipeline.delivery.problems import SAFE_HEADERS, Problem, away
from pipeline.delivery.web import Answer, Request
from pipeline.edge.clock import now_ms
from pipeline.errors import Retryable
from pipeline.rest.front import Served, health, prometheus
from pipeline.rest.keys import Keys, read_json
from pipeline.settings import Settings
from schemas.campaign import KINDS, Status, Stored

T = TypeVar("T")
ANONYMOUS: Final = "anonymous"
STATUS_OF: Final[Mapping[Reason, int]] = {
    Reason.UNKNOWN: 404,
    Reason.UNKNOWN_VERSION: 422,
    Reason.EXISTS: 412,
    Reason.STALE: 412,
    Reason.UNKNOWN_PARENT: 422,
    Reason.UNKNOWN_PLACEMENT: 422,
    Reason.UNKNOWN_POLICY: 422,
    Reason.MEMBERS: 422,
    Reason.AUDIENCE: 422,
    Reason.STEP: 409,
    Reason.ENDED: 409,
    Reason.FIXED: 409,
    Reason.SHARE: 409,
    Reason.INVALID: 422,
    Reason.TOO_LARGE: 413,
}
_ETAG = re.compile(r'"([1-9][0-9]{0,8})"')
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


class Campaigns:
    """The endpoints and what they share. The store is asked by threads, never by the event loop's.

    is_open: the store's tables are there; until then only /healthz answers 200. is_stopping: set before the end.
    """

    def __init__(self, settings: Settings, store: Store, announcer: Announcer) -> None:
        """See Settings: campaigns_keys, trusted_proxies."""
        self._store, self._announcer = store, announcer
        self._keys = Keys(settings.campaigns_keys, "campaigns")
        self._proxies = read_networks(settings.trusted_proxies)
        self._document = msgspec.json.encode(document())
        self._index = content("index.html").replace(b"Herald delivery", b"Herald campaigns")
        self.is_open = False
        self.is_stopping = False

    def served(self) -> list[Served]:
        """Return every address with what answers it."""
        own = [Served(route, partial(getattr(self, route.name), kind)) for kind in KINDS for route in routes_of(kind)]
        return [*own, *(Served(route, getattr(self, route.name)) for route in COMMON)]

    def admit(self, request: Request) -> None:
        """Raise Problem 401 where keys are set and the request has none of them."""
        self._keys.owner(request)

    async def page(self, kind: str, request: Request) -> Answer:
        """List objects."""
        query = Query(request, ("status", "parent", "label", "limit", "after"))
        which = Filter(query.word("status", Status), query.text("parent"), query.labels(), query.text("after") or "")
        limit = query.limit()
        items = await self._ask(lambda: self._store.page(kind, which, limit + 1))
        return _json(ObjectsAnswer(items=items[:limit], next=items[limit - 1].id if len(items) > limit else None))

    async def one(self, kind: str, request: Request) -> Answer:
        """Return an object."""
        key = _key(request)
        return _tagged(_there(await self._ask(lambda: self._store.get(kind, key)), f"{kind}/{key}"))

    async def put(self, kind: str, request: Request) -> Answer:
        """Create an object, or change it."""
        key, expected = _key(request), _condition(request)
        body = read_json(request, KINDS[kind])
        if body.id != key:  # type: ignore[attr-defined]
            given = body.id  # type: ignore[attr-defined]
            raise Problem(400, "invalid", f"id: {given!r}, expected {key!r} as in the address", [("id", key)])
        stored = await self._change(request, lambda changes: changes.put(kind, body, expected))
        return _tagged(stored, 201 if expected == NEW else 200)

    async def step(self, kind: str, request: Request) -> Answer:
        """Take an object to another status."""
        key, expected = _key(request), _if_match(request)
        to = read_json(request, StepRequest).to
        return _tagged(await self._change(request, lambda changes: changes.step(kind, key, to, expected)))

    async def rollback(self, kind: str, request: Request) -> Answer:
        """Give an object the body of an older version."""
        key, expected = _key(request), _if_match(request)
        version = read_json(request, RollbackRequest).version
        return _tagged(await self._change(request, lambda changes: changes.rollback(kind, key, version, expected)))

    async def versions(self, kind: str, request: Request) -> Answer:
        """List an object's versions."""
        key, query = _key(request), Query(request, ("limit", "after"))
        limit, after = query.limit(), min(VERSION_MAX, query.number("after", 0, SEQ_MAX) or 0)
        items = await self._ask(lambda: self._store.versions(kind, key, after, limit + 1))
        if not items and not after:
            _there(None, f"{kind}/{key}")
        last = items[limit - 1].version if len(items) > limit else None
        return _json(VersionsAnswer(items=items[:limit], next=last))

    async def version(self, kind: str, request: Request) -> Answer:
        """Return one version of an object."""
        key, given = _key(request), request.params["version"]
        number = int(given) if _VERSION.fullmatch(given) else 0
        found = await self._ask(lambda: self._store.version(kind, key, number))
        return _json(_there(found, f"{kind}/{key}, version {given[:20]}"))

    async def diff(self, kind: str, request: Request) -> Answer:
        """Say what differs between two versions of an object."""
        key, query = _key(request), Query(request, ("from", "to"))
        older, newer = query.number("from", 1, VERSION_MAX), query.number("to", 1, VERSION_MAX)
        before, after = await self._ask(lambda: self._two(kind, key, older, newer))
        differences = [Different(**one._asdict()) for one in diff(before.body, after.body)]
        statuses = [] if before.status is after.status else [before.status, after.status]
        return _json(DiffAnswer(older=before.version, newer=after.version, differences=differences, status=statuses))

    def _two(self, kind: str, key: str, older: int | None, newer: int | None) -> tuple[Stored, Stored]:
        name = f"{kind}/{key}"
        after = self._store.version(kind, key, newer) if newer else self._store.get(kind, key)
        after = _there(after, f"{name}, version {newer}" if newer else name)
        older = older or max(1, after.version - 1)
        return _there(self._store.version(kind, key, older), f"{name}, version {older}"), after

    async def audit(self, request: Request) -> Answer:
        """List who changed what."""
        query = Query(request, ("kind", "id", "limit", "after"))
        kind, key = query.choice("kind", tuple(KINDS)), query.text("id")
        limit, after = query.limit(), query.number("after", 0, SEQ_MAX) or 0
        items = await self._ask(lambda: self._store.audit(kind, key, after, limit + 1))
        found = [Audited(**one._asdict()) for one in items[:limit]]
        return _json(AuditAnswer(items=found, next=found[-1].seq if len(items) > limit else None))

    def health(self, request: Request) -> Answer:
        """200 while the process lives."""
        return health(request)

    async def ready(self, request: Request) -> Answer:
        """200 once the store answers; it says what keeps changes from the topic, which does not keep them out."""
        if self.is_stopping:
            raise away("stopping")
        await self._ask(lambda: self._store.get("placements", ""))
        found = {"status": "ready", "publishing": self._announcer.trouble or "yes"}
        return Answer(200, msgspec.json.encode(found), headers=SAFE_HEADERS)

    def metrics(self, request: Request) -> Answer:
        """Prometheus."""
        return prometheus(request)

    def openapi(self, request: Request) -> Answer:
        """The OpenAPI document."""
        return Answer(200, self._document, headers=SAFE_HEADERS)

    def docs(self, request: Request) -> Answer:
        """The OpenAPI document, for people."""
        return Answer(200, self._index, PAGES["index.html"], HEADERS)

    async def _change(self, request: Request, change: Callable[[Changes], Stored]) -> Stored:
        whence = client_ip(request.client, request.header("x-forwarded-for"), self._proxies)
        author = Author(self._keys.owner(request) or ANONYMOUS, whence)

        def apply() -> Stored:
            with self._store.changing(author, now_ms()) as changes:
                return change(changes)

        return await self._ask(apply)

    async def _ask(self, ask: Callable[[], T]) -> T:
        """Ask the store from a thread. Raises Problem."""
        if not self.is_open:
            raise away("the store is not open yet")
        try:
            return await asyncio.to_thread(ask)
        except Refused as refused:
            raise Problem(STATUS_OF[refused.reason], refused.reason.value, refused.detail, refused.errors) from None
        except Retryable as error:
            raise away(str(error)) from error


def _key(request: Request) -> str:
    key = request.params["id"]
    if not rules.KEY.fullmatch(key):
        raise Problem(404, "not_found", "no such object: an id has lower case letters, digits, `_`, `.` and `-`")
    return key


def _there(found: Stored | None, name: str) -> Stored:
    if found is None:
        raise Problem(404, "not_found", f"{name}: not here")
    return found


def _condition(request: Request) -> int:
    """Return the version that is expected of what is put. Raises Problem 400 or 428."""
    none_match = request.header("if-none-match").strip()
    if none_match and request.header("if-match"):
        raise Problem(400, "conditions", "If-Match and If-None-Match: expected one of them")
    if not none_match:
        return _if_match(request, "If-None-Match: * to create it, or ")
    if none_match != "*":
        raise Problem(400, "conditions", f"If-None-Match: {none_match[:40]!r}, expected *")
    return NEW


def _if_match(request: Request, other: str = "") -> int:
    given = request.header("if-match").strip()
    if not given:
        raise Problem(428, "no_condition", f'expected {other}If-Match with the ETag that you have read, as in "3"')
    found = _ETAG.fullmatch(given)
    if found is None:
        raise Problem(400, "conditions", f'If-Match: {given[:40]!r}, expected one ETag that you have read, as in "3"')
    return int(found[1])


def _json(model: BaseModel) -> Answer:
    return Answer(200, model.model_dump_json().encode(), headers=SAFE_HEADERS)


def _tagged(stored: Stored, status: int = 200) -> Answer:
    headers: list[tuple[str, Any]] = [*SAFE_HEADERS, ("etag", f'"{stored.version}"')]
    return Answer(status, stored.model_dump_json().encode(), headers=headers)
