"""What a published creative shows: its content as it is, or, of a dynamic one, with what is known put in."""

import html
import re
from typing import Final

from pipeline.core.audience import Facts
from pipeline.core.audience_fields import BY_NAME
from pipeline.core.catalogue import LiveCreative

_PLACE: Final = re.compile(r"\{(profile|session|context)\.([A-Za-z0-9_.-]{1,64})\}")


def content_of(creative: LiveCreative, facts: Facts) -> dict[str, str]:
    """Return what to show; in a dynamic one what is known is put in, escaped for HTML, and the unknown is nothing."""
    if creative.kind != "dynamic":
        return dict(creative.content)

    def value(found: re.Match[str]) -> str:
        source, name = found.groups()
        if source == "context":
            known = facts.context.get(name)
        else:
            field = BY_NAME.get(f"{source}.{name}")
            known = field.read(facts) if field is not None else None
        return "" if known is None or isinstance(known, dict) else html.escape(str(known))

    return {part: _PLACE.sub(value, text) for part, text in creative.content.items()}
