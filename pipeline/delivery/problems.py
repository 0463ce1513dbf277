"""Errors as HTTP answers: problem details (RFC 9457), with what was wrong, where, and what was expected."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec
from pydantic import ValidationError

from pipeline.delivery.web import Answer

ERRORS_SHOWN_MAX = 10
SAFE_HEADERS = (("x-content-type-options", "nosniff"), ("cache-control", "no-store"))


class Problem(Exception):
    """A request is answered with an error.

    status: HTTP status. code: one word for programs and metrics. detail: a sentence for people.
    errors: (place, what was expected) for each wrong field.
    """

    def __init__(
        self, status: int, code: str, detail: str, errors: Sequence[tuple[str, str]] = (), retry_after_s: int = 0
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors = errors
        self.retry_after_s = retry_after_s


def away(what: str) -> Problem:
    """Return the answer for something that is away, and will be back: 503 with Retry-After."""
    return Problem(503, "unavailable", f"{what}; the same request may succeed later", retry_after_s=1)


def invalid(status: int, error: ValidationError, what: str) -> Problem:
    """Return the answer for a body or query that does not fit its model. what: "request body", "query"."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return Problem(400, "bad_json", f"{what}: {found[0]['msg']}; expected a JSON object in UTF-8")
    errors = [(".".join(str(part) for part in one["loc"])[:200], _said(one["msg"])) for one in found[:ERRORS_SHOWN_MAX]]
    first = f"{errors[0][0] or what}: {errors[0][1]}"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Problem(status, "invalid", first + more, errors)


def _said(message: str) -> str:
    """Return what a check said, without pydantic's words about its kind."""
    return message.removeprefix("Value error, ")


def render(problem: Problem, headers: Mapping[str, str] | None = None) -> Answer:
    """Return the HTTP answer of a problem. headers: more for the answer."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        "errors": [{"where": where, "expected": what} for where, what in problem.errors],
    }
    found = [*SAFE_HEADERS, *(headers or {}).items()]
    if problem.retry_after_s:
        found.append(("retry-after", str(problem.retry_after_s)))
    if problem.status == 401:
        found.append(("www-authenticate", "Bearer"))
    return Answer(problem.status, msgspec.json.encode(body), "application/problem+json", found)
