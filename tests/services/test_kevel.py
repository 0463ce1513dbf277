"""Kevel's unmodified SDK against delivery: ads for the places of a page, from published campaigns."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from adzerk_decision_sdk import Client, DecisionRequest, Placement, User
from adzerk_decision_sdk.exceptions import ApiException
from published_rig import Desk, desks
from pydantic import SecretStr

from pipeline.delivery.kevel import number_of
from schemas.event import EventType
from tests.waits import until

CONTENT = {"html": "<b>red</b>", "alt": "Red"}
LABELS = {"kevel_id": "4711"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desks(tmp_path_factory.mktemp("kevel"), 1, delivery_keys=[SecretStr("secret")]) as made:
        made.campaign("hero", {"red": {"url": "https://shop.example/red", "content": CONTENT, "labels": LABELS}})
        made.campaign("side", {f"side-{n}": {"url": f"https://shop.example/{n}"} for n in range(3)})
        made.publish("placements", id="zoned", name="Zoned", labels={"kevel_zone": "77"})
        yield made


def client(desk: Desk, key: str = "secret") -> Client:
    return Client(23, site_id=667480, host=str(desk.http.base_url).rstrip("/"), api_key=key)


def ask(desk: Desk, *places: Placement, **more: Any) -> dict[str, Any]:
    request = DecisionRequest(placements=list(places), user=User(key="user-1"), **more)
    found = client(desk).decisions.get(request).decisions
    assert isinstance(found, dict)
    return found


def test_the_sdk_gets_an_ad_and_its_pixels_count(desk: Desk) -> None:
    ad = ask(desk, Placement(div_name="hero", ad_types=[5]), keywords=["sale"])["hero"][0]
    assert (ad.ad_id, ad.creative_id) == (4711, 4711)
    assert ad.campaign_id == number_of("hero-c", {})
    assert (ad.contents[0].type, ad.contents[0].body) == ("html", "<b>red</b>")
    assert ad.contents[0].data == CONTENT
    assert httpx.get(f"{ad.impression_url}?override=9.5").status_code == 200
    clicked = httpx.get(ad.click_url)
    assert (clicked.status_code, clicked.headers["location"]) == (302, "https://shop.example/red")
    kinds = {EventType.DECISION, EventType.IMPRESSION, EventType.CLICK}
    until(lambda: kinds <= {event["type"] for event in desk.collected()}, "all three logged")


def test_a_count_gives_several_and_none_twice_on_the_page(desk: Desk) -> None:
    found = ask(desk, Placement(div_name="side", ad_types=[5], count=2), Placement(div_name="hero", ad_types=[5]))
    shown = [ad.ad_id for ads in found.values() for ad in ads]
    assert {name: len(ads) for name, ads in found.items()} == {"side": 2, "hero": 1}
    assert len(set(shown)) == 3


def test_a_zone_finds_its_placement_and_nothing_to_show_is_null(desk: Desk) -> None:
    assert ask(desk, Placement(div_name="div9", zone_ids=[77], ad_types=[5])) == {"div9": [None]}


def test_blocked_and_wanted_ads_are_heeded(desk: Desk) -> None:
    place = Placement(div_name="side", ad_types=[5], count=3)
    first = ask(desk, place)["side"]
    blocked = first[0].creative_id
    left = {ad.ad_id for ad in ask(desk, place, blocked_creatives=[blocked])["side"]}
    assert left == {ad.ad_id for ad in first} - {blocked}
    wanted = Placement(div_name="side", ad_types=[5], ad_id=first[1].ad_id)
    assert [ad.ad_id for ad in ask(desk, wanted)["side"]] == [first[1].ad_id]
    assert ask(desk, Placement(div_name="side", ad_types=[5], campaign_id=1)) == {"side": [None]}


@pytest.mark.parametrize(("place", "key", "status", "word"), [
    (Placement(div_name="nowhere", ad_types=[5]), "secret", 404, "unknown_placement"),
    (Placement(div_name="hero", ad_types=[5]), "wrong", 401, "unauthorised"),
    (Placement(div_name="hero", ad_types=[5], count=21), "secret", 400, "invalid"),
])  # fmt: skip
def test_what_is_wrong_is_told_as_the_sdk_raises_it(
    desk: Desk, place: Placement, key: str, status: int, word: str
) -> None:
    with pytest.raises(ApiException) as raised:
        client(desk, key).decisions.get(DecisionRequest(placements=[place]))
    assert (raised.value.status, word in raised.value.body) == (status, True)


def post(desk: Desk, **body: Any) -> httpx.Response:
    """Ask as no SDK does."""
    return desk.http.post("/api/v2", json=body, headers={"X-Adzerk-ApiKey": "secret"})


@pytest.mark.parametrize(("properties", "where"), [
    ({"": 1}, "context"),
    ({"größe": "M"}, "context.größe"),
    ({f"p{at}": at for at in range(33)}, "context"),
])  # fmt: skip
def test_properties_that_no_context_can_hold_are_told_by_their_place(
    desk: Desk, properties: dict[str, Any], where: str
) -> None:
    answer = post(desk, placements=[{"divName": "hero", "properties": properties}])
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid"), answer.text
    assert answer.json()["errors"][0]["where"].startswith(where)


def test_hundreds_of_blocked_creatives_are_blocked_and_no_line_or_campaign_of_their_numbers(desk: Desk) -> None:
    """Kevel's creatives, flights and campaigns have numbers of their own each."""
    creatives = {f"blocked-{at}": {"labels": {"kevel_id": str(5_000 + at)}} for at in range(70)}
    desk.campaign("blocked", creatives, labels={"kevel_id": "5069"})
    numbers = [*range(5_000, 5_069), *range(9_000, 9_400)]
    answer = post(desk, placements=[{"divName": "blocked", "count": 20}], blockedCreatives=numbers)
    assert answer.status_code == 200, answer.text
    assert [ad["creativeId"] for ad in answer.json()["decisions"]["blocked"]] == [5_069]
    only_line = post(desk, placements=[{"divName": "blocked", "flightId": 5_069, "count": 20}])
    assert len(only_line.json()["decisions"]["blocked"]) == 20
    left = post(desk, placements=[{"divName": "blocked", "count": 20}], blockedCreatives=[5_069])
    assert len(left.json()["decisions"]["blocked"]) == 20
    too_many = post(desk, placements=[{"divName": "blocked"}], blockedCreatives=list(range(1_001)))
    assert too_many.status_code == 400


def test_a_count_never_passes_a_cap(desk: Desk) -> None:
    desk.campaign("once", {f"once-{at}": {} for at in range(5)}, caps=[{"count": 2, "per": "day"}])
    for user, shown in (("ann", 2), ("ann", 0)):
        answer = post(desk, placements=[{"divName": "once", "count": 5}], user={"key": user})
        assert len(answer.json()["decisions"]["once"] or ()) == shown


def test_without_consent_nobody_is_remembered(desk: Desk) -> None:
    ask(desk, Placement(div_name="hero", ad_types=[5]), notrack=True)
    decided = [event for event in desk.collected() if event["type"] == "decision"]
    assert "user-1" in {event["visitor"] for event in decided}
    assert ask(desk, Placement(div_name="hero", ad_types=[5]), consent={"gdpr": {"1": False}})["hero"]
    until(lambda: any(not event["visitor"] for event in desk.collected()), "one without a visitor")


NODE = """
const {Client} = require('@adzerk/decision-sdk');
const client = new Client({networkId: 23, siteId: 667480, protocol: 'http', host: process.argv[1], apiKey: 'secret',
  fetch: globalThis.fetch});
client.decisions.get({placements: [{divName: 'hero', adTypes: [5]}], user: {key: 'user-2'}}).then(async found => {
  const ad = found.decisions.hero[0];
  const fired = await client.pixels.fire({url: ad.impressionUrl});
  console.log(JSON.stringify({ad: ad.adId, body: ad.contents[0].body, status: fired.status}));
});
"""


def test_the_sdk_for_javascript_gets_the_same(desk: Desk) -> None:
    modules = os.environ.get("HERALD_TEST_BROWSER_SDKS", "")
    if not (Path(modules) / "@adzerk" / "decision-sdk").is_dir():
        pytest.skip("no HERALD_TEST_BROWSER_SDKS with @adzerk/decision-sdk: a node_modules folder with the SDKs")
    host = f"127.0.0.1:{desk.http.base_url.port}"
    found = subprocess.run(
        ["node", "-e", NODE, host], env=os.environ | {"NODE_PATH": modules}, capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == {"ad": 4711, "body": "<b>red</b>", "status": 200}
