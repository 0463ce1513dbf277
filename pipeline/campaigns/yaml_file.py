"""Campaigns as a YAML file: the kinds are the keys, and under each stand objects, a `status` beside their fields.

It is YAML without its traps: `no` is a word and not false, `12:30` a text and not 750, and a time stays the text that
the models read. A key that stands twice is an error. What has its default is left out, except the status.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.campaigns import rules
from pipeline.errors import HeraldError
from schemas.campaign import KINDS, Placement, Status, Stored

ERRORS_SHOWN_MAX: Final = 20
STATUS: Final = "status"


class FileError(HeraldError):
    """A file is not one of campaigns; the text has a line for each fault: where, what was wrong, what was expected."""


class Wanted(NamedTuple):
    """One object of a file. status: where it is to be; None where the file does not say."""

    kind: str
    body: BaseModel
    status: Status | None

    @property
    def id(self) -> str:
        """The object's id."""
        return str(self.body.id)  # type: ignore[attr-defined]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core: true, false, null, numbers, texts."""


class _Dumper(yaml.SafeDumper):
    """Puts into quotes what either YAML, PyYAML's or ours, would take for something else than a text."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands here twice", key.start_mark)
        seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


def _whole(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value)  # 010 is ten


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)


def _quoted(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """Line breaks stand as `\\n` in double quotes: in other styles PyYAML reads some of them as others."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, None if text.isprintable() else '"')


_Dumper.add_representer(str, _quoted)


def read(text: str) -> list[Wanted]:
    """Return the objects of a file, each behind those that it names. Raises FileError naming every fault."""
    try:
        found = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FileError(f"it is no YAML: {' '.join(str(error).split())[:500]}") from None
    kinds = ", ".join(KINDS)
    if found is None:
        found = {}
    if not isinstance(found, dict):
        raise FileError(f"expected a mapping with some of the keys {kinds}")
    faults = [f"{kind!s:.40}: unknown; expected some of {kinds}" for kind in found if kind not in KINDS]
    wanted: list[Wanted] = []
    for kind in rules.ORDER:
        wanted += sorted(_read_kind(kind, found.get(kind), faults), key=_is_group)
    if faults:
        more = [f"and {len(faults) - ERRORS_SHOWN_MAX} more"] if len(faults) > ERRORS_SHOWN_MAX else []
        raise FileError("\n".join([*faults[:ERRORS_SHOWN_MAX], *more]))
    return wanted


def _is_group(one: Wanted) -> bool:
    """A group of placements names others: it stands behind them."""
    return isinstance(one.body, Placement) and bool(one.body.members)


def _read_kind(kind: str, given: object, faults: list[str]) -> Iterator[Wanted]:
    if given is None:
        return
    if not isinstance(given, list):
        faults.append(f"{kind}: expected a list of objects")
        return
    seen: set[str] = set()
    for at, one in enumerate(given):
        name = f"{kind}/{one['id']}" if isinstance(one, dict) and "id" in one else f"{kind}[{at}]"
        wanted = _read_one(kind, one, name[:100], faults)
        if wanted is not None and wanted.id in seen:
            faults.append(f"{name}: it stands here twice")
        elif wanted is not None:
            seen.add(wanted.id)
            yield wanted


def _read_one(kind: str, given: object, name: str, faults: list[str]) -> Wanted | None:
    if not isinstance(given, dict):
        faults.append(f"{name}: expected an object with its fields")
        return None
    fields = dict(given)
    given_status = fields.pop(STATUS, None)
    status = next((one for one in Status if one == given_status), None)
    if given_status is not None and status is None:
        faults.append(f"{name}: {STATUS}: {given_status!r:.40}, expected one of {', '.join(Status)}")
    try:
        body = KINDS[kind].model_validate(fields)
    except ValidationError as error:
        for one in error.errors(include_url=False, include_context=False, include_input=False):
            where = ".".join(str(part) for part in one["loc"])
            faults.append(f"{name}: {f'{where}: ' if where else ''}{one['msg'].removeprefix('Value error, ')}")
        return None
    return Wanted(kind, body, status)


def write(objects: Iterable[Stored]) -> str:
    """Return a file that makes the same objects again, in the order of kinds and ids. Raises as `rules.read`."""
    found: dict[str, list[Mapping[str, object]]] = {}
    for stored in sorted(objects, key=lambda one: (list(KINDS).index(one.kind), one.id)):
        body = rules.read(stored).model_dump(mode="json", exclude_defaults=True)
        found.setdefault(stored.kind, []).append(body | {STATUS: stored.status.value})
    return yaml.dump(found, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)
