"""The common form of an event before it is clean: what every protocol's adapter must produce.

One pydantic schema for all protocols; its JSON Schema is exported to the docs. Numbers sent as text are taken as
numbers (pydantic's lax mode), what cannot be read is refused as `bad_type` with the field's name. Money is a decimal
number of units here ("9.50") and integer micros from the clean stage on.

A field that holds what is expected is checked without calling Python: of a union the left side is tried first, and
only what it refuses (a number for a text, a text that is too long) reaches the function on the right.
"""

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, WithJsonSchema
from typing_extensions import TypedDict

TEXT_CHARS_MAX = 1_024
ID_CHARS_MAX = 256
URL_CHARS_MAX = 16_384


def _as_text(value: object) -> object:
    """Ids and labels are often sent as numbers: 42 is "42", and 42.0 too; True is no number but a word."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) else value


def _as_label(value: object) -> object:
    text = _as_text(value)
    return text[:TEXT_CHARS_MAX] if isinstance(text, str) else text


def _as_url(value: object) -> object:
    return value[:URL_CHARS_MAX] if isinstance(value, str) else value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    return value


_LEFT_FIRST = Field(union_mode="left_to_right")
_label_schema = WithJsonSchema({"type": ["string", "number", "boolean"], "description": "cut at 1,024 characters"})
_id_schema = WithJsonSchema({"type": ["string", "number"], "maxLength": ID_CHARS_MAX})

# What people read may be cut; what names something may not: a cut id is another id.
Label = Annotated[
    Annotated[str, Field(max_length=TEXT_CHARS_MAX)] | Annotated[str, BeforeValidator(_as_label)],
    _LEFT_FIRST,
    _label_schema,
]
Id = Annotated[
    Annotated[str, Field(max_length=ID_CHARS_MAX)]
    | Annotated[str, BeforeValidator(_as_text), Field(max_length=ID_CHARS_MAX)],
    _LEFT_FIRST,
    _id_schema,
]
Url = Annotated[
    Annotated[str, Field(max_length=URL_CHARS_MAX)] | Annotated[str, BeforeValidator(_as_url)],
    _LEFT_FIRST,
    WithJsonSchema({"type": "string", "description": "cut at 16,384 characters"}),
]
Money = Annotated[Decimal, Field(ge=-1_000_000_000, le=1_000_000_000, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=-(2**31), le=2**31)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Moment = Annotated[Any, WithJsonSchema({"description": "ISO 8601, or unix time in s or ms; else the received time"})]
Person = Annotated[Any, WithJsonSchema({"description": "text or number; what names nobody is dropped"})]


class Incoming(TypedDict, total=False):
    """One event in the common form. Only `type` is required."""

    __pydantic_config__ = ConfigDict(extra="forbid", str_strip_whitespace=True)  # type: ignore[misc]

    type: Label
    name: Label
    user_id: Person
    event_time: Moment
    sent_time: Moment
    url: Url
    title: Label
    referrer: Url
    user_agent: Label
    language: Label
    utm_source: Label
    utm_medium: Label
    utm_campaign: Label
    utm_term: Label
    utm_content: Label
    campaign_id: Id
    creative_id: Id
    placement_id: Id
    action_id: Id
    decision_id: Id
    product_id: Id
    category: Label
    brand: Label
    quantity: Count
    price: Money
    revenue: Money
    cost: Money
    currency: Annotated[str, Field(max_length=8)]
    search: Label
    score: Number
    stock_level: Count
    properties: Annotated[dict[Any, Any], WithJsonSchema({"type": "object"})]


INCOMING: TypeAdapter[Incoming] = TypeAdapter(Incoming)
