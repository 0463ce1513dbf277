"""Who may send from a browser, and which headers tell it so."""

from collections.abc import Sequence

Headers = list[tuple[str, str]]

MAX_AGE_S = 600


class Origins:
    """The allowed origins. `*` allows every named one (echoed: with cookies a literal * is void); `null` never is."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allowed)
        self._any = "*" in self._allowed

    def allows(self, origin: str) -> bool:
        """True where no browser asks (no Origin header) or its page may send."""
        if not origin:
            return True
        return origin != "null" and (self._any or origin.lower() in self._allowed)

    def headers(self, origin: str) -> Headers:
        """Headers of every answer: empty where there is no origin or it may not."""
        if not origin or not self.allows(origin):
            return [("vary", "Origin")]
        return [
            ("vary", "Origin"),
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "Retry-After"),
        ]

    def preflight(self, origin: str, asked_headers: str, methods: Sequence[str]) -> Headers:
        """What the answer to OPTIONS adds: the headers asked for are mirrored, since each SDK has its own."""
        found = [("allow", ", ".join(methods))]
        if origin and self.allows(origin):
            found += [
                ("access-control-allow-methods", ", ".join(methods)),
                ("access-control-allow-headers", asked_headers or "content-type"),
                ("access-control-max-age", str(MAX_AGE_S)),
            ]
        return found
