"""Delivery's addresses, in one table: the application is wired from it, and the OpenAPI document is made from it."""

from typing import Any, Final

from pipeline.delivery import api, kevel
from pipeline.delivery.campaign_report import CampaignsReport
from pipeline.delivery.reports import BOTS, DIMENSIONS, INTERVALS, METRICS, ROWS_MAX
from pipeline.rest import openapi
from pipeline.rest.openapi import About, Parameter, Route

_KEYED: Final = (401,)
_BODY: Final = (400, 408, 413, 415)
_TIME: Final = "ms since 1970 UTC, or ISO 8601"
_OF_PATH: Final[dict[str, dict[str, object]]] = {"decision_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"}}
_FILTERS: Final[tuple[Parameter, ...]] = tuple(
    (name, {"type": "string"}, f"only this {name.replace('_', ' ')}") for name in DIMENSIONS
)
_SPAN_QUERY: Final[tuple[Parameter, ...]] = (
    ("from", {"type": "string"}, f"first moment: {_TIME}; 24 hours before `to` if left out"),
    ("to", {"type": "string"}, f"moment after the last: {_TIME}; now if left out"),
    ("interval", {"type": "string", "enum": ["minute", "hour", "day"], "default": "hour"}, "one point for each"),
)
_ROLLUP_QUERY: Final[tuple[Parameter, ...]] = (
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
    Route("POST", "/v1/decisions", "decide", "choose what to show a visitor, now: in one place or several",
          api.DecisionRequest, api.Decided, problems=(404, 503, *_BODY, *_KEYED), needs_key=True),
    Route("GET", "/v1/decisions/{decision_id}", "explained", "why a decision came out as it did",
          gives=api.DecisionExplained, problems=(404, 503, *_KEYED), needs_key=True),
    Route("POST", "/v1/decisions/{decision_id}/reward", "reward", "tell a decision's reward; 200 once it is stored",
          api.RewardRequest, api.RewardAnswer, problems=(404, 503, *_BODY, *_KEYED), needs_key=True),
    *(
        route
        for base, which in (
            ("/personalizer/v1.0", ""),
            ("/placements/{placement}/personalizer/v1.0", "_of_placement"),
        )
        for route in (
            Route("POST", f"{base}/rank", "rank", "Azure Personalizer's: rank actions", api.RankRequest,
                  api.RankAnswer, status=201, problems=_BODY + _KEYED, needs_key=True, operation=f"rank{which}"),
            Route("POST", f"{base}/events/{{event_id:path}}/reward", "reward_event", "Azure Personalizer's: a reward",
                  api.RewardEventRequest, media="", status=204, problems=(404, 503, *_BODY, *_KEYED), needs_key=True,
                  operation=f"reward_event{which}"),
            Route("POST", f"{base}/events/{{event_id:path}}/activate", "activate_event",
                  "Azure Personalizer's: a deferred event was shown", media="", status=204,
                  problems=(404, 503, *_KEYED), needs_key=True, operation=f"activate_event{which}"),
        )
    ),
    Route("POST", "/v1/audiences/explain", "audience", "whether a visitor is in an audience, and why",
          api.AudienceQuestion, api.AudienceAnswer, problems=(404, *_BODY, *_KEYED), needs_key=True),
    Route("POST", "/api/v2", "kevel", "Kevel's: decisions for the places of a page", kevel.KevelRequest,
          kevel.KevelAnswer, problems=(404, 503, *_BODY, *_KEYED), needs_key=True),
    Route("GET", "/v1/profiles/{visitor:path}", "profile", "what is known of a visitor", gives=api.ProfileAnswer,
          problems=(404, 503, *_KEYED), needs_key=True),
    Route("GET", "/v1/models/{placement:path}", "model", "what a placement has learnt", gives=api.ModelAnswer,
          problems=(404, 503, *_KEYED), needs_key=True),
    Route("GET", "/v1/learning/{placement:path}", "learning",
          "how a placement has learnt: arms over time, regret, drift",
          gives=api.LearningAnswer, problems=(404, 422, 503, *_KEYED), needs_key=True, query=_SPAN_QUERY),
    Route("GET", "/v1/reports/rollup", "rollup", "counts by minute, hour or day", gives=api.RollupAnswer,
          problems=(422, 503, *_KEYED), needs_key=True, query=_ROLLUP_QUERY),
    Route("GET", "/v1/reports/campaigns", "campaigns_report", "how every campaign does, and why a line is not shown",
          gives=CampaignsReport, problems=(422, *_KEYED), needs_key=True,
          query=(("from", {"type": "string"}, f"counts begin with: {_TIME}; 24 hours ago if left out"),)),
    Route("GET", "/campaigns", "campaigns_page", "that report, for people", media="text/html"),
    Route("GET", "/v1/i/{token}.gif", "impression", "signed: an action was seen; 503 where it could not be stored",
          media="image/gif", problems=(400, 503)),
    Route("GET", "/c/{token}", "click", "signed: an action was clicked; sends the visitor on", media="", status=302,
          problems=(400,)),
    *openapi.common("200 once all is read and the log can be written"),
)  # fmt: skip

_REASONS: Final = {
    200: "done", 201: "ranked", 204: "taken", 302: "on to the target", 400: "malformed", 401: "no delivery key",
    404: "unknown", 408: "too slow",
    413: "too large", 415: "not JSON", 422: "not a report", 431: "too many headers",
    503: "away: try again after Retry-After seconds",
}  # fmt: skip

_ABOUT: Final = About(
    title="Herald delivery",
    description="Live decisions, their rewards and reports.",
    key="a delivery key (HERALD_DELIVERY_KEYS), where any is set",
    reasons=_REASONS,
    problem=api.ProblemDetails,
    of_path=_OF_PATH,
)


def document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of all addresses."""
    return openapi.document(ROUTES, _ABOUT)
