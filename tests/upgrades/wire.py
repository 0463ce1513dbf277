"""Every kind of value in every topic: today's, the frozen one, and one as a later version may write it.

A later version only appends fields, with defaults, to any struct at any depth. `grown` makes such a version of a kind.
"""

import gzip
import json
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from schemas import block, model, profile, session, state
from schemas.topics import (
    BAD,
    CLEAN_STATE,
    COLLECTED,
    EVENTS,
    MODELS,
    OUTCOMES,
    PROFILES,
    SESSIONISE_STATE,
    SESSIONS,
)  # fmt: skip
from tests.upgrades.frozen_v1 import block as block_v1
from tests.upgrades.frozen_v1 import model as model_v1
from tests.upgrades.frozen_v1 import profile as profile_v1
from tests.upgrades.frozen_v1 import session as session_v1
from tests.upgrades.frozen_v1 import state as state_v1

ADDED = "of a later version"

Kind = type[Struct]

BLOCKS: dict[str, tuple[Kind, Kind]] = {
    COLLECTED.name: (block.CollectedBlock, block_v1.CollectedBlock),
    EVENTS.name: (block.EventBlock, block_v1.EventBlock),
    BAD.name: (block.RefusedBlock, block_v1.RefusedBlock),
    SESSIONS.name: (block.SessionBlock, block_v1.SessionBlock),
    OUTCOMES.name: (block.OutcomeBlock, block_v1.OutcomeBlock),
}
STATE_TOPICS = (CLEAN_STATE.name, SESSIONISE_STATE.name, PROFILES.name, MODELS.name)
FIXED: dict[str, tuple[Kind, Kind]] = {
    CLEAN_STATE.name: (block.Totals, block_v1.Totals),
    SESSIONISE_STATE.name: (session.SessioniseFixed, session_v1.SessioniseFixed),
    PROFILES.name: (profile.ProfileFixed, profile_v1.ProfileFixed),
    MODELS.name: (model.LearnFixed, model_v1.LearnFixed),
}
ENTRIES: dict[str, tuple[Kind, Kind]] = {
    SESSIONISE_STATE.name: (session.VisitorSessions, session_v1.VisitorSessions),
    PROFILES.name: (profile.VisitorState, profile_v1.VisitorState),
    MODELS.name: (model.PlacementModel, model_v1.PlacementModel),
}
"""clean's entries are the hashes themselves, without a struct."""
RECORD = (state.StateRecord, state_v1.StateRecord)


class Line(NamedTuple):
    """One record of the frozen log."""

    topic: str
    value: bytes
    headers: list[tuple[str, bytes]]


@cache
def frozen_log() -> tuple[Line, ...]:
    """Return the log that the first released version wrote: every topic, one partition, in the order of writing."""
    text = gzip.decompress((Path(__file__).parent / "log_v1.jsonl.gz").read_bytes()).decode()
    lines = [json.loads(line) for line in text.splitlines()]
    return tuple(
        Line(one["topic"], bytes.fromhex(one["value"]), [(k, v.encode()) for k, v in one["headers"].items()])
        for one in lines
    )


@cache
def grown(kind: Kind) -> Kind:
    """Return the kind with a field appended, and so all structs inside it."""
    info = {field.name: field for field in msgspec.structs.fields(kind)}
    hints = get_type_hints(kind)
    fields: list[Any] = []
    for name, field in info.items():
        hint = _grown_hint(hints[name])
        if field.default is not msgspec.NODEFAULT:
            fields.append((name, hint, field.default))
        elif field.default_factory is not msgspec.NODEFAULT:
            fields.append((name, hint, msgspec.field(default_factory=field.default_factory)))
        else:
            fields.append((name, hint))
    fields.append(("added", str, ADDED))
    config = kind.__struct_config__
    return msgspec.defstruct(f"Later{kind.__name__}", fields, array_like=config.array_like)


def _grown_hint(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, Struct):
        return grown(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return Union[tuple(_grown_hint(arg) for arg in args)]  # noqa: UP007 - made at run time
    if origin in (list, dict, tuple):
        return origin[tuple(arg if arg is Ellipsis else _grown_hint(arg) for arg in args)]
    return hint


def as_later(value: Struct) -> Struct:
    """Return the value as a later version has it."""
    return msgspec.convert(value, grown(type(value)), from_attributes=True)


def plain(value: Struct) -> Any:
    """Return a value as nested lists and dicts, structs as dicts by the names of their fields."""
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return str(value) if isinstance(value, str) else value


def agrees(old: Any, new: Any) -> bool:
    """Say whether all that the old side knows is the same on the new side, which may know more."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(name in new and agrees(value, new[name]) for name, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(agrees(one, other) for one, other in zip(old, new, strict=True))
    return bool(old == new)
