"""The Markdown pages of schemas/docs that are made from the code, and such parts of those written by hand."""

from collections.abc import Callable, Mapping

import click
from click.testing import CliRunner

import schemas
from pipeline.campaigns import routes as campaigns
from pipeline.cli import main
from pipeline.collector.app import ROUTES, SETTINGS_ROUTE
from pipeline.collector.pixel import KEYS
from pipeline.core.adapt import (
    NAMES_OF_TYPE,
    SECOND_NAMES,
    SEGMENT_CAMPAIGN,
    SEGMENT_PROPERTIES,
    SNOWPLOW_DATA,
    SNOWPLOW_FIELDS,
    SNOWPLOW_TYPES,
)
from pipeline.core.event_names import NAMES
from pipeline.core.policies import MEANINGS
from pipeline.delivery import routes as delivery
from pipeline.edge import metrics
from pipeline.settings import Settings
from pipeline.settings import table as settings_table
from schemas import block
from schemas.ddl import create
from schemas.event import DropReason, Event, EventFlag, EventType
from schemas.tables import TABLES
from schemas.topics import DAY_MS, KEEP, TOPICS, Topic
from tests.docs import audience
from tests.docs.structs import column_meanings, docstring, fields, modules_of, struct_section, structs_of, table
from tests.docs.words import FLAGS, REASONS, TYPES

MADE = "<!-- made by `make docs`: change the code, not this file -->\n\n"
HELP_COLUMNS = 100


def all_pages() -> dict[str, str]:
    """Return each page: file name -> text."""
    made: dict[str, Callable[[], str]] = {
        "README.md": index,
        "events.md": events,
        "blocks.md": blocks,
        "topics.md": topics,
        "tables.md": tables,
        "metrics.md": metrics_page,
        "settings.md": settings,
        "commands.md": commands,
        "audiences.md": audience.page,
    }
    return {name: MADE + make().strip() + "\n" for name, make in made.items()}


def parts_of_pages() -> dict[str, str]:
    """Return the generated parts of pages that are written by hand: name -> text."""
    return {
        "collector": _routes(),
        "delivery": _delivery_routes(),
        "campaigns": _campaign_routes(),
        "pixel": _pixel(),
    }


def help_of(*command: str) -> str:
    """Return the `--help` text of `herald` or of one of its commands."""
    found = CliRunner().invoke(main, [*command, "--help"], prog_name="herald", terminal_width=HELP_COLUMNS)
    assert found.exit_code == 0, found.output
    return found.output.strip()


def index() -> str:
    """The list of pages."""
    return """# Pages

Written by hand; their tables of addresses are made from the code:

- [collecting.md](collecting.md): sending events: pixel, Segment, Snowplow, their addresses and answers
- [decisions.md](decisions.md): asking for decisions, policies, explaining, evaluating; coming from other services
- [campaigns.md](campaigns.md): campaigns, budgets, caps, stock, experiments, plans
- [exactness.md](exactness.md): why nothing is lost or counted twice, the small print, and how it is tested
- [measured.md](measured.md): every figure, and the command that measures it
- [../../deploy/README.md](../../deploy/README.md): production: every part, stores, security, backup, upgrade, alerts

Made from the code by `make docs`; a test fails when one is not current:

- [events.md](events.md): what the collector takes, event types, fields, refusals, flags, the pixel's keys
- [blocks.md](blocks.md): what travels in Kafka, field by field
- [topics.md](topics.md), [tables.md](tables.md): every topic; every table with its DDL
- [audiences.md](audiences.md): what an audience may ask about, and how
- [metrics.md](metrics.md), [settings.md](settings.md), [commands.md](commands.md)
- [openapi.json](openapi.json): delivery's HTTP interface; [openapi-campaigns.json](openapi-campaigns.json): that of
  the campaigns; [json/](json): JSON Schema of what comes in and goes out
"""


def _routes() -> str:
    rows = [(" ".join(route.methods), f"`{route.path}`", route.meaning) for route in (*ROUTES, SETTINGS_ROUTE)]
    return table(rows, "method", "path", "what it is")


def _delivery_routes() -> str:
    rows = [(route.method, f"`{route.path.replace(':path', '')}`", route.meaning) for route in delivery.ROUTES]
    return table(rows, "method", "path", "what it is")


def _campaign_routes() -> str:
    """One kind's addresses stand for all."""
    rows = []
    for route in (*campaigns.routes_of("lines"), *campaigns.COMMON):
        meaning = route.meaning.replace("a line", "an object").replace("lines", "objects")
        rows.append((route.method, f"`{route.path.replace('lines', '{kind}')}`", meaning))
    return table(rows, "method", "path", "what it is")


def _pixel() -> str:
    return table([(f"`{key}`", _field(meaning)) for key, meaning in KEYS.items()], "key", "meaning")


def _field(meaning: str) -> str:
    """A key that becomes a field of ours is shown as code, a sentence as it is."""
    return f"`{meaning}`" if meaning.isidentifier() else meaning


def _mapping(names: Mapping[str, str], theirs: str, seconds: Mapping[str, str] | None = None) -> str:
    """Names by the field that they become; second names count where no first one is there."""
    by_ours: dict[str, list[str]] = {}
    for name, ours in [*names.items(), *(seconds or {}).items()]:
        by_ours.setdefault(str(ours), []).append(f"`{name}`")
    rows = [(f"`{ours}`", ", ".join(found)) for ours, found in by_ours.items()]
    return table(rows, "our field", theirs)


def _by_type() -> str:
    rows = [
        (f"`{kind}`", ", ".join(f"`{name}` is `{ours}`" for name, ours in names.items()))
        for kind, names in NAMES_OF_TYPE.items()
    ]
    return table(rows, "event type", "names")


def events() -> str:
    """What comes in, and what the clean stage makes of it."""
    meanings = column_meanings("events")
    limits = ("body_bytes_max", "unpacked_bytes_max", "event_bytes_max", "batch_events_max", "age_max_ms")
    bounds = [(f"`HERALD_{name.upper()}`", str(_default(name)), _meaning(name)) for name in limits]
    return "\n".join([
        "# Events\n",
        "## What the collector answers to\n", _routes(),
        "## Bounds\n", table(bounds, "setting", "default", "meaning"),
        "## The pixel's keys: `GET /p.gif?k=demo&e=page&u=…`\n", _pixel(),
        "## Segment's properties that have a field of their own\n",
        _mapping(SEGMENT_PROPERTIES, "in `properties`", SECOND_NAMES),
        _mapping(SEGMENT_CAMPAIGN, "in `context.campaign`"),
        "What a name means only in some events:\n", _by_type(),
        "## Snowplow's fields that have a field of their own\n",
        _mapping(SNOWPLOW_FIELDS, "in the tracker protocol"),
        _mapping(SNOWPLOW_DATA, "in a self-describing event, before Segment's names"),
        _mapping(SNOWPLOW_TYPES, "short type `e`"),
        "## Event types, and the names that mean them\n",
        "A name is compared in lower case, with runs of other characters than letters and digits as one blank.\n",
        table(_types(), "type", "meaning", "names"),
        "## Why an event is refused\n",
        "Each refusal is counted, and kept in `bad` with what was expected: the topic has all bytes of the event "
        "(of a request that cannot be read, its first 4 kB), the table the first 4 kB.\n",
        table([(f"`{reason}`", REASONS[reason]) for reason in DropReason], "reason", "meaning"),
        "## What was noticed and mended\n", _flags(),
        "## The clean event\n", struct_section(Event, meanings),
    ])  # fmt: skip


def _types() -> list[tuple[str, ...]]:
    names: dict[EventType, list[str]] = {kind: [] for kind in EventType}
    for name, kind in NAMES.items():
        names[kind].append(name)
    return [(f"`{kind}`", TYPES[kind], ", ".join(found)) for kind, found in names.items()]


def _flags() -> str:
    beside = {field.name: field.meaning for field in fields(EventFlag)}
    rows = [(f"`{flag.name}`", str(flag.value), beside[str(flag.value)] or FLAGS.get(flag, "")) for flag in EventFlag]
    return table(rows, "flag", "bit", "meaning")


def _default(name: str) -> object:
    return Settings.model_fields[name].default


def _meaning(name: str) -> str:
    return Settings.model_fields[name].description or ""


def blocks() -> str:
    """What travels in Kafka, field by field: every Struct of every module of `schemas`, so that none is forgotten."""
    head = f"""# Blocks

A record's value is one byte of format version (now {block.BLOCK_VERSION}), then msgpack. Structs are written as arrays,
in the order below, unless it is said otherwise: fields are only ever appended, with a default, so that old blocks stay
readable. Headers: `rows` (events in the block), `crc` (of the value), and after `collected` `origin`
(`partition:offset` in `collected`): a block's name, on every hop. A block that `herald repartition` wrote has `copied`
(old log, own offset, how far each old partition had been read). Readable versions: \
{", ".join(map(str, sorted(block.READABLE_VERSIONS)))}. The clean event itself is in [events.md](events.md).
"""
    parts = [head]
    for module in modules_of(schemas):
        kinds = [kind for kind in structs_of(module) if kind is not Event]
        if kinds:
            about = docstring(module).split("\n\n")[0]
            parts += [f"## schemas/{module.__name__.rpartition('.')[2]}.py\n\n{about}\n", *map(struct_section, kinds)]
    return "\n".join(parts)


def topics() -> str:
    """Every topic."""
    rows = [(f"`{topic.name}`", topic.meaning, topic.writer, f"`{topic.record}`", _kept(topic)) for topic in TOPICS]
    head = """# Topics

Every topic has `HERALD_PARTITIONS` partitions, and an event keeps its partition on all of them: that of the visitor's
id (crc32). `herald topics --apply` makes them; `HERALD_TOPIC_PREFIX` goes before each name, from the second
`HERALD_GENERATION` on followed by `g2-`.

`campaigns` holds objects, not events: JSON under the key `kind/id`, all in partition 0, compacted. Its truth is the
relational store of `herald campaigns serve`, which sends again whatever the topic lacks: so a backup holds the store
and not the topic, and `herald repartition` has nothing of it to copy.
"""
    return f"{head}\n{table(rows, 'topic', 'meaning', 'writer', 'record', 'kept')}"


def _kept(topic: Topic) -> str:
    if topic.is_compacted:
        return "the newest record of each key"
    return "until the stage trims it" if topic.retention_ms == KEEP else f"{topic.retention_ms // DAY_MS} days"


def tables() -> str:
    """Every table with its columns and DDL."""
    days = int(str(_default("retention_days")))
    parts = [
        """# Tables

`herald tables --apply` makes them. Every table is a ReplacingMergeTree on an idempotent key: a row that is written
twice is one row. Read with `FINAL` where the number must be exact.
"""
    ]
    for one in TABLES:
        rows = [(f"`{column.name}`", f"`{column.type}`", column.meaning) for column in one.columns]
        ddl = ";\n".join(create(one, days))
        parts.append(
            f"## {one.name}\n\n{one.meaning}\n\n{table(rows, 'column', 'type', 'meaning')}\n```sql\n{ddl}\n```\n"
        )
    return "\n".join(parts)


def metrics_page() -> str:
    """Every metric."""
    return f"# Metrics\n\nEach process serves its own at `/metrics`.\n\n{metrics.markdown()}"


def settings() -> str:
    """Every setting with its default."""
    defaults = Settings.model_construct()
    rows = [
        (f"`{name}`", f"`{default}`" if default else "", meaning)
        for name, _, default, meaning in settings_table(defaults)
    ]
    return f"""# Settings

Environment variables, read once at start. An unknown or wrong one stops the start with its name, value and what was
expected. `herald settings` prints them with the values in use.

{table(rows, "setting", "default", "meaning")}

## Policies

For `HERALD_POLICY_DEFAULT` and `HERALD_POLICY_PLACEMENTS`. A placement may change its policy at any time; a linear one
learns from the decisions that were made since.

{table([(f"`{name}`", meaning) for name, meaning in MEANINGS.items()], "policy", "what for")}"""


def commands() -> str:
    """The help of every command."""
    paths = [(name, *more) for name, found in sorted(main.commands.items()) for more in [(), *_below(found)]]
    parts = [f"## herald {' '.join(path)}\n\n```\n{help_of(*path)}\n```\n" for path in paths]
    return "\n".join([f"# Commands\n\n```\n{help_of()}\n```\n", *parts])


def _below(command: click.Command) -> list[tuple[str, ...]]:
    """Return the names of a group's own commands."""
    return [(name,) for name in sorted(command.commands)] if isinstance(command, click.Group) else []
