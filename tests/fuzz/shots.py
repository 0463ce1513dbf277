"""One request to be fired, and the answers that are documented for it."""

from dataclasses import dataclass, field

from pipeline.collector.app import ROUTES as COLLECTOR_ROUTES
from pipeline.delivery.routes import ROUTES as DELIVERY_ROUTES

COLLECTOR, DELIVERY = "collector", "delivery"

# 408 is for those who stop in the middle of a body; whoever sends it whole never gets it.
_ANY = frozenset({403, 404, 405, 431})
_READING = frozenset({400, 401, 413, 415})
OF_COLLECTOR: dict[str, frozenset[int]] = {
    "segment": _ANY | _READING | {200},
    "snowplow_post": _ANY | {200, 400, 401, 422},
    "snowplow_get": _ANY | {200, 401},
    "pixel": _ANY | {200, 401},
    "settings": _ANY | {200, 401},
    "health": _ANY | {200},
    "ready": _ANY | {200},
    "metrics": _ANY | {200},
}
EVERY_COLLECTOR = frozenset().union(*OF_COLLECTOR.values()) | {204}
EVERY_DELIVERY = frozenset({404, 405, 431}).union(*({route.status, *route.problems} for route in DELIVERY_ROUTES)) - {
    503
}
UNKNOWN_METHODS = frozenset({"get", "X" * 30})
"""No methods of HTTP: the parser refuses them before it knows what is asked for."""
BODY_BYTES = 1_000_000


@dataclass
class Shot:
    """A request. wire: sent as it is instead of what the fields say; then the connection is not used again."""

    side: str
    method: str
    target: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    chunked: bool = False
    wire: bytes = b""

    def allowed(self) -> frozenset[int]:
        """The documented answers: those of its route, or of any where the address or the wire was spoilt."""
        if self.wire:  # HTTP itself may be wrong: the server's own 400, and none at all
            return (EVERY_COLLECTOR if self.side == COLLECTOR else EVERY_DELIVERY) | {0, 400, 501, 505}
        if self.method in UNKNOWN_METHODS:
            return frozenset({400})
        path = self.target.partition("?")[0]
        if self.side == DELIVERY:
            return EVERY_DELIVERY
        route = next((one for one in COLLECTOR_ROUTES if one.path == path.rstrip("/")), None)
        found = OF_COLLECTOR[route.handler] if route is not None else EVERY_COLLECTOR
        found |= {413, 422} if len(self.body) > BODY_BYTES else frozenset()  # too large, whoever asked for none
        return found | {204} if self.method == "OPTIONS" else found

    def payload(self) -> bytes:
        """The bytes on the wire."""
        if self.wire:
            return self.wire
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        body = self.body
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
            parts = [body[at : at + 1_000] for at in range(0, len(body), 1_000)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        elif body or self.method in ("POST", "PUT", "PATCH"):
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body
