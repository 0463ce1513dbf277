"""The generated parts of the docs: `python -m tests.docs` writes them, tests/test_docs.py checks that they are current.

Some pages are generated whole. The README and the pages of WRITTEN are written by hand, but for what stands in them
between `<!-- generated:NAME -->` and `<!-- end -->`.
Everything is made from the code: schemas, settings, metrics, routes, the command's own help. Nothing here reads a
clock, a home directory or the network, so the same code gives the same text on every machine.
"""

import re
from pathlib import Path

from tests.docs import contracts, pages

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
FOLDER = ROOT / "schemas" / "docs"
WRITTEN = tuple(FOLDER / f"{name}.md" for name in ("collecting", "decisions", "campaigns", "exactness", "measured"))


def files() -> dict[Path, str]:
    """Return every generated file with its text."""
    found = {FOLDER / name: text for name, text in pages.all_pages().items()}
    found |= {FOLDER / "json" / name: text for name, text in contracts.all_schemas().items()}
    found[FOLDER / "openapi.json"] = contracts.openapi()
    found[FOLDER / "openapi-campaigns.json"] = contracts.openapi_of_campaigns()
    return found | {path: fill(path.read_text("utf-8")) for path in (README, *WRITTEN)}


def fill(text: str) -> str:
    """Return a text with what stands between `<!-- generated:NAME -->` and `<!-- end -->` made anew.

    Raises KeyError for a name that nobody makes.
    """
    made = pages.parts_of_pages()

    def replaced(found: re.Match[str]) -> str:
        return f"<!-- generated:{found[1]} -->\n{made[found[1]].strip()}\n<!-- end -->"

    return re.sub(r"<!-- generated:([a-z-]+) -->\n.*?<!-- end -->", replaced, text, flags=re.DOTALL)


def stale() -> list[str]:
    """Return the generated files that are missing, differ, or that nobody makes any more."""
    made = files()
    found = [path for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text]
    found += [path for path in FOLDER.rglob("*") if path.is_file() and path not in made]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def write() -> list[str]:
    """Write what differs, remove what nobody makes any more; return the changed files."""
    changed, made = stale(), files()
    for name in changed:
        path = ROOT / name
        if path in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made[path], "utf-8")
        else:
            path.unlink()
    return changed
