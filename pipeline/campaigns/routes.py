"""The campaigns' addresses, in one table: the same eight for each kind of object."""

from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from pipeline.campaigns.store import PAGE_MAX
from pipeline.delivery.api import ProblemDetails
from pipeline.rest import openapi
from pipeline.rest.openapi import About, Parameter, Route
from schemas.campaign import KEY_PATTERN, KINDS, PARENTS, Status, Stored

VERSION_MAX: Final = 2**31 - 1
SEQ_MAX: Final = 2**53 - 1
LIMIT: Final = 100


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StepRequest(_In):
    """Where an object's status is to go."""

    to: Status


class RollbackRequest(_In):
    """Whose body the new version is to have."""

    version: Annotated[int, Field(ge=1, le=VERSION_MAX)]


class ObjectsAnswer(BaseModel):
    """Objects in the order of their ids. next: give it as `after` for those behind; null where there are none."""

    items: list[Stored]
    next: str | None


class VersionsAnswer(BaseModel):
    """Versions, the oldest first. next: give it as `after` for those behind; null where there are none."""

    items: list[Stored]
    next: int | None


class Different(BaseModel):
    """One place that differs. op: add, remove or replace. path: a JSON Pointer into the body."""

    op: str
    path: str
    before: object = None
    after: object = None


class DiffAnswer(BaseModel):
    """What differs between two versions of an object."""

    older: Annotated[int, Field(description="the version asked as `from`")]
    newer: Annotated[int, Field(description="the version asked as `to`")]
    differences: list[Different]
    status: Annotated[list[Status], Field(description="of both; [] where it is the same")]


class Audited(BaseModel):
    """One change: who, when (ms since 1970 UTC), what of which object, from where. seq: rises with time."""

    seq: int
    at_ms: int
    who: str
    whence: str
    what: str
    kind: str
    id: str
    version: int


class AuditAnswer(BaseModel):
    """Changes, the oldest first. next: give it as `after` for those behind; null where there are none."""

    items: list[Audited]
    next: int | None


_KEYED: Final = (401, 503)
_BODY: Final = (400, 408, 413, 415)
_CONDITION: Final = (409, 412, 422, 428)
_IF_MATCH: Final[Parameter] = ("If-Match", {"type": "string"}, 'the ETag that you have read, as in `"3"`')
_IF_NONE: Final[Parameter] = ("If-None-Match", {"type": "string", "enum": ["*"]}, "`*`: create; it must not be there")
_LIMIT: Final[Parameter] = (
    "limit",
    {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": LIMIT},
    "so many at most",
)
_AFTER: Final[Parameter] = (
    "after",
    {"type": "integer", "minimum": 0, "maximum": SEQ_MAX, "default": 0},
    "only those behind it",
)


def _number(name: str, meaning: str) -> Parameter:
    return (name, {"type": "integer", "minimum": 1, "maximum": VERSION_MAX}, meaning)


def _of(kind: str) -> Iterator[Route]:
    one, model = kind.removesuffix("s"), KINDS[kind]
    own, read, write = f"/v1/{kind}/{{id}}", (404, *_KEYED), (*_BODY, *_CONDITION, *_KEYED)
    parent: tuple[Parameter, ...] = ()
    if kind in PARENTS:
        parent = (("parent", {"type": "string"}, f"only of this {PARENTS[kind][0]}"),)
    filters: tuple[Parameter, ...] = (
        ("status", {"type": "string", "enum": list(Status)}, "only of this status"),
        *parent,
        ("label", {"type": "string"}, "`name=value` or `name`; several: all must fit"),
        _LIMIT,
        ("after", {"type": "string"}, "only ids behind this one"),
    )
    yield Route("GET", f"/v1/{kind}", "page", f"the {kind}, filtered", gives=ObjectsAnswer, problems=(422, *_KEYED),
                needs_key=True, query=filters, operation=f"list_{kind}")  # fmt: skip
    yield Route("GET", own, "one", f"a {one}, with its ETag", gives=Stored, problems=read, needs_key=True,
                operation=f"get_{one}")  # fmt: skip
    yield Route("PUT", own, "put", f"create a {one}, or change it", model, Stored, problems=write, needs_key=True,
                headers=(_IF_MATCH, _IF_NONE), also=(201,), operation=f"put_{one}")  # fmt: skip
    yield Route("POST", f"{own}/status", "step", "take it to another status", StepRequest, Stored,
                problems=(404, *write), needs_key=True, headers=(_IF_MATCH,), operation=f"step_{one}")  # fmt: skip
    yield Route("POST", f"{own}/rollback", "rollback", "give it an older body, as a new version", RollbackRequest,
                Stored, problems=(404, *write), needs_key=True, headers=(_IF_MATCH,),
                operation=f"rollback_{one}")  # fmt: skip
    yield Route("GET", f"{own}/versions", "versions", "all its versions", gives=VersionsAnswer,
                problems=(422, *read), needs_key=True, query=(_LIMIT, _AFTER),
                operation=f"versions_of_{one}")  # fmt: skip
    yield Route("GET", f"{own}/versions/{{version}}", "version", "one of its versions", gives=Stored, problems=read,
                needs_key=True, operation=f"version_of_{one}")  # fmt: skip
    yield Route("GET", f"{own}/diff", "diff", "what differs between two versions", gives=DiffAnswer,
                problems=(422, *read), needs_key=True, operation=f"diff_of_{one}",
                query=(_number("from", "a version; the one before `to` if left out"),
                       _number("to", "a version; the newest if left out")))  # fmt: skip


def routes_of(kind: str) -> tuple[Route, ...]:
    """Return the addresses of a kind of object."""
    return tuple(_of(kind))


COMMON: Final[tuple[Route, ...]] = (
    Route("GET", "/v1/audit", "audit", "who changed what, when and from where", gives=AuditAnswer,
          problems=(422, *_KEYED), needs_key=True,
          query=(("kind", {"type": "string", "enum": list(KINDS)}, "only this kind"),
                 ("id", {"type": "string"}, "only this object (with its kind)"), _LIMIT, _AFTER)),
    *openapi.common("200 once the store answers"),
)  # fmt: skip

_REASONS: Final = {
    200: "done", 201: "created", 400: "malformed", 401: "no campaigns key", 404: "unknown", 408: "too slow",
    409: "not from where it stands: a step that its status has not, or a field that is fixed",
    412: "not as you have read it: read it again", 413: "too large", 415: "not JSON",
    422: "it names what is not there, or what does not parse", 428: "expected If-Match or If-None-Match",
    431: "too many headers", 503: "away: try again after Retry-After seconds",
}  # fmt: skip

_ABOUT: Final = About(
    title="Herald campaigns",
    description="Advertisers, campaigns, lines, creatives, placements and experiments: versions, status, audit.",
    key="a campaigns key (HERALD_CAMPAIGNS_KEYS), where any is set; its name is written down with each change",
    reasons=_REASONS,
    problem=ProblemDetails,
    of_path={
        "id": {"type": "string", "pattern": KEY_PATTERN},
        "version": {"type": "integer", "minimum": 1, "maximum": VERSION_MAX},
    },
)

ROUTES: Final[tuple[Route, ...]] = (*(route for kind in KINDS for route in routes_of(kind)), *COMMON)


def document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of all addresses."""
    return openapi.document(ROUTES, _ABOUT)
