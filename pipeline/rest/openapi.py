"""A service's addresses in one table: the application is wired from it, and the OpenAPI document is made from it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

Parameter = tuple[str, dict[str, object], str]
"""Name, JSON Schema and meaning of a query parameter or header."""


@dataclass(frozen=True)
class Route:
    """One address. name: of the method that answers it, and of its metric label. operation: its id, where not the name.

    takes, gives: models of the JSON body and answer; media: of an answer that is no JSON. problems: error statuses.
    also: further statuses that are no errors, with the same answer. query, headers: what it can be asked with.
    """

    method: str
    path: str
    name: str
    meaning: str
    takes: type[BaseModel] | None = None
    gives: type[BaseModel] | None = None
    media: str = "application/json"
    status: int = 200
    problems: tuple[int, ...] = ()
    needs_key: bool = False
    query: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    also: tuple[int, ...] = ()
    operation: str = ""


def common(ready: str) -> tuple[Route, ...]:
    """Return the addresses that every service has. ready: what /readyz says."""
    return (
        Route("GET", "/healthz", "health", "200 while the process lives"),
        Route("GET", "/readyz", "ready", ready, problems=(503,)),
        Route("GET", "/metrics", "metrics", "Prometheus", media="text/plain"),
        Route("GET", "/openapi.json", "openapi", "this document"),
        Route("GET", "/docs", "docs", "this document, for people", media="text/html"),
    )


@dataclass(frozen=True)
class About:
    """What a service's document says beside its addresses.

    reasons: status -> what it means. of_path: schemas of names in the addresses. key: what is asked for at the door.
    problem: model of an error's body. always: error statuses of every address.
    """

    title: str
    description: str
    key: str
    reasons: Mapping[int, str]
    problem: type[BaseModel]
    of_path: Mapping[str, dict[str, object]] = field(default_factory=dict)
    always: tuple[int, ...] = (431,)


VERSION: Final = "1"


def document(routes: Sequence[Route], about: About) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of all addresses."""
    models = [model for route in routes for model in (route.takes, route.gives) if model is not None]
    kinds = [(model, "validation") for model in dict.fromkeys([*models, about.problem])]
    _, schemas = models_json_schema(kinds, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(re.sub(r":path}", "}", route.path), {})[route.method.lower()] = _operation(route, about)
    key = {"type": "http", "scheme": "bearer", "description": about.key}
    return {
        "openapi": "3.1.0",
        "info": {"title": about.title, "version": VERSION, "description": about.description},
        "paths": paths,
        "components": {"schemas": schemas["$defs"], "securitySchemes": {"key": key}},
    }


def _operation(route: Route, about: About) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": route.operation or route.name,
        "summary": route.meaning,
        "responses": {},
    }
    parameters = _parameters(route, about)
    if parameters:
        found["parameters"] = parameters
    if route.takes is not None:
        found["requestBody"] = {"required": True, "content": _content("application/json", route.takes)}
    for status in (route.status, *route.also):
        done: dict[str, Any] = {"description": about.reasons[status]}
        if route.media:
            done["content"] = _content(route.media, route.gives)
        found["responses"][str(status)] = done
    for status in sorted((*route.problems, *about.always)):
        problem = _content("application/problem+json", about.problem)
        found["responses"][str(status)] = {"description": about.reasons[status], "content": problem}
    if route.needs_key:
        found["security"] = [{"key": []}, {}]
    return found


def _parameters(route: Route, about: About) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)", route.path)
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": about.of_path.get(name, {"type": "string"})}
        for name in names
    ]
    for place, given in (("query", route.query), ("header", route.headers)):
        found += [
            {"name": name, "in": place, "required": False, "schema": schema, "description": meaning}
            for name, schema, meaning in given
        ]
    return found


def _content(media: str, model: type[BaseModel] | None) -> dict[str, Any]:
    return {media: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}} if model is not None else {}}
