"""`herald plan apply`: budgets that were proposed and read by a person, put into the campaigns' store.

The file holds, for each line, the version that the proposal was made from. One transaction changes all of them: where
somebody has changed one meanwhile, it says which, and nothing is stored.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
from rich.console import Console

from pipeline.campaigns.command import Done, author, told
from pipeline.campaigns.database import Database, url_of
from pipeline.campaigns.refusals import Reason, Refused
from pipeline.campaigns.store import Changes, Store
from pipeline.core.allocate import Proposal, Proposed
from pipeline.described import checked, read
from pipeline.edge.clock import now_ms
from pipeline.errors import HeraldError, SettingsError
from pipeline.plan import Limit
from pipeline.settings import Settings
from schemas.campaign import Budget, Key, Line, Stored

_HEAD: Final = """\
# Proposed by `herald plan allocate`; nothing is applied yet. Read it, change budgets as you like, then:
#   herald plan apply {name}
# Money in micros. A line's total_micros counts all that it has spent since it began.
"""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlannedLine(_Part):
    """What a line's budget is to be. version: that the proposal was made from. was, expects, why: for people."""

    id: Key
    version: Annotated[int, Field(ge=1)]
    budget: Budget
    was: Budget | None = None
    expects: str = ""
    why: str = ""


class PlanFile(_Part):
    """A proposal in a file."""

    plan: Literal["budgets"]
    made: str = ""
    source: str = ""
    lines: Annotated[list[PlannedLine], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        names = [line.id for line in self.lines]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"line {twice!r} stands here twice, expected once")
        return self


@dataclass(frozen=True)
class Target:
    """Where a proposal goes. limit: which of a line's limits it sets. days: that its money is for, of daily ones."""

    file: Path
    limit: Limit = "total"
    days: int | None = None


@dataclass(frozen=True)
class ApplyWish:
    """What was asked for. dry_run: store nothing."""

    file: Path
    dry_run: bool = False


class _NotStored(HeraldError):
    """Ends the transaction of a dry run."""


def write_plan(settings: Settings, found: Proposal, source: str, target: Target) -> None:
    """Write a proposal for the lines of the store, whose ids are the proposal's names.

    Raises SettingsError where one is no line of the store, has no price, or days are missing; Retryable.
    """
    if target.limit == "daily" and target.days is None:
        raise SettingsError("--budget daily: expected --days as well, which the money is for")
    with closing(Database(url_of(settings))) as database:
        database.migrate()
        store = Store(database)
        lines = [_planned(one, store.get("lines", one.name), target) for one in found.lines]
    content = PlanFile(plan="budgets", made=datetime.now(UTC).isoformat(), source=source, lines=lines)
    text = yaml.safe_dump(
        content.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True, width=120
    )
    try:
        target.file.write_text(_HEAD.format(name=target.file) + text, "utf-8")
    except OSError as error:
        raise SettingsError(f"{target.file}: {error.strerror}; expected a file that can be written") from error


def _planned(one: Proposed, stored: Stored | None, target: Target) -> PlannedLine:
    if stored is None:
        raise SettingsError(f"line {one.name!r}: no lines/{one.name} in the store; expected the ids of its lines")
    line = Line.model_validate(stored.body)
    if line.price is None:
        raise SettingsError(f"lines/{line.id} has no price, so it spends nothing; expected lines with a price")
    micros = max(1, one.new_micros if target.days is None or target.limit == "total" else one.new_micros // target.days)
    before = line.budget.model_dump() if line.budget is not None else {}
    value = one.value_new
    return PlannedLine(
        id=line.id,
        version=stored.version,
        budget=Budget.model_validate({**before, f"{target.limit}_micros": micros}),
        was=line.budget,
        expects=f"value {value.mean:,.1f} ({value.low:,.1f} to {value.high:,.1f}), was {one.value_old.mean:,.1f}",
        why=one.why,
    )


def apply_plan(settings: Settings, console: Console, wish: ApplyWish) -> int:
    """Put a plan's budgets into the store; 0 where all are there.

    Raises SettingsError for a wrong file, Refused with nothing stored, or Retryable.
    """
    plan = checked(read(wish.file, "a plan"), PlanFile, {"plan": "budgets", "lines": "lines with their budgets"})
    with closing(Database(url_of(settings))) as database:
        database.migrate()
        done = _applied(Store(database), plan, wish)
    for one in done:
        for line in told(one):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    changed = sum(one.before is not None and one.after.version > one.before.version for one in done)
    what = "would change" if wish.dry_run else "changed"
    console.print(f"{changed} of {len(done)} budgets {what}", highlight=False)
    return 0


def _applied(store: Store, plan: PlanFile, wish: ApplyWish) -> list[Done]:
    done: list[Done] = []
    try:
        with store.changing(author(f"herald plan apply {wish.file}"), now_ms()) as changes:
            done = put_budgets(changes, plan.lines)
            if wish.dry_run:
                raise _NotStored
    except _NotStored:
        pass
    return done


def put_budgets(changes: Changes, lines: Sequence[PlannedLine]) -> list[Done]:
    """Give lines their budgets, all of them. Raises Refused naming every line that is not as the plan has it."""
    before = {line.id: changes.get("lines", line.id) for line in lines}
    faults = [fault for line in lines if (fault := _fault(line, before[line.id]))]
    if faults:
        raise Refused(Reason.STALE, "\n".join([*faults, "nothing was stored; allocate again"]))
    done = []
    for line in lines:
        stored = before[line.id]
        assert stored is not None, f"lines/{line.id}: it was there"
        body = Line.model_validate({**stored.body, "budget": line.budget.model_dump()})
        done.append(Done(stored, changes.put("lines", body, line.version)))
    return done


def _fault(line: PlannedLine, stored: Stored | None) -> str:
    if stored is None:
        return f"lines/{line.id}: no such line"
    if stored.version != line.version:
        when = datetime.fromtimestamp(stored.changed_ms / 1_000, UTC).isoformat(timespec="seconds")
        by = f"{stored.changed_by} has made it version {stored.version} at {when}"
        return f"lines/{line.id}: the plan was made from version {line.version}, {by}"
    return ""
