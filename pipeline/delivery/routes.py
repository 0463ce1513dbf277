"""Delivery's addresses, in one table: the application is wired from it, and the OpenAPI document is made from it."""

import re
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from pipeline.delivery import api
from pipeline.delivery.reports import BOTS, DIMENSIONS, INTERVALS, METRICS, ROWS_MAX


@dataclass(frozen=True)
class Route:
    """One address. name: of the method of Delivery that answers it, and of its metric label.

    takes, gives: models of the JSON body and answer; media: of an answer that is no JSON. problems: error statuses.
    query: name -> (schema, meaning).
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
    query: tuple[tuple[str, dict[str, object], str], ...] = ()


_KEYED: Final = (401,)
_BODY: Final = (400, 408, 413, 415)
_ANY: Final = (431,)  # of every address
_TIME: Final = "ms since 1970 UTC, or ISO 8601"
_OF_PATH: Final[dict[str, dict[str, object]]] = {"decision_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"}}
_Query = tuple[str, dict[str, object], str]
_FILTERS: Final[tuple[_Query, ...]] = tuple(
    (name, {"type": "string"}, f"only this {name.replace('_', ' ')}") for name in DIMENSIONS
)
_ROLLUP_QUERY: Final[tuple[_Query, ...]] = (
    ("dimensions", {"type": "string"}, f"comma separated, of {', '.join(DIMENSIONS)}; those of one report only"),
    ("metrics", {"type": "string", "default": "events"}, f"comma separated, of {', '.join(METRICS)}"),
    ("from", {"type": "string"}, f"first moment: {_TIME}; 24 hours before `to` if left out"),
    ("to", {"type": "string"}, f"moment after the last: {_TIME}; now if left out"),
    ("interval", {"type": "string", "enum": list(INTERVALS), "default": "all"}, "one row for each"),
    ("site", {"type": "string"}, "only this site"),
    ("bots", {"type": "string", "enum": list(BOTS), "default": "exclude"}, "events made by machines"),
    ("limit", {"type": "integer", "minimum": 1, "maximum": ROWS_MAX, "default": 1000}, "rows at most"),
    *_FILTERS,
)

ROUTES: Final[tuple[Route, ...]] = (
    Route("POST", "/v1/decisions", "decide", "choose among actions for a visitor, now", api.DecisionRequest,
          api.DecisionAnswer, problems=_BODY + _KEYED, needs_key=True),
    Route("GET", "/v1/decisions/{decision_id}", "explained", "why a decision came out as it did",
          gives=api.DecisionExplained, problems=(404, 503, *_KEYED), needs_key=True),
    Route("POST", "/v1/decisions/{decision_id}/reward", "reward", "tell a decision's reward; 200 once it is stored",
          api.RewardRequest, api.RewardAnswer, problems=(404, 503, *_BODY, *_KEYED), needs_key=True),
    *(
        route
        for base in ("/personalizer/v1.0", "/placements/{placement}/personalizer/v1.0")
        for route in (
            Route("POST", f"{base}/rank", "rank", "Azure Personalizer's: rank actions", api.RankRequest,
                  api.RankAnswer, status=201, problems=_BODY + _KEYED, needs_key=True),
            Route("POST", f"{base}/events/{{event_id:path}}/reward", "reward_event", "Azure Personalizer's: a reward",
                  api.RewardEventRequest, media="", status=204, problems=(404, 503, *_BODY, *_KEYED), needs_key=True),
            Route("POST", f"{base}/events/{{event_id:path}}/activate", "activate_event",
                  "Azure Personalizer's: a deferred event was shown", media="", status=204,
                  problems=(404, 503, *_KEYED), needs_key=True),
        )
    ),
    Route("GET", "/v1/profiles/{visitor:path}", "profile", "what is known of a visitor", gives=api.ProfileAnswer,
          problems=(404, 503, *_KEYED), needs_key=True),
    Route("GET", "/v1/models/{placement:path}", "model", "what a placement has learnt", gives=api.ModelAnswer,
          problems=(404, 503, *_KEYED), needs_key=True),
    Route("GET", "/v1/reports/rollup", "rollup", "counts by minute, hour or day", gives=api.RollupAnswer,
          problems=(422, 503, *_KEYED), needs_key=True, query=_ROLLUP_QUERY),
    Route("GET", "/v1/i/{token}.gif", "impression", "signed: an action was seen; 503 where it could not be stored",
          media="image/gif", problems=(400, 503)),
    Route("GET", "/c/{token}", "click", "signed: an action was clicked; sends the visitor on", media="", status=302,
          problems=(400,)),
    Route("GET", "/healthz", "health", "200 while the process lives"),
    Route("GET", "/readyz", "ready", "200 once all is read and the log can be written", problems=(503,)),
    Route("GET", "/metrics", "metrics", "Prometheus", media="text/plain"),
    Route("GET", "/openapi.json", "openapi", "this document"),
    Route("GET", "/docs", "docs", "this document, for people", media="text/html"),
)  # fmt: skip

_REASONS: Final = {
    200: "done", 201: "ranked", 204: "taken", 302: "on to the target", 400: "malformed", 401: "no delivery key",
    404: "unknown", 408: "too slow",
    413: "too large", 415: "not JSON", 422: "not a report", 431: "too many headers",
    503: "away: try again after Retry-After seconds",
}  # fmt: skip


def document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of all addresses."""
    models = [model for route in ROUTES for model in (route.takes, route.gives) if model is not None]
    kinds = [(model, "validation") for model in dict.fromkeys([*models, api.ProblemDetails])]
    _, schemas = models_json_schema(kinds, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(re.sub(r":path}", "}", route.path), {})[route.method.lower()] = _operation(route)
    key = {"type": "http", "scheme": "bearer", "description": "a delivery key (HERALD_DELIVERY_KEYS), where any is set"}
    about = {"title": "Herald delivery", "version": "1", "description": "Live decisions, their rewards and reports."}
    return {
        "openapi": "3.1.0",
        "info": about,
        "paths": paths,
        "components": {"schemas": schemas["$defs"], "securitySchemes": {"key": key}},
    }


def _operation(route: Route) -> dict[str, Any]:
    operation = f"{route.name}_of_placement" if route.path.startswith("/placements/") else route.name
    found: dict[str, Any] = {"operationId": operation, "summary": route.meaning, "responses": {}}
    names = re.findall(r"{(\w+)", route.path)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _OF_PATH.get(name, {"type": "string"})}
        for name in names
    ]
    parameters += [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": meaning}
        for name, schema, meaning in route.query
    ]
    if parameters:
        found["parameters"] = parameters
    if route.takes is not None:
        found["requestBody"] = {"required": True, "content": _content("application/json", route.takes)}
    done: dict[str, Any] = {"description": _REASONS[route.status]}
    if route.media:
        done["content"] = _content(route.media, route.gives)
    found["responses"][str(route.status)] = done
    for status in sorted((*route.problems, *_ANY)):
        problem = _content("application/problem+json", api.ProblemDetails)
        found["responses"][str(status)] = {"description": _REASONS[status], "content": problem}
    if route.needs_key:
        found["security"] = [{"key": []}, {}]
    return found


def _content(media: str, model: type[BaseModel] | None) -> dict[str, Any]:
    return {media: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}} if model is not None else {}}
