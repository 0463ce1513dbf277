"""The docs say what the code does: generated parts are current, and every name in the pages written by hand exists."""

import ast
import inspect
import json
import re
from pathlib import Path

import jsonschema
import pytest

from pipeline.cli import main
from pipeline.collector.app import ROUTES as COLLECTOR_ROUTES
from pipeline.collector.segment import SHORT_KINDS
from pipeline.delivery.api import DecisionRequest
from pipeline.delivery.routes import ROUTES as DELIVERY_ROUTES
from pipeline.edge.metrics import METRICS
from pipeline.errors import HeraldError
from pipeline.settings import Settings
from schemas.event import DropReason, EventFlag, EventType
from schemas.tables import TABLES
from schemas.topics import TOPICS
from tests import docs
from tests.docs.pages import all_pages, events
from tests.docs.words import FLAGS, REASONS, TYPES
from tests.test_tidy import modules

README = docs.README.read_text("utf-8")
WRITTEN = "\n".join([README, *(path.read_text("utf-8") for path in docs.WRITTEN)])
HANDBOOK = (docs.ROOT / "deploy" / "README.md").read_text("utf-8")
PAGES = "\n".join(path.read_text("utf-8") for path in sorted(docs.FOLDER.glob("*.md")))
LINK = re.compile(r"\]\(([^)#]*)(?:#([^)]*))?\)")


def test_the_generated_docs_are_current() -> None:
    """`make docs` writes them again."""
    assert docs.stale() == []


def test_making_the_docs_twice_changes_nothing() -> None:
    """What is generated does not feed on itself."""
    assert docs.fill(docs.fill(WRITTEN)) == docs.fill(WRITTEN)


def heading_anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


OTHERS = tuple(docs.ROOT / name for name in ("deploy/README.md", "CHANGELOG.md", "schemas/docs/README.md"))


@pytest.mark.parametrize("page", [docs.README, *docs.WRITTEN, *OTHERS], ids=lambda page: "/".join(page.parts[-2:]))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Links within the tree, to the heading; addresses are not followed."""
    wrong = []
    for link, anchor in LINK.findall(page.read_text("utf-8")):
        target = page.parent / link if link else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in heading_anchors(target.read_text("utf-8"))):
            wrong.append(f"{link}#{anchor}")
    assert wrong == []


def test_the_index_names_every_page() -> None:
    """Nobody finds a page that no page leads to."""
    index, names = all_pages()["README.md"], {path.name for path in docs.FOLDER.glob("*.md")}
    assert names - {"README.md"} <= {link for link, _ in LINK.findall(index)}
    assert {path.name for path in docs.WRITTEN} <= {Path(link).name for link, _ in LINK.findall(README)}


def test_every_file_that_a_page_names_exists() -> None:
    """Table cells and prose: what stands in code quotes and looks like a path."""
    named = re.findall(r"`((?:pipeline|schemas|agents|tests|deploy)/[\w./*-]+)`", WRITTEN)
    assert len(named) > 30
    assert [path for path in named if not any(docs.ROOT.glob(path))] == []


def test_every_command_that_a_page_names_exists() -> None:
    """`herald …` and `make …`."""
    for page in (WRITTEN, HANDBOOK):
        herald = set(re.findall(r"`(?:\$ )?herald ([a-z]+)|^\$ herald ([a-z]+)", page, re.MULTILINE))
        assert {first or second for first, second in herald} <= set(main.commands)
        targets = set(re.findall(r"^([a-z-]+):", (docs.ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
        assert set(re.findall(r"`make ([a-z-]+)", page)) <= targets


def test_every_setting_and_metric_that_a_page_names_exists() -> None:
    """HERALD_… and herald_…, whole: what ends in `_…` stands for several."""
    settings = {f"HERALD_{name.upper()}" for name in Settings.model_fields}
    metrics = {metric.name for metric in METRICS}
    for page in (WRITTEN, HANDBOOK):
        named = set(re.findall(r"\bHERALD_(?!TEST_)[A-Z_]*[A-Z]\b(?!_)", page))
        assert named <= settings
        assert {name.removesuffix("_count") for name in re.findall(r"\bherald_[a-z_]+[a-z]\b", page)} <= metrics


def test_every_address_in_the_readmes_commands_exists() -> None:
    """Paths after the ports of collector and delivery."""
    known = [route.path for route in (*COLLECTOR_ROUTES, *DELIVERY_ROUTES)]
    patterns = [re.compile(re.sub(r"{\w+(:path)?}", "[^/]+", path)) for path in known]
    paths = re.findall(r"http://127\.0\.0\.1:808[01](/[\w./-]+)", README)
    assert paths
    assert [path for path in paths if not any(pattern.fullmatch(path) for pattern in patterns)] == []


def test_the_readme_keeps_its_order() -> None:
    """Whoever knows one such README finds his way in this one."""
    wanted = [
        "Two commands", "Five commands to a first decision", "A first campaign", "What is guaranteed", "Pages",
        "To change X, open Y", "Speed", "Production", "Not there yet",
    ]  # fmt: skip
    assert re.findall(r"^## (.+)$", README, re.MULTILINE) == wanted


def test_every_topic_table_setting_and_metric_is_documented() -> None:
    """By name, on the page of its kind."""
    names = [topic.name for topic in TOPICS] + [table.name for table in TABLES] + [metric.name for metric in METRICS]
    names += [f"HERALD_{name.upper()}" for name in Settings.model_fields]
    assert [name for name in names if not re.search(rf"\b{re.escape(name)}\b", PAGES)] == []


def test_every_closed_list_has_its_meanings() -> None:
    """A new reason, type or flag needs a word for those who meet it."""
    assert set(REASONS) == set(DropReason)
    assert set(TYPES) == set(EventType)
    flags = re.findall(r"^\| `((?!HERALD)[A-Z_]+)` \| \d+ \|(.*)\|$", events(), re.MULTILINE)
    assert [name for name, _ in flags] == [flag.name for flag in EventFlag]
    assert [name for name, meaning in flags if not meaning.strip()] == [], f"say it beside the flag, or in {FLAGS}"


def test_no_page_depends_on_who_makes_it() -> None:
    """No home directory, no date."""
    assert str(Path.home()) not in "".join(all_pages().values())
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", "".join(all_pages().values()))


# --- JSON Schema -----------------------------------------------------------------------------------------------------


def schema(name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((docs.FOLDER / "json" / f"{name}.schema.json").read_text("utf-8"))
    return found


@pytest.mark.parametrize("path", sorted((docs.FOLDER / "json").glob("*.json")), ids=lambda path: path.stem)
def test_a_json_schema_is_one(path: Path) -> None:
    """By the dialect that it names."""
    found = json.loads(path.read_text("utf-8"))
    assert found["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    jsonschema.Draft202012Validator.check_schema(found)


def test_the_openapi_document_is_the_one_that_is_served() -> None:
    """Every address with what it takes and gives."""
    document = json.loads((docs.FOLDER / "openapi.json").read_text("utf-8"))
    served = {(re.sub(":path", "", route.path), route.method.lower()) for route in DELIVERY_ROUTES}
    assert {(path, method) for path, methods in document["paths"].items() for method in methods} == served
    jsonschema.Draft202012Validator.check_schema(document["components"]["schemas"]["DecisionRequest"])


def readme_bodies() -> list[object]:
    """JSON bodies of the README's curl commands."""
    return [json.loads(body) for body in re.findall(r"--json '([^']+)'", README)]


def test_the_readmes_requests_fit_their_schemas() -> None:
    """The decision requests by both, pydantic's model and the exported schema."""
    track, decision, reward, page = readme_bodies()
    jsonschema.validate({"batch": [{"type": "track"} | dict(track)]}, schema("segment-batch"))  # type: ignore[call-overload]
    jsonschema.validate(decision, schema("decision-request"))
    jsonschema.validate(reward, schema("reward-request"))
    jsonschema.validate(page, schema("decision-request"))
    assert DecisionRequest.model_validate(decision).visitor == DecisionRequest.model_validate(page).visitor == "bea"


def test_the_readmes_answers_fit_their_schemas() -> None:
    """What is printed there is what delivery promises."""
    answers = [json.loads(text) for text in re.findall(r"^(?:{\n.*?\n}|{[^\n]*})$", README, re.MULTILINE | re.DOTALL)]
    decisions = [answer for answer in answers if "actions" in answer or "decisions" in answer]
    models = [answer for answer in answers if "arms" in answer]
    assert len(decisions) == 2
    assert len(models) == 1
    for decision in decisions:
        jsonschema.validate(decision, schema("decided"))
    jsonschema.validate(models[0], schema("model-answer"))


def test_a_segment_batch_of_another_shape_does_not_fit() -> None:
    """The schema refuses what the collector refuses."""
    for wrong in ({}, {"batch": []}, {"batch": [{"type": "nothing"}]}, {"batch": "text"}, {"batch": [7]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema("segment-batch"))
    kinds = schema("segment-batch")["properties"]["batch"]["items"]["properties"]["type"]["enum"]  # type: ignore[index]
    assert set(kinds) == set(SHORT_KINDS.values()) - {"batch"}


# --- docstrings ------------------------------------------------------------------------------------------------------

ARGUMENT = re.compile(r"(?:^|[.:)\"`]\n|\n\n)((?:[a-z_][a-z0-9_]*, )*[a-z_][a-z0-9_]*): ")
"""At the beginning of a line that begins a sentence: a line that goes on from the one above explains nothing."""


def documented(docstring: str) -> set[str]:
    """Names that a docstring explains at the beginning of a line: `gap_ms: inactivity that ends a session`."""
    return {name for names in ARGUMENT.findall(inspect.cleandoc(docstring)) for name in names.split(", ")}


def test_docstrings_explain_arguments_that_exist() -> None:
    """A renamed argument takes its explanation along."""
    wrong = []
    for module in modules("schemas", "pipeline", "agents"):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = {one.arg for one in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]}
                unknown = documented(ast.get_docstring(node) or "") - given
                wrong += [f"{module.path}:{node.lineno} {node.name}: {name}" for name in sorted(unknown)]
    assert wrong == []


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    """errors.py opens with it."""
    import pipeline.errors as errors

    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or "")) | {"HeraldError"}
    made = {name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, HeraldError)}
    assert made == drawn
