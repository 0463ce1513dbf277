"""`herald plan apply`: budgets that were proposed and read by a person, put into the campaigns' store.

The file holds, for each line, the version that the proposal was made from. One transaction changes all of them: where
somebody has changed one meanwhile, it says which, and nothing is stored.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
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
from pipeline.core.response import MICROS
from pipeline.described import checked, read
from pipeline.edge.clock import now_ms
from pipeline.errors import HeraldError, SettingsError
from pipeline.plan import Limit
from pipeline.plan_live import one_currency, spent_so_far
from pipeline.settings import Settings
from schemas.campaign import Budget, Campaign, Key, Line, Status, Stored

_HEAD: Final = """\
# Proposed by `herald plan allocate`; nothing is applied yet. Read it, change budgets as you like, then:
#   herald plan apply {name}
# Money in micros. {what}
"""
_WHAT: Final[Mapping[Limit, str]] = {
    "daily": "This plan sets daily_micros: a line's new money, by the day. A total_micros stays as it was.",
    "total": "This plan sets total_micros: what a line had spent since it began, and its new money. It may spend the\n"
    "# latter from now on, as fast as its pacing lets it. A daily_micros stays as it was.",
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlannedLine(_Part):
    """What a line's budget is to be. version: that the proposal was made from. was, means, …: for people."""

    id: Key
    version: Annotated[int, Field(ge=1)]
    budget: Budget
    was: Budget | None = None
    means: str = ""
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
    """Where a proposal goes. limit: which of a line's limits it sets. days: line -> those that its money is for.

    A daily limit is the money / the days. A total is what the line has spent since it began + the money: a limit of the
    money alone would be one that a line which has spent more passed long ago, and it would stop at once.
    """

    file: Path
    limit: Limit = "daily"
    days: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ApplyWish:
    """What was asked for. dry_run: store nothing."""

    file: Path
    dry_run: bool = False


class _NotStored(HeraldError):
    """Ends the transaction of a dry run."""


def write_plan(
    settings: Settings,
    found: Proposal,
    source: str,
    target: Target,
    so_far: Callable[[Settings], Mapping[str, int]] = spent_so_far,
) -> dict[str, str]:
    """Write a proposal for the lines of the store, whose ids are the proposal's names; return line -> what it means.

    so_far: gives what lines have spent since they began, micros; asked only where totals are set.
    Raises SettingsError where one is no line of the store, has no price or has ended, where they are of more than one
    currency, or days are missing; Retryable.
    """
    if target.limit == "daily" and not all(one.name in target.days for one in found.lines):
        raise SettingsError(
            "--days: expected for how many days the money of the file is, for daily limits; or --budget total"
        )
    spent = so_far(settings) if target.limit == "total" else {}
    with closing(Database(url_of(settings))) as database:
        database.migrate()
        store = Store(database)
        known = {one.name: _line(one.name, store.get("lines", one.name)) for one in found.lines}
        one_currency({name: _currency(store, line) for name, (line, _) in known.items()})
        lines = [_planned(one, *known[one.name], target, spent.get(one.name, 0)) for one in found.lines]
    content = PlanFile(plan="budgets", made=datetime.now(UTC).isoformat(), source=source, lines=lines)
    text = yaml.safe_dump(
        content.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True, width=120
    )
    try:
        target.file.write_text(_HEAD.format(name=target.file, what=_WHAT[target.limit]) + text, "utf-8")
    except OSError as error:
        raise SettingsError(f"{target.file}: {error.strerror}; expected a file that can be written") from error
    return {line.id: line.means for line in lines}


def _line(name: str, stored: Stored | None) -> tuple[Line, int]:
    """Return a line and its version."""
    if stored is None:
        raise SettingsError(f"line {name!r}: no lines/{name} in the store; expected the ids of its lines")
    line = Line.model_validate(stored.body)
    if stored.status is Status.ENDED:
        raise SettingsError(f"lines/{line.id} has ended, which is for ever; expected lines that have not")
    if line.price is None:
        raise SettingsError(f"lines/{line.id} has no price, so it spends nothing; expected lines with a price")
    return line, stored.version


def _currency(store: Store, line: Line) -> str:
    campaign = store.get("campaigns", line.campaign)
    assert campaign is not None, f"campaigns/{line.campaign}: nothing is deleted from the store"
    return Campaign.model_validate(campaign.body).currency


def _planned(one: Proposed, line: Line, version: int, target: Target, spent_micros: int) -> PlannedLine:
    if target.limit == "daily":
        days = max(1, target.days[one.name])
        micros = max(1, one.new_micros // days)
        means = f"daily limit {_money(micros)}: {_money(one.new_micros)} over {days} days"
    else:
        micros = max(1, spent_micros + one.new_micros)
        means = f"total limit {_money(micros)}: {_money(spent_micros)} spent since it began + {_money(one.new_micros)}"
    assert line.price is not None, f"lines/{line.id}: it had a price"
    if micros < line.price.each_micros + (spent_micros if target.limit == "total" else 0):
        means += f"; less than one {line.price.per.value} costs, so it stops"
    before = line.budget.model_dump() if line.budget is not None else {}
    value = one.value_new
    return PlannedLine(
        id=line.id,
        version=version,
        budget=Budget.model_validate({**before, f"{target.limit}_micros": micros}),
        was=line.budget,
        means=means,
        expects=f"value {value.mean:,.1f} ({value.low:,.1f} to {value.high:,.1f}), was {one.value_old.mean:,.1f}",
        why=one.why,
    )


def _money(micros: int) -> str:
    return f"{micros / MICROS:,.2f}"


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
