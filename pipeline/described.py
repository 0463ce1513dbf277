"""Reads a file in which somebody describes something (a policy, an experiment): YAML or TOML, checked by a model.

Whatever is wrong is said with its place (line and column in YAML, the key's path in TOML) and what was expected.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import SettingsError

FILE_BYTES_MAX: Final = 1_048_576
DEPTH_MAX: Final = 6
Place = tuple[str, ...]
Places = Mapping[Place, tuple[int, int]]  # path of a key -> (line, column), from 1
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Described:
    """What a file says. places: empty where the format does not tell them."""

    path: Path
    content: object
    places: Places

    def at(self, place: Place) -> str:
        """Return where a key stands, or the nearest thing around it that has a place."""
        for end in range(len(place), -1, -1):
            found = self.places.get(place[:end])
            if found:
                return f"{self.path}:{found[0]}:{found[1]}"
        return str(self.path)


def read(path: Path, what: str) -> Described:
    """Return what a file says. path: *.toml is read as TOML, all else as YAML. what: it describes, for the complaint.

    Raises SettingsError: file, place, what was found, what was expected.
    """
    text = _text(path, what)
    content, places = _toml(path, text) if path.suffix == ".toml" else _yaml(path, text)
    return Described(path, content, places)


def checked(
    described: Described, model: type[Model], hints: Mapping[str, str] | None = None, chosen_by: str = ""
) -> Model:
    """Return the model of what a file says. hints: key -> what is expected there when it is missing. chosen_by: the
    key by which this model was chosen, which need not be suggested any more.

    Raises SettingsError with one line for each mistake.
    """
    try:
        return model.model_validate(described.content)
    except ValidationError as error:
        found = [dict(one) for one in error.errors(include_url=False)]
        raise SettingsError("\n".join(_line(described, model, hints or {}, chosen_by, one) for one in found)) from None


def kind_of(value: object) -> str:
    """Return what a value is, in a word."""
    return "nothing" if value is None else type(value).__name__


def _text(path: Path, what: str) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}, expected a file that describes {what}") from error
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
    if node.id == "sequence" and len(place) < DEPTH_MAX:
        for number, value in enumerate(node.value):
            _note(path, value, (*place, str(number)), places)
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
        if len(at) < DEPTH_MAX:
            _note(path, value, at, places)
        places[at] = here


def _line(
    described: Described, model: type[BaseModel], hints: Mapping[str, str], chosen_by: str, error: Mapping[str, Any]
) -> str:
    """Return one mistake as a line."""
    place = tuple(str(one) for one in error["loc"] if one != "[key]")
    if error["type"] == "extra_forbidden":
        said = _unknown(model, error["loc"], chosen_by)
    elif error["type"] == "missing":
        said = f"missing, expected {hints.get(place[-1], 'a value')}"
    elif error["type"] == "value_error":
        said = str(error["ctx"]["error"])
    else:
        said = f"found {_short(error['input'])}, expected: {error['msg'].removeprefix('Input should be ')}"
        if "[key]" in error["loc"]:
            said += f' (write "{error["input"]}")'
    name = ".".join(place)
    return f"{described.at(place)}: {name}: {said}" if name else f"{described.at(place)}: {said}"


def _unknown(model: type[BaseModel], loc: tuple[str | int, ...], chosen_by: str) -> str:
    known = [name for name in _model_at(model, loc[:-1]).model_fields if name != chosen_by]
    near = difflib.get_close_matches(str(loc[-1]), known, 1)
    expected = f"{near[0]}?" if near else (f"one of {', '.join(known)}" if known else f"nothing but the {chosen_by}")
    return f"unknown, expected {expected}"


def _model_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> type[BaseModel]:
    """Return the model that describes a place."""
    for part in loc:
        field = model.model_fields.get(str(part))
        model = (_first_model(field.annotation) if field else None) or model
    return model


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _first_model(one))), None)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
