"""The way of a request through a REST service: its endpoint is found, it is admitted, answered and counted."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pipeline.delivery.pages import PAGES, page
from pipeline.delivery.problems import SAFE_HEADERS, Problem, render
from pipeline.delivery.web import Answer, Endpoint, Request, Router
from pipeline.edge import metrics
from pipeline.http import message as http
from pipeline.http.message import Head, Receiver, Refusal, Reply
from pipeline.rest.openapi import Route

log = logging.getLogger(__name__)

HEADERS_MAX: Final = 64  # lines; more is 431
_UNKNOWN: Final = Route("", "", "unknown", "no address of ours")
_PAGE: Final = Route("GET", "", "docs", "a part of the document for people")


class Served(NamedTuple):
    """An address and what answers it."""

    route: Route
    endpoint: Endpoint


class Front:
    """Finds the endpoint of a request, lets it answer, counts the answer. Nothing that it meets ends it."""

    def __init__(self, served: Sequence[Served], admit: Callable[[Request], None], held_bytes_max: int) -> None:
        """admit: raises Problem for whoever may not ask. held_bytes_max: of bodies being read."""
        self._admit = admit
        self._held_bytes_max = held_bytes_max
        self._waiting: set[asyncio.Task[None]] = set()
        self._router = Router()
        for one in served:
            self._router.add(one.route.method, one.route.path, one)
        for name, media in PAGES.items():
            self._router.add("GET", f"/docs/{name}", Served(_PAGE, page(name, media)))

    def begin(self, head: Head) -> http.Answer | Receiver:
        """Answer what needs no body, or return what takes it."""
        request = Request(head)
        methods, request.params = self._router.find(request.path)
        served: Served | None = methods.get(request.method)
        try:
            return self._admitted(head, request, served, methods)
        except Problem as problem:
            return _done(render(problem), served.route if served else _UNKNOWN)

    def refuse(self, head: Head | None, refusal: Refusal) -> http.Answer:
        """Return the answer for what the server refuses: too large, too slow, no HTTP."""
        again_s = 1 if refusal.status == 503 else 0
        problem = Problem(refusal.status, refusal.code, refusal.detail, retry_after_s=again_s)
        return _done(render(problem), self._route(head))

    def gone(self, head: Head) -> None:
        """Count a client that left in the middle of its own body: nobody is left to be answered."""
        _requests(self._route(head).name, 400).inc()

    def _route(self, head: Head | None) -> Route:
        if head is None:
            return _UNKNOWN
        methods, _ = self._router.find(head.path.rstrip("/") or "/")
        served: Served | None = methods.get(head.method)
        return served.route if served else _UNKNOWN

    def has_room(self, body_bytes: int) -> bool:
        """True where so many bytes of bodies may be held."""
        return body_bytes <= self._held_bytes_max

    def _admitted(
        self, head: Head, request: Request, served: Served | None, methods: Mapping[str, object]
    ) -> http.Answer | Receiver:
        """As `begin`. Raises Problem."""
        if head.lines > HEADERS_MAX:
            raise Problem(431, "too_many_headers", f"{head.lines} headers, expected at most {HEADERS_MAX}")
        if served is None and not methods:
            raise Problem(404, "not_found", "no such address; /docs lists them all")
        if served is None:
            allowed = ", ".join(methods)
            return _done(render(Problem(405, "method", f"expected {allowed}"), {"allow": allowed}), _UNKNOWN)
        if served.route.needs_key:
            self._admit(request)
        return functools.partial(self._serve, request, served)

    def _serve(self, request: Request, served: Served, body: bytes, reply: Reply) -> None:
        """Answer one request: at once, or when what it waits for has come."""
        request.body = body
        try:
            found = served.endpoint(request)
        except Exception as error:  # noqa: BLE001 - a bug in one request must be seen, and must not end the others
            found = _failed(error, request, served.route)
        if isinstance(found, Answer):
            reply(_done(found, served.route))
        else:
            task = asyncio.ensure_future(self._wait(found, request, served.route, reply))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _wait(self, found: Awaitable[Answer], request: Request, route: Route, reply: Reply) -> None:
        try:
            answer = await found
        except Exception as error:  # noqa: BLE001
            answer = _failed(error, request, route)
        reply(_done(answer, route))


def health(request: Request) -> Answer:
    """200 while the process lives."""
    return Answer(200, b'{"status":"ok"}', headers=SAFE_HEADERS)


def prometheus(request: Request) -> Answer:
    """Every metric of this process."""
    return Answer(200, generate_latest(metrics.REGISTRY), CONTENT_TYPE_LATEST, SAFE_HEADERS)


def _failed(error: Exception, request: Request, route: Route) -> Answer:
    if isinstance(error, Problem):
        return render(error)
    log.critical("%s %s failed", request.method, route.name, exc_info=error)
    return render(Problem(500, "internal", "a fault of ours; it is in our log"))


def _done(answer: Answer, route: Route) -> http.Answer:
    """Count an answer, and make it the server's."""
    _requests(route.name, answer.status).inc()
    kind = (("content-type", answer.kind),) if answer.kind else ()
    return http.Answer(answer.status, (*answer.headers, *kind), answer.body)


@functools.lru_cache(maxsize=256)
def _requests(endpoint: str, status: int) -> Any:
    return metrics.REQUESTS.labels(endpoint, status)
