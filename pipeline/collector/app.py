"""The collector's HTTP face: the table of endpoints, and the one way that every event takes from request to answer.

An RSGI application (Granian). 200 is said only once the broker has every block that holds an event of the request.
"""

import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pipeline.collector import pixel, segment, snowplow
from pipeline.collector.body import unpack
from pipeline.collector.buffer import BlockWriter, Ticket
from pipeline.collector.cors import Headers, Origins
from pipeline.collector.identity import (
    WriteKeys,
    client_ip,
    cookie_id,
    peer_address,
    read_networks,
    refuses_tracking,
    set_cookie,
)
from pipeline.collector.quota import Quota
from pipeline.collector.reading import BodyReader
from pipeline.collector.request import Intake, Refusal, Request, Rules
from pipeline.core.mask import mask, truncate_ip
from pipeline.edge.clock import monotonic_s, now_ms
from pipeline.edge.metrics import OVER_QUOTA, RECEIVED, REGISTRY, REJECTED, REQUESTS
from pipeline.errors import SettingsError
from pipeline.settings import Settings
from schemas.block import partition_of

log = logging.getLogger(__name__)

JSON = ("content-type", "application/json")
NO_STORE = ("cache-control", "no-store")
RETRY_AFTER_MAX_S = 5
OVERDUE_MS = 3_000  # an answer owed for so long means that the broker is away
HEADER_CHARS_MAX = 2_048
HEADERS_MAX = 64  # names; more is 431. Granian itself takes 100 lines and HEADER_BYTES_MAX
KEPT_PER_S = 10  # refused requests that go into the log, a second; every one is counted

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Route:
    """One endpoint. handler: a name in `Collector`; kind goes into the context of its events and into metrics."""

    path: str
    methods: tuple[str, ...]
    handler: str
    kind: str
    meaning: str


ROUTES: tuple[Route, ...] = (
    Route("/p.gif", ("GET",), "pixel", "gif", "our pixel: one event in short keys, answers a 43 byte GIF"),
    Route("/v1/batch", ("POST",), "segment", "batch", "Segment: many events"),
    Route("/v1/import", ("POST",), "segment", "batch", "Segment: many events, as older SDKs name it"),
    *(Route(f"/v1/{kind}", ("POST",), "segment", kind, f"Segment: one {kind} event")
      for kind in ("track", "page", "screen", "identify", "group", "alias")),
    *(Route(f"/v1/{short}", ("POST",), "segment", kind, f"Segment in browsers: {kind}")
      for short, kind in segment.SHORT_KINDS.items()),
    Route("/i", ("GET",), "snowplow_get", "i", "Snowplow: one event in a query string, answers a GIF"),
    Route("/ice.png", ("GET",), "snowplow_get", "i", "Snowplow: the same under its older name"),
    Route("/com.snowplowanalytics.snowplow/tp2", ("POST",), "snowplow_post", "tp2", "Snowplow: many events"),
    Route("/healthz", ("GET",), "health", "healthz", "200 while the process lives"),
    Route("/readyz", ("GET",), "ready", "readyz", "200 while the broker answers and there is room, else 503"),
    Route("/metrics", ("GET",), "metrics", "metrics", "Prometheus"),
)  # fmt: skip
SETTINGS_ROUTE = Route("/v1/projects/{key}/settings", ("GET",), "settings", "settings", "Segment in browsers: set-up")

BODY_UNREAD = frozenset({403, 404, 405, 408, 413, 415, 422, 431, 503})
"""May be answered before the body was read, as is every GET with a body. Then the connection ends with the answer: else
the server would hold it for as long as the client likes, and the client's next request would be lost with it."""

SNOWPLOW_FINAL = {413: 422, 415: 422}
"""Snowplow's trackers resend for ever on all but 400, 401, 403, 410 and 422, and the request grows each time."""

Answer = tuple[int, Headers, bytes]
Handler = Callable[[Any, Any, Route], Awaitable[Answer]]


class Collector:
    """The application. `is_stopping` is set before the end: then new events are refused and /readyz says so."""

    def __init__(self, settings: Settings, writer: BlockWriter, mask_key: bytes) -> None:
        self._settings = settings
        self._writer = writer
        self._mask_key = mask_key
        self.is_stopping = False
        self._kept_second, self._kept = 0, 0
        self._complained_s = 0.0
        self._origins = Origins(settings.allowed_origins)
        try:
            self._proxies = read_networks(settings.trusted_proxies)
        except ValueError as error:
            raise SettingsError(f"HERALD_TRUSTED_PROXIES: {error}; expected addresses or CIDR ranges") from None
        self._reader = BodyReader(settings.body_bytes_max, writer.has_room)
        self._rules = Rules(
            WriteKeys(settings.write_keys), mask_key, settings.batch_events_max, settings.event_bytes_max, new_id
        )
        limit = settings.events_per_s_max
        self._quota = Quota(settings.write_keys, limit, monotonic_s()) if limit else None
        self._routes = {route.path: route for route in ROUTES}
        self._masked_text = lru_cache(maxsize=4_096)(self._mask_text)
        self._handlers: dict[str, Handler] = {
            "pixel": self._pixel,
            "segment": self._segment,
            "snowplow_get": self._snowplow_get,
            "snowplow_post": self._snowplow_post,
            "settings": self._segment_settings,
            "health": self._health,
            "ready": self._ready,
            "metrics": self._metrics,
        }

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer one request."""
        if scope.proto != "http":
            return
        route = self._route(scope.path)
        origin = scope.headers.get("origin") or ""
        try:
            status, headers, body = await self._answer(scope, protocol, route, origin)
        except Refusal as refusal:
            status, headers, body = self._refuse(refusal, route)
        except ProtocolClosed:
            REJECTED.labels("client_gone").inc()  # in the middle of its own body: nobody is left to be answered
            return
        except Exception as error:  # noqa: BLE001 - a bug in one request must be seen, and must not end the others
            self._complain(error)
            status, headers, body = self._refuse(Refusal(500, "bug", "the fault is ours: it has been logged"), route)
        is_read = scope.method == "POST" and status not in BODY_UNREAD
        if not is_read and (status == 431 or _has_body(scope.headers)):
            headers.append(("connection", "close"))
        _requests(route.kind if route is not None else "unknown", status).inc()
        protocol.response_bytes(status, headers + self._origins.headers(origin), body)

    async def _answer(self, scope: Any, protocol: Any, route: Route | None, origin: str) -> Answer:
        if len(scope.headers) > HEADERS_MAX:
            raise Refusal(431, "too_many_headers", f"{len(scope.headers)} headers, expected at most {HEADERS_MAX}")
        if route is None:
            raise Refusal(404, "unknown_path", f"no such path: {scope.path[:100]}")
        if scope.method == "OPTIONS":
            asked = scope.headers.get("access-control-request-headers") or ""
            return 204, self._origins.preflight(origin, asked, (*route.methods, "OPTIONS")), b""
        if not self._origins.allows(origin):
            raise Refusal(403, "origin", "this origin may not send here")
        if scope.method not in route.methods:
            raise Refusal(405, "method", f"expected {', '.join(route.methods)}")
        return await self._handlers[route.handler](scope, protocol, route)

    def _complain(self, error: Exception) -> None:
        """Log a bug with its traceback, once a second at most: who finds one must not fill the disk with it."""
        now = monotonic_s()
        if now - self._complained_s >= 1.0:
            self._complained_s = now
            log.error("a request ended in a bug", exc_info=error)

    def _route(self, path: str) -> Route | None:
        route = self._routes.get(path) or self._routes.get(path.rstrip("/"))
        if route is None and path.startswith("/v1/projects/") and path.rstrip("/").endswith("/settings"):
            return SETTINGS_ROUTE
        return route

    def _refuse(self, refusal: Refusal, route: Route | None) -> Answer:
        """The same body for every error; an image for those who asked for one."""
        REJECTED.labels(refusal.code).inc()
        status = refusal.status
        headers: Headers = [NO_STORE]
        if route is not None and route.handler.startswith("snowplow"):
            status = SNOWPLOW_FINAL.get(status, status)
        if status == 405 and route is not None:
            headers.append(("allow", ", ".join((*route.methods, "OPTIONS"))))
        if status == 503:
            # spread over some seconds: all clients at once would be the next overload
            headers.append(("retry-after", str(1 + secrets.randbelow(RETRY_AFTER_MAX_S))))
        if refusal.retry_after_s:
            headers.append(("retry-after", str(refusal.retry_after_s)))
        if route is not None and route.handler in ("pixel", "snowplow_get"):
            return status, [*headers, ("content-type", "image/gif")], pixel.GIF
        body = {"error": refusal.code, "detail": refusal.detail, "accepted": 0, "rejected": [], "duplicate": 0}
        return status, [*headers, JSON], _encode(body)

    # --- events -------------------------------------------------------------------------------------------------------

    async def _segment(self, scope: Any, protocol: Any, route: Route) -> Answer:
        request = self._request(scope, route, await self._body(scope, protocol))
        try:
            intake = segment.read(request, self._rules)
        except Refusal as refusal:
            self._keep(segment.keep_refused(request, self._rules, refusal))
            raise
        return await self._take(intake, JSON, None)

    def _keep(self, refused: Intake | None) -> None:
        """Log a refused request, not waited for: a few a second are enough to see what is wrong."""
        second = int(monotonic_s())
        if second != self._kept_second:
            self._kept_second, self._kept = second, 0
        if refused is not None and self._kept < KEPT_PER_S:
            self._kept += 1
            self._add(refused)

    async def _snowplow_post(self, scope: Any, protocol: Any, route: Route) -> Answer:
        body = await self._body(scope, protocol)
        return await self._take(snowplow.read_post(self._request(scope, route, body), self._rules), JSON, None)

    async def _snowplow_get(self, scope: Any, protocol: Any, route: Route) -> Answer:
        self._need_room(len(scope.query_string))
        request = self._request(scope, route, b"")
        return await self._take(snowplow.read_get(request, self._rules), ("content-type", "image/gif"), pixel.GIF)

    async def _pixel(self, scope: Any, protocol: Any, route: Route) -> Answer:
        self._need_room(len(scope.query_string))
        request = self._request(scope, route, b"")
        return await self._take(pixel.read(request, self._rules), ("content-type", "image/gif"), pixel.GIF)

    def _need_room(self, more_bytes: int) -> None:
        """Refuse early, before anything is read, what could not be kept."""
        if self.is_stopping:
            raise Refusal(503, "stopping", "this collector is stopping: send again")
        if not self._writer.is_available:
            raise Refusal(503, "broker_away", "events cannot be stored now: send again")
        if not self._writer.has_room(more_bytes):
            raise Refusal(503, "buffer_full", "too many events wait for the broker: send again")

    async def _body(self, scope: Any, protocol: Any) -> bytes:
        self._need_room(0)
        body = await self._reader.read(scope.headers, protocol)
        unpacked = unpack(body, scope.headers.get("content-encoding") or "", self._settings.unpacked_bytes_max)
        self._need_room(len(unpacked))
        return unpacked

    def _request(self, scope: Any, route: Route, body: bytes) -> Request:
        get = scope.headers.get

        def header(name: str) -> str:
            return get(name) or ""

        peer = peer_address(scope.client)
        address = client_ip(peer, header("x-forwarded-for"), self._proxies) if self._proxies else peer
        cookie = header("cookie")
        return Request(
            kind=route.kind,
            query=scope.query_string,
            body=body,
            header=header,
            received_time_ms=now_ms(),
            ip=truncate_ip(address),
            user_agent=self._masked_text(header("user-agent")[:HEADER_CHARS_MAX]),
            referrer=self._masked_text(header("referer")[:HEADER_CHARS_MAX]),
            cookie=cookie_id(cookie, self._settings.cookie_name) if cookie else "",
            no_consent=refuses_tracking(header),
        )

    def _mask_text(self, text: str) -> str:
        """Mask a header's value: as a JSON text, since that is what mask() takes."""
        if not text:
            return ""
        return str(msgspec.json.decode(mask(_encode(text.encode("utf-8", "replace").decode()), self._mask_key)))

    async def _take(self, intake: Intake, kind: tuple[str, str], answer: bytes | None) -> Answer:
        """Put the events into their blocks, wait for the broker's word, and answer."""
        if self._quota is not None:
            self._need_quota(self._quota, intake)
        if not await self._writer.landed(self._add(intake)):
            if self._quota is not None:
                self._quota.give_back(intake.keys)
            raise Refusal(503, "not_stored", "the broker did not confirm in time: send again, with the same ids")
        _received(intake.items[0].context.protocol).inc(len(intake.items))
        headers: Headers = [kind, NO_STORE]
        if intake.new_visitor:
            settings = self._settings
            headers.append((
                "set-cookie",
                set_cookie(settings.cookie_name, intake.new_visitor, settings.cookie_max_age_s, settings.cookie_secure),
            ))  # fmt: skip
        return 200, headers, answer if answer is not None else _report(intake)

    def _need_quota(self, quota: Quota, intake: Intake) -> None:
        """Refuse a request of a key that sends faster than it may; how long it has to wait is told."""
        key, wait_s = quota.take(intake.keys, monotonic_s())
        if key:
            OVER_QUOTA.labels(self._rules.keys.site(key)).inc(len(intake.items))
            limit = f"expected at most {self._settings.events_per_s_max} events a second under one write key"
            raise Refusal(429, "quota", limit, max(1, math.ceil(wait_s)))

    def _add(self, intake: Intake) -> set[Ticket]:
        add, partitions = self._writer.add, self._settings.partitions
        tickets: set[Ticket] = set()
        for item in intake.items:
            key = item.visitor or item.event_id or secrets.token_hex(8)
            tickets.add(
                add(partition_of(key, partitions), item.context, item.event_id, item.visitor, item.raw, item.refused)
            )
        return tickets

    # --- the rest -----------------------------------------------------------------------------------------------------

    async def _segment_settings(self, scope: Any, protocol: Any, route: Route) -> Answer:
        """What Segment's browser SDK wants to know before it sends anything; the key is public, as in its page."""
        key = scope.path.rstrip("/").split("/")[3]
        if not self._rules.keys.site(key):
            raise Refusal(401, "unknown_key", "no known write key in the path")
        host = scope.headers.get("host") or scope.authority or ""
        sender = {"apiKey": key, "apiHost": f"{host}/v1", "protocol": scope.scheme}
        return 200, [JSON, NO_STORE], _encode({"integrations": {"Segment.io": sender}})

    async def _health(self, scope: Any, protocol: Any, route: Route) -> Answer:
        return 200, [JSON, NO_STORE], b'{"status":"ok"}'

    async def _ready(self, scope: Any, protocol: Any, route: Route) -> Answer:
        self._need_room(1)
        if self._writer.answer_overdue_ms > OVERDUE_MS:
            raise Refusal(503, "broker_away", f"the broker has not answered for {self._writer.answer_overdue_ms} ms")
        return 200, [JSON, NO_STORE], b'{"status":"ready"}'

    async def _metrics(self, scope: Any, protocol: Any, route: Route) -> Answer:
        return 200, [("content-type", CONTENT_TYPE_LATEST), NO_STORE], generate_latest(REGISTRY)


def new_id() -> str:
    """Return a fresh visitor id: 128 random bits."""
    return secrets.token_hex(16)


def _report(intake: Intake) -> bytes:
    """The answer to a stored request: how many, which not and why, how many ids came twice in it."""
    rejected: list[dict[str, Any]] = [
        {"i": place, "id": event_id, "reason": "unknown_key"} for place, event_id in intake.unknown.items()
    ]
    accepted = 0
    ids: list[str] = []
    place = -1
    for item in intake.items:
        place += 1
        while place in intake.unknown:
            place += 1
        if item.refused:
            rejected.append({"i": place, "id": item.event_id, "reason": item.refused})
        else:
            accepted += 1
            if item.event_id:
                ids.append(item.event_id)
    rejected.sort(key=lambda one: one["i"])
    REJECTED.labels("unknown_key").inc(len(intake.unknown))
    return _encode({"accepted": accepted, "rejected": rejected, "duplicate": len(ids) - len(set(ids))})


def _has_body(headers: Any) -> bool:
    """True where a request's headers announce a body."""
    return (headers.get("content-length") or "0") != "0" or "transfer-encoding" in headers


@lru_cache(maxsize=512)
def _requests(endpoint: str, status: int) -> Any:
    return REQUESTS.labels(endpoint, status)


@lru_cache(maxsize=16)
def _received(protocol: str) -> Any:
    return RECEIVED.labels(protocol)
