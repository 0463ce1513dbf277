"""The common form of an event before it is clean: what every protocol's adapter must produce.

One pydantic schema for all protocols; its JSON Schema is exported to the docs. Numbers sent as text are taken as
numbers (pydantic's lax mode), what cannot be read is refused as `bad_type` with the field's name. Money is a decimal
number of units here ("9.50") and integer micros from the clean stage on.
"""

from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

TEXT_CHARS_MAX = 1_024
ID_CHARS_MAX = 256


def _text(value: object) -> object:
    """Ids and labels are often sent as numbers: 42 is "42", and 42.0 too; True is no label."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) else value


Label = Annotated[str, BeforeValidator(_text), Field(max_length=TEXT_CHARS_MAX)]
Id = Annotated[str, BeforeValidator(_text), Field(max_length=ID_CHARS_MAX)]
Url = Annotated[str, Field(max_length=16_384)]
Money = Annotated[Decimal, Field(ge=-1_000_000_000, le=1_000_000_000, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=-(2**31), le=2**31)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Incoming(TypedDict, total=False):
    """One event in the common form. Only `type` is required."""

    __pydantic_config__ = ConfigDict(extra="forbid", str_strip_whitespace=True)  # type: ignore[misc]

    type: Label
    name: Label
    user_id: Id
    event_time: str | int | float  # ISO 8601, or unix time in s or ms
    sent_time: str | int | float
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
    properties: dict[str, object]


INCOMING: TypeAdapter[Incoming] = TypeAdapter(Incoming)
