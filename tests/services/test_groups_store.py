"""Groups of placements in the store: members that are there, ordinary, and of different channels."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from campaigns_rig import of_url, opened, put, step
from sqlalchemy import select, update

from pipeline.campaigns import yaml_file
from pipeline.campaigns.command import apply
from pipeline.campaigns.refusals import Reason, Refused
from pipeline.campaigns.store import Author, Store
from pipeline.campaigns.tables import OBJECTS
from schemas.campaign import Status


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(of_url("", tmp_path)) as found:
        for channel in ("mail", "push", "web"):
            place(found, channel, channel=channel)
        yield found


def place(store: Store, name: str, expected: int = 0, **more: Any) -> None:
    put(store, "placements", expected, id=name, name=name, **more)


def refused(store: Store, name: str, expected: int = 0, **more: Any) -> Refused:
    with pytest.raises(Refused) as found:
        place(store, name, expected, **more)
    return found.value


def test_a_group_is_stored_and_changed_like_any_placement(store: Store) -> None:
    place(store, "all", members=["mail", "push"])
    place(store, "all", 1, members=["mail", "push", "web"], policy="thompson")
    found = store.get("placements", "all")
    assert found is not None
    assert (found.version, found.body["members"]) == (2, ["mail", "push", "web"])


@pytest.mark.parametrize(
    ("members", "reason", "said"),
    [
        (["mail", "fax"], Reason.UNKNOWN_PLACEMENT, "no fax; expected ids of placements"),
        (["mail", "news"], Reason.MEMBERS, "mail and news are both of the channel mail"),
        (["push", "both"], Reason.MEMBERS, "both is a group itself; expected ordinary placements"),
        (["mail", "worth"], Reason.MEMBERS, "expected reward_worth_micros of the group"),
    ],
)
def test_members_that_cannot_be_chosen_among_are_refused(
    store: Store, members: list[str], reason: Reason, said: str
) -> None:
    place(store, "news", channel="mail")
    place(store, "worth", channel="message", reward_worth_micros=5)
    place(store, "both", members=["mail", "push"], channel="message")
    found = refused(store, "all", members=members)
    assert (found.reason, said in found.detail) == (reason, True), found.detail
    assert store.get("placements", "all") is None


def test_a_member_becomes_neither_a_group_nor_a_rival_of_another_members_channel(store: Store) -> None:
    place(store, "all", members=["mail", "push"])
    assert "it stands in the group all" in refused(store, "mail", 1, channel="mail", members=["push", "web"]).detail
    assert "expected another channel than that of push" in refused(store, "mail", 1, channel="push").detail
    place(store, "mail", 1, channel="message")


def test_members_of_different_worth_stand_under_a_group_that_says_its_own(store: Store) -> None:
    place(store, "worth", channel="message", reward_worth_micros=5)
    place(store, "all", members=["mail", "worth"], reward_worth_micros=7)
    assert store.get("placements", "all") is not None


def test_a_file_may_name_a_group_before_its_members(store: Store) -> None:
    text = "placements:\n- {id: a, name: A, members: [b, web]}\n- {id: b, name: B, channel: message}\n"
    with store.changing(Author("ann", "a test"), 1_000) as changing:
        done = apply(changing, yaml_file.read(text), publish=True)
    assert [one.after.id for one in done] == ["b", "a"]
    again = yaml_file.read(yaml_file.write(store.everything()))
    assert [one.id for one in again][-1] == "a"


def spoil(store: Store, kind: str, key: str) -> None:
    """Have an object stored that today's model refuses: it was valid in a version of long ago."""
    with store.database.writing() as connection:
        row = connection.execute(select(OBJECTS.c.body).where(OBJECTS.c.kind == kind, OBJECTS.c.id == key)).scalar_one()
        old = json.dumps(json.loads(row) | {"colour": "of long ago"})
        which = OBJECTS.c.kind == kind, OBJECTS.c.id == key
        connection.execute(update(OBJECTS).where(*which).values(body=old))


def test_a_placement_that_cannot_be_read_any_more_stops_nobody_but_who_names_it(store: Store) -> None:
    place(store, "all", members=["mail", "push"])
    spoil(store, "placements", "push")
    place(store, "mail", 1, channel="mail", policy="thompson")
    place(store, "some", members=["mail", "web"])
    place(store, "all", 1, members=["mail", "web"])
    found = refused(store, "others", members=["web", "push"])
    assert (found.reason, "placements/push: version 1 is not valid any more" in found.detail) == (Reason.INVALID, True)
    place(store, "push", 1, channel="push")
    place(store, "others", members=["web", "push"])


def test_a_group_that_cannot_be_read_any_more_is_mended_like_anything_else(store: Store) -> None:
    place(store, "all", members=["mail", "push"])
    spoil(store, "placements", "all")
    place(store, "push", 1, channel="push", policy="thompson")
    place(store, "all", 1, members=["mail", "web"])
    mended = store.get("placements", "all")
    assert mended is not None
    assert (mended.body["members"], "colour" in mended.body) == (["mail", "web"], False)


def test_an_experiment_that_cannot_be_read_any_more_is_told_and_keeps_its_visitors_when_it_is_mended(
    store: Store,
) -> None:
    for name in ("button", "tone"):
        put(store, "experiments", id=name, share=0.5, placements=[])
    step(store, "experiments", "button", Status.REVIEW, Status.PUBLISHED)
    there = store.get("experiments", "button")
    assert there is not None
    spoil(store, "experiments", "button")
    with pytest.raises(Refused, match="experiments/button: version 3 is not valid any more"):
        step(store, "experiments", "tone", Status.REVIEW, Status.PUBLISHED)
    mended = put(store, "experiments", 3, id="button", share=0.5, placements=[], expected_visitors=20_000)
    assert mended.body["buckets"] == there.body["buckets"] != []
    step(store, "experiments", "tone", Status.REVIEW, Status.PUBLISHED)
