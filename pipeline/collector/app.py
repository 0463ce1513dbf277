"""The collector's HTTP face: the table of endpoints, and the one way that every event takes from request to answer.

200 is said only once the broker has every block that holds an event of the request. Nothing here waits: what has to be
waited for calls back.
"""

import logging
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from typing import Any

import msgspec
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pipeline.collector import pixel, segment, snowplow
from pipeline.collector.body import unpack
from pipeline.collector.buffer import BlockWriter, Ticket
from pipeline.collector.cors import Origins
from pipeline.collector.identity import (
    WriteKeys,
    client_ip,
    cookie_id,
    read_networks,
    refuses_tracking,
    set_cookie,
)
from pipeline.collector.quota import Quota
from pipeline.collector.request import Intake, Item, Request, Rules
from pipeline.core.mask import mask, truncate_ip
from pipeline.edge.clock import monotonic_s, now_ms
from pipeline.edge.metrics import OVER_QUOTA, RECEIVED, REGISTRY, REJECTED, REQUESTS
from pipeline.errors import SettingsError
from pipeline.http.message import Answer, Head, Receiver, Refusal, Reply
from pipeline.settings import Settings
from schemas.block import partition_of

log = logging.getLogger(__name__)

JSON = ("content-type", "application/json")
IMAGE = ("content-type", "image/gif")
NO_STORE = ("cache-control", "no-store")
RETRY_AFTER_MAX_S = 5
OVERDUE_MS = 3_000  # an answer owed for so long means that the broker is away
HEADER_CHARS_MAX = 2_048
HEADERS_MAX = 64  # lines; more is 431
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

SNOWPLOW_FINAL = {413: 422, 415: 422}
"""Snowplow's trackers resend for ever on all but 400, 401, 403, 410 and 422, and the request grows each time."""


class Sender(Struct, frozen=True):
    """What the headers of a request say about who sends it. reading: the answer's headers that let a page read it."""

    may_send: bool
    reading: tuple[tuple[str, str], ...]
    user_agent: str
    referrer: str
    cookie: str
    no_consent: bool


class Taken(Struct, frozen=True):
    """Events waiting in their blocks for the broker's word. kind: the answer's media type; body: None for a report."""

    intake: Intake
    tickets: set[Ticket]
    kind: tuple[str, str]
    body: bytes | None


Handler = Callable[[Head, Route, bytes], Answer | Taken]


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

    def begin(self, head: Head) -> Answer | Receiver:
        """Answer what needs no body, or return what takes it."""
        route = self._route(head.path)
        try:
            found = self._early(head, route)
        except Refusal as refusal:
            found = self._refuse(refusal, route)
        return self._done(found, head, route) if isinstance(found, Answer) else found

    def refuse(self, head: Head | None, refusal: Refusal) -> Answer:
        """Return the answer for what the server refuses: too large, too slow, no HTTP."""
        route = self._route(head.path) if head is not None else None
        return self._done(self._refuse(refusal, route), head, route)

    def gone(self, head: Head) -> None:
        """Count a client that left in the middle of its own body: nobody is left to be answered."""
        REJECTED.labels("client_gone").inc()

    def has_room(self, body_bytes: int) -> bool:
        """True where bodies being read and blocks that wait fit together."""
        return self._writer.has_room(body_bytes)

    def _early(self, head: Head, route: Route | None) -> Answer | Receiver:
        """As `begin`. Raises Refusal."""
        if head.lines > HEADERS_MAX:
            raise Refusal(431, "too_many_headers", f"{head.lines} headers, expected at most {HEADERS_MAX}")
        if route is None:
            raise Refusal(404, "unknown_path", f"no such path: {head.path[:100]}")
        if head.method == "OPTIONS":
            origin, asked = head.header("origin"), head.header("access-control-request-headers")
            return Answer(204, self._origins.preflight(origin, asked, (*route.methods, "OPTIONS")), b"")
        if not self._sender(head).may_send:
            raise Refusal(403, "origin", "this origin may not send here")
        if head.method not in route.methods:
            raise Refusal(405, "method", f"expected {', '.join(route.methods)}")
        if head.method == "POST":
            self._need_room(0)
        return partial(self._serve, head, route)

    def _serve(self, head: Head, route: Route, body: bytes, reply: Reply) -> None:
        """Answer one request, now or once its events have landed."""
        try:
            found = self._handlers[route.handler](head, route, body)
        except Refusal as refusal:
            found = self._refuse(refusal, route)
        except Exception as error:  # noqa: BLE001 - a bug in one request must be seen, and must not end the others
            found = self._bug(error, route)
        if isinstance(found, Taken):
            self._writer.when_landed(found.tickets, partial(self._landed, found, head, route, reply))
        else:
            reply(self._done(found, head, route))

    def _landed(self, taken: Taken, head: Head, route: Route, reply: Reply, landed: bool) -> None:
        """Answer a request whose blocks the broker has, or has not confirmed."""
        try:
            found = self._stored(taken) if landed else self._not_stored(taken, route)
        except Exception as error:  # noqa: BLE001
            found = self._bug(error, route)
        reply(self._done(found, head, route))

    def _done(self, answer: Answer, head: Head | None, route: Route | None) -> Answer:
        """Count an answer, and tell a browser whether its page may read it."""
        _requests(route.kind if route is not None else "unknown", answer.status).inc()
        reading = self._sender(head).reading if head is not None else self._origins.headers("")
        return Answer(answer.status, (*answer.headers, *reading), answer.body)

    def _bug(self, error: Exception, route: Route) -> Answer:
        self._complain(error)
        return self._refuse(Refusal(500, "bug", "the fault is ours: it has been logged"), route)

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
        headers = [NO_STORE]
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
            return Answer(status, [*headers, IMAGE], pixel.GIF)
        body = {"error": refusal.code, "detail": refusal.detail, "accepted": 0, "rejected": [], "duplicate": 0}
        return Answer(status, [*headers, JSON], _encode(body))

    # --- events -------------------------------------------------------------------------------------------------------

    def _segment(self, head: Head, route: Route, body: bytes) -> Taken:
        request = self._request(head, route, self._unpacked(head, body))
        try:
            intake = segment.read(request, self._rules)
        except Refusal as refusal:
            self._keep(segment.keep_refused(request, self._rules, refusal))
            raise
        return self._take(intake, JSON, None)

    def _keep(self, refused: Intake | None) -> None:
        """Log a refused request, not waited for: a few a second are enough to see what is wrong."""
        second = int(monotonic_s())
        if second != self._kept_second:
            self._kept_second, self._kept = second, 0
        if refused is not None and self._kept < KEPT_PER_S:
            self._kept += 1
            self._add(refused)

    def _snowplow_post(self, head: Head, route: Route, body: bytes) -> Taken:
        request = self._request(head, route, self._unpacked(head, body))
        return self._take(snowplow.read_post(request, self._rules), JSON, None)

    def _snowplow_get(self, head: Head, route: Route, body: bytes) -> Taken:
        self._need_room(len(head.query))
        return self._take(snowplow.read_get(self._request(head, route, b""), self._rules), IMAGE, pixel.GIF)

    def _pixel(self, head: Head, route: Route, body: bytes) -> Taken:
        self._need_room(len(head.query))
        return self._take(pixel.read(self._request(head, route, b""), self._rules), IMAGE, pixel.GIF)

    def _need_room(self, more_bytes: int) -> None:
        """Refuse early, before anything is read, what could not be kept."""
        if self.is_stopping:
            raise Refusal(503, "stopping", "this collector is stopping: send again")
        if not self._writer.is_available:
            raise Refusal(503, "broker_away", "events cannot be stored now: send again")
        if not self._writer.has_room(more_bytes):
            raise Refusal(503, "buffer_full", "too many events wait for the broker: send again")

    def _unpacked(self, head: Head, body: bytes) -> bytes:
        unpacked = unpack(body, head.headers.get("content-encoding", ""), self._settings.unpacked_bytes_max)
        self._need_room(len(unpacked))
        return unpacked

    def _request(self, head: Head, route: Route, body: bytes) -> Request:
        sender, address = self._sender(head), head.client
        if self._proxies:
            address = client_ip(address, head.header("x-forwarded-for"), self._proxies)
        return Request(
            kind=route.kind,
            query=head.query,
            body=body,
            header=head.header,
            received_time_ms=now_ms(),
            ip=truncate_ip(address),
            user_agent=sender.user_agent,
            referrer=sender.referrer,
            cookie=sender.cookie,
            no_consent=sender.no_consent,
            notes=head.notes,
        )

    def _sender(self, head: Head) -> Sender:
        """Return what the headers say, found once for all requests with the same ones."""
        found: Sender | None = head.notes.get("sender")
        if found is None:
            get = head.headers.get
            origin, cookie = get("origin", ""), get("cookie")
            found = head.notes["sender"] = Sender(
                may_send=self._origins.allows(origin),
                reading=tuple(self._origins.headers(origin)),
                user_agent=self._masked_text(get("user-agent", "")[:HEADER_CHARS_MAX]),
                referrer=self._masked_text(get("referer", "")[:HEADER_CHARS_MAX]),
                cookie=cookie_id(cookie, self._settings.cookie_name) if cookie else "",
                no_consent=refuses_tracking(head.headers),
            )
        return found

    def _mask_text(self, text: str) -> str:
        """Mask a header's value: as a JSON text, since that is what mask() takes."""
        if not text:
            return ""
        return str(msgspec.json.decode(mask(_encode(text.encode("utf-8", "replace").decode()), self._mask_key)))

    def _take(self, intake: Intake, kind: tuple[str, str], body: bytes | None) -> Taken:
        """Put the events into their blocks. Raises Refusal where their key has had its share."""
        if self._quota is not None:
            self._need_quota(self._quota, intake)
        return Taken(intake, self._add(intake), kind, body)

    def _stored(self, taken: Taken) -> Answer:
        intake = taken.intake
        _received(intake.items[0].context.protocol).inc(len(intake.items))
        headers = [taken.kind, NO_STORE]
        if intake.new_visitor:
            settings = self._settings
            headers.append((
                "set-cookie",
                set_cookie(settings.cookie_name, intake.new_visitor, settings.cookie_max_age_s, settings.cookie_secure),
            ))  # fmt: skip
        return Answer(200, headers, taken.body if taken.body is not None else _report(intake))

    def _not_stored(self, taken: Taken, route: Route) -> Answer:
        if self._quota is not None:
            self._quota.give_back(taken.intake.keys)
        text = "the broker did not confirm in time: send again, with the same ids"
        return self._refuse(Refusal(503, "not_stored", text), route)

    def _need_quota(self, quota: Quota, intake: Intake) -> None:
        """Refuse a request of a key that sends faster than it may; how long it has to wait is told."""
        key, wait_s = quota.take(intake.keys, monotonic_s())
        if key:
            OVER_QUOTA.labels(self._rules.keys.site(key)).inc(len(intake.items))
            limit = f"expected at most {self._settings.events_per_s_max} events a second under one write key"
            raise Refusal(429, "quota", limit, max(1, math.ceil(wait_s)))

    def _add(self, intake: Intake) -> set[Ticket]:
        return self._writer.add_all(intake.items, self._partition)

    def _partition(self, item: Item) -> int:
        return partition_of(item.visitor or item.event_id or secrets.token_hex(8), self._settings.partitions)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _segment_settings(self, head: Head, route: Route, body: bytes) -> Answer:
        """What Segment's browser SDK wants to know before it sends anything; the key is public, as in its page."""
        key = head.path.rstrip("/").split("/")[3]
        if not self._rules.keys.site(key):
            raise Refusal(401, "unknown_key", "no known write key in the path")
        scheme = "https" if head.header("x-forwarded-proto") == "https" else "http"  # as its page came, past a proxy
        sender = {"apiKey": key, "apiHost": f"{head.header('host')}/v1", "protocol": scheme}
        return Answer(200, [JSON, NO_STORE], _encode({"integrations": {"Segment.io": sender}}))

    def _health(self, head: Head, route: Route, body: bytes) -> Answer:
        return Answer(200, [JSON, NO_STORE], b'{"status":"ok"}')

    def _ready(self, head: Head, route: Route, body: bytes) -> Answer:
        self._need_room(1)
        if self._writer.answer_overdue_ms > OVERDUE_MS:
            raise Refusal(503, "broker_away", f"the broker has not answered for {self._writer.answer_overdue_ms} ms")
        return Answer(200, [JSON, NO_STORE], b'{"status":"ready"}')

    def _metrics(self, head: Head, route: Route, body: bytes) -> Answer:
        return Answer(200, [("content-type", CONTENT_TYPE_LATEST), NO_STORE], generate_latest(REGISTRY))


def new_id() -> str:
    """Return a fresh visitor id: 128 random bits."""
    return secrets.token_hex(16)


def _report(intake: Intake) -> bytes:
    """The answer to a stored request: how many, which not and why, how many ids came twice in it."""
    items = intake.items
    ids = [item.event_id for item in items if not item.refused]
    whole = len(ids) == len(items) and not intake.unknown
    if whole and len(ids) == 1:
        return ONE_ACCEPTED
    named = list(filter(None, ids))
    rejected = [] if whole else _rejected(intake)
    return _encode({"accepted": len(ids), "rejected": rejected, "duplicate": len(named) - len(set(named))})


def _rejected(intake: Intake) -> list[dict[str, Any]]:
    unknown = intake.unknown
    if unknown:
        REJECTED.labels("unknown_key").inc(len(unknown))
    places = (place for place in count() if place not in unknown)
    refused = [
        {"i": place, "id": item.event_id, "reason": item.refused}
        for item, place in zip(intake.items, places, strict=False)
        if item.refused
    ]
    strangers = [{"i": place, "id": event_id, "reason": "unknown_key"} for place, event_id in unknown.items()]
    return sorted([*strangers, *refused], key=lambda one: one["i"])


ONE_ACCEPTED = b'{"accepted":1,"rejected":[],"duplicate":0}'


@lru_cache(maxsize=512)
def _requests(endpoint: str, status: int) -> Any:
    return REQUESTS.labels(endpoint, status)


@lru_cache(maxsize=16)
def _received(protocol: str) -> Any:
    return RECEIVED.labels(protocol)
