"""JSON Schema of what comes in and goes out, and delivery's OpenAPI document."""

import json
import re
from typing import Any

from pydantic import BaseModel

from pipeline.campaigns import routes as campaigns
from pipeline.collector.segment import SHORT_KINDS
from pipeline.core.adapt import SECOND_NAMES, SEGMENT_CAMPAIGN, SEGMENT_PROPERTIES
from pipeline.delivery.routes import ROUTES, document
from pipeline.settings import Settings
from schemas.incoming import ID_CHARS_MAX, INCOMING

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TIME = {"type": ["string", "number"], "description": "ISO 8601, or unix time in s or ms"}
IDENTITY = {"type": ["string", "number", "null"], "maxLength": ID_CHARS_MAX}


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def openapi() -> str:
    """Return delivery's OpenAPI document, as /openapi.json serves it."""
    return _text(document())


def openapi_of_campaigns() -> str:
    """Return the campaigns' OpenAPI document, as their /openapi.json serves it."""
    return _text(campaigns.document())


def all_schemas() -> dict[str, str]:
    """Return each JSON Schema: file name -> text."""
    made = {"incoming": INCOMING.json_schema(), "segment-batch": segment_batch()}
    for route in (*ROUTES, *campaigns.ROUTES):
        if route.takes is not None:
            made[_file_name(route.takes)] = route.takes.model_json_schema(mode="validation")
        if route.gives is not None:
            made[_file_name(route.gives)] = route.gives.model_json_schema(mode="serialization")
    return {f"{name}.schema.json": _text({"$schema": DIALECT} | schema) for name, schema in made.items()}


def _file_name(model: type[BaseModel]) -> str:
    """DecisionRequest -> decision-request."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", model.__name__).lower()


def segment_batch() -> dict[str, Any]:
    """Return the schema of `POST /v1/batch`, as the collector and the clean stage read it."""
    return {
        "title": "Segment batch, as accepted",
        "description": "Unknown keys are kept in the event's properties. One bad event is refused alone.",
        "type": "object",
        "properties": {
            "batch": {
                "type": "array",
                "minItems": 1,
                "maxItems": Settings.model_fields["batch_events_max"].default,
                "items": _segment_event(),
            },
            "sentAt": TIME | {"description": "the client's clock when it sent: corrects its event times"},
            "writeKey": {"type": "string", "description": "where there is no Basic auth and no X-Write-Key"},
        },
        "required": ["batch"],
    }


def _segment_event() -> dict[str, Any]:
    known = {
        name: {"description": f"becomes `{ours}`"} for name, ours in {**SEGMENT_PROPERTIES, **SECOND_NAMES}.items()
    }
    return {
        "type": "object",
        "properties": {
            "type": {"enum": sorted(set(SHORT_KINDS.values()) - {"batch"})},
            "event": {"type": "string", "description": "name of a track event"},
            "name": {"type": "string", "description": "name of a page or screen"},
            "messageId": IDENTITY | {"description": "the same id again is stored once"},
            "anonymousId": IDENTITY | {"description": "the visitor"},
            "userId": IDENTITY | {"description": "the known user; the visitor where there is no anonymousId"},
            "timestamp": TIME,
            "properties": {"type": "object", "properties": known},
            "traits": {"type": "object", "description": "of identify and group, instead of properties"},
            "context": {"type": "object", "properties": _segment_context()},
        },
        "required": ["type"],
    }


def _segment_context() -> dict[str, Any]:
    campaign = {name: {"description": f"becomes `{ours}`"} for name, ours in SEGMENT_CAMPAIGN.items()}
    return {
        "campaign": {"type": "object", "properties": campaign},
        "page": {"type": "object", "description": "url, title, referrer"},
        "userAgent": {"type": "string"},
        "locale": {"type": "string"},
        "consent": {"description": "false, or categoryPreferences that are all false: counted without any id"},
    }
