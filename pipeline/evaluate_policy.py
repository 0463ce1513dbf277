"""Reads the file that describes a policy to evaluate: YAML or TOML (`described`)."""

from pathlib import Path

from pipeline.core.evaluate.targets import KINDS, Spec
from pipeline.described import checked, kind_of, read
from pipeline.errors import SettingsError


def read_policy(path: Path) -> Spec:
    """Return what a file describes. path: *.toml is read as TOML, all else as YAML.

    Raises SettingsError with one line for each mistake: file, place, what was found, what was expected.
    """
    found = read(path, "a policy")
    content = found.content
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: found {kind_of(content)}, expected `policy: NAME` and its parameters")
    name = content.get("policy")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        said = f"unknown policy {name!r}" if "policy" in content else "no policy is named"
        raise SettingsError(f"{found.at(('policy',))}: {said}, expected one of {', '.join(KINDS)}")
    return checked(found, kind, {"actions": "probabilities by action id"}, "policy")
