"""Published objects for the tests of catalogue and eligibility, in few words."""

from collections.abc import Mapping
from typing import Any

from pipeline.core.audience import Facts
from pipeline.core.caps import CapCounts
from pipeline.core.catalogue import Catalogue, LivePlacement
from pipeline.core.eligibility import Visit
from schemas.campaign import Status, Stored
from schemas.profile import Profile, Shown, VisitorState

NOW_MS = 1_790_000_000_000
Objects = dict[tuple[str, str], Stored]


def stored(kind: str, name: str, status: str = "published", version: int = 1, **body: Any) -> Stored:
    """One object. body: beside its id and name."""
    whole = {"id": name, "name": name, **body}
    return Stored(
        kind=kind, id=name, version=version, status=Status(status), changed_ms=1, changed_by="ann", body=whole
    )


def shop(*more: Stored, without: tuple[str, str] | None = None) -> Objects:
    """One advertiser, campaign, line and placement with two creatives; `more` is added or takes a place."""
    found = [
        stored("advertisers", "adv"),
        stored("campaigns", "spring", advertiser="adv"),
        stored("lines", "shoes", campaign="spring", placements=["home"]),
        stored("creatives", "red", line="shoes", url="https://shop.example/red", features={"colour": "red"}),
        stored("creatives", "blue", line="shoes"),
        stored("placements", "home"),
        *more,
    ]
    return {(each.kind, each.id): each for each in found if (each.kind, each.id) != without}


def line(name: str, **body: Any) -> list[Stored]:
    """A line at `home` with one creative, named `of-` and the line's name."""
    return [
        stored("lines", name, **{"campaign": "spring", "placements": ["home"], **body}),
        stored("creatives", f"of-{name}", line=name),
    ]


def home(objects: Mapping[tuple[str, str], Stored]) -> LivePlacement:
    """The placement of the catalogue of these."""
    catalogue = Catalogue(objects)
    assert catalogue.unreadable == {}
    placement = catalogue.placement("home")
    assert placement is not None
    return placement


def visit(profile: Profile | None = None, shown: dict[str, Shown] | None = None, **fields: Any) -> Visit:
    """A visit with consent, at NOW_MS, of a visitor who was shown so much. fields: of Visit, in place of these."""
    state = VisitorState(profile or Profile(), shown=shown or {})
    whole: dict[str, Any] = {
        "facts": Facts(NOW_MS, state.profile, {"country": "DE"}),
        "has_consent": True,
        "caps": CapCounts(state, (), NOW_MS),
        **fields,
    }
    return Visit(**whole)
