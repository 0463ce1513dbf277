"""Reads the file that describes a policy to evaluate: YAML or TOML.

Whatever is wrong is said with its place (line and column in YAML, the key's path in TOML) and what was expected.
"""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from pipeline.core.evaluate.targets import KINDS, Spec
from pipeline.errors import SettingsError

FILE_BYTES_MAX: Final = 1_048_576
Place = tuple[str | int, ...]
Places = Mapping[Place, tuple[int, int]]  # path of a key -> (line, column), from 1


def read_policy(path: Path) -> Spec:
    """Return what a file describes. path: *.toml is read as TOML, all else as YAML.

    Raises SettingsError with one line for each mistake: file, place, what was found, what was expected.
    """
    text = _text(path)
    content, places = _toml(path, text) if path.suffix == ".toml" else _yaml(path, text)
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: found {_kind_of(content)}, expected `policy: NAME` and its parameters")
    name = content.get("policy")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        found = f"unknown policy {name!r}" if "policy" in content else "no policy is named"
        raise SettingsError(f"{_at(path, ('policy',), places)}: {found}, expected one of {', '.join(KINDS)}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        lines = [_line(path, places, kind, dict(one)) for one in error.errors(include_url=False)]
        raise SettingsError("\n".join(lines)) from None


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}, expected a file that describes a policy") from error
    if len(raw) > FILE_BYTES_MAX:
        raise SettingsError(f"{path}: {len(raw):,} bytes, expected {FILE_BYTES_MAX:,} at most")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: byte {error.start} is no UTF-8, expected text") from None


def _toml(path: Path, text: str) -> tuple[object, Places]:
    try:
        return tomllib.loads(text), {}
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}, expected TOML") from None


def _yaml(path: Path, text: str) -> tuple[object, Places]:
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        places: dict[Place, tuple[int, int]] = {}
        if node is not None:
            _note(path, node, (), places)
        content = loader.construct_document(node) if node is not None else None
        return content, places
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise SettingsError(f"{where}: {error.problem or error.context}, expected YAML") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: {' '.join(str(error).split())}, expected YAML") from None


def _note(path: Path, node: Any, place: Place, places: dict[Place, tuple[int, int]]) -> None:
    """Write down where every key stands; a key that stands there twice is a mistake (YAML would take the last)."""
    places[place] = (node.start_mark.line + 1, node.start_mark.column + 1)
    if node.id != "mapping":
        return
    for key, value in node.value:
        at = (*place, str(key.value))
        here = (key.start_mark.line + 1, key.start_mark.column + 1)
        if at in places:
            first = places[at]
            raise SettingsError(
                f"{path}:{here[0]}:{here[1]}: {key.value} stands here again, expected it once (line {first[0]})"
            )
        if len(at) < 4:
            _note(path, value, at, places)
        places[at] = here


def _at(path: Path, place: Place, places: Places) -> str:
    """Return where a key stands, or the nearest thing around it that has a place."""
    for end in range(len(place), -1, -1):
        found = places.get(place[:end])
        if found:
            return f"{path}:{found[0]}:{found[1]}"
    return str(path)


def _line(path: Path, places: Places, kind: type[Spec], error: Mapping[str, Any]) -> str:
    """Return one mistake as a line."""
    place = tuple(str(one) for one in error["loc"] if one != "[key]")
    name = ".".join(place) or "policy"
    given = error["input"]
    if error["type"] == "extra_forbidden":
        known = [one for one in kind.model_fields if one != "policy"]
        near = difflib.get_close_matches(place[-1], known, 1)
        expected = f"{near[0]}?" if near else (f"one of {', '.join(known)}" if known else "nothing but the policy")
        said = f"unknown, expected {expected}"
    elif error["type"] == "missing":
        said = "missing, expected " + ("probabilities by action id" if name == "actions" else "a value")
    elif error["type"] == "value_error":
        said = str(error["ctx"]["error"])
    else:
        said = f"found {_short(given)}, expected: {error['msg'].removeprefix('Input should be ')}"
        if "[key]" in error["loc"]:
            said += f' (write "{given}")'
    return f"{_at(path, place, places)}: {name}: {said}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _kind_of(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
