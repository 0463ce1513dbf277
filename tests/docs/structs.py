"""Classes of `schemas` as tables: fields in their order with type and meaning, read from the source.

Order matters: blocks are written as arrays, and a field's place in the array is its place in the class.
"""

import ast
import importlib
import inspect
import pkgutil
import textwrap
from enum import Enum
from types import ModuleType
from typing import NamedTuple

from msgspec import Struct

from schemas.tables import TABLES


class FieldDoc(NamedTuple):
    """One field of a Struct, or one member of an enum. default: "" where there is none."""

    name: str
    type: str
    default: str
    meaning: str


def docstring(documented: object) -> str:
    """Return the docstring of a class or module, each paragraph as one line."""
    return "\n\n".join(" ".join(part.split()) for part in (inspect.getdoc(documented) or "").split("\n\n"))


def modules_of(package: ModuleType) -> list[ModuleType]:
    """Return the modules of a package, by name."""
    names = sorted(found.name for found in pkgutil.iter_modules(package.__path__))
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]


def structs_of(module: ModuleType) -> list[type[Struct]]:
    """Return the Structs that a module makes, in its order."""
    return [
        found
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Struct) and found.__module__ == module.__name__
    ]


def fields(cls: type) -> list[FieldDoc]:
    """Return the fields of a Struct (or the members of an enum) with the comments beside them."""
    source = textwrap.dedent(inspect.getsource(cls))
    lines = source.splitlines()
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    found = []
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default = ast.unparse(node.value) if node.value is not None else ""
            found.append(FieldDoc(node.target.id, ast.unparse(node.annotation), default, _comment(lines, node)))
        elif isinstance(node, ast.Assign) and issubclass(cls, Enum) and isinstance(node.targets[0], ast.Name):
            value = cls[node.targets[0].id].value
            found.append(FieldDoc(str(value), "", "", _comment(lines, node)))
    return found


def _comment(lines: list[str], node: ast.stmt) -> str:
    """The comment at the end of a field's last line."""
    line = lines[(node.end_lineno or 0) - 1][node.end_col_offset :]
    return line.partition("#")[2].strip()


def column_meanings(table_name: str) -> dict[str, str]:
    """Return what a table's columns mean, under the names that the Structs use."""
    table = next(table for table in TABLES if table.name == table_name)
    times = {f"{column.name}_ms": column.meaning for column in table.columns if column.type.startswith("DateTime64")}
    return times | {column.name: column.meaning for column in table.columns}


def table(rows: list[tuple[str, ...]], *titles: str) -> str:
    """Return a Markdown table; | in cells is escaped."""
    escaped = [tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    lines = [titles, ("---",) * len(titles), *escaped]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines) + "\n"


def struct_section(cls: type[Struct], meanings: dict[str, str] | None = None) -> str:
    """Return a heading, what a Struct is, and its fields."""
    rows = [
        (str(place), f"`{field.name}`", f"`{field.type}`", field.meaning or (meanings or {}).get(field.name, ""))
        for place, field in enumerate(fields(cls))
    ]
    as_map = "" if cls.__struct_config__.array_like else "\n\nWritten as a map, not as an array."
    return f"### {cls.__name__}\n\n{docstring(cls)}{as_map}\n\n{table(rows, 'place', 'field', 'type', 'meaning')}"
