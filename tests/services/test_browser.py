"""A real Chrome on pages of other origins than the collector's: CORS, cookies, beacons, and the SDKs that people have.

Skipped without a browser: HERALD_TEST_BROWSER is the program of a Chrome or Chromium (Debian: chromium). The SDKs are
read from HERALD_TEST_BROWSER_SDKS, a `node_modules` folder after
`npm install --ignore-scripts @segment/analytics-next@1.84.3 @snowplow/browser-tracker@4.10.1`.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.embedded.kafka import EmbeddedKafka
from tests.services.browser_rig import PATIENCE_S, Browser, Page, pages
from tests.services.collector_rig import Log, RunningCollector, Stored, broker_in, collector_on

BROWSER = os.environ.get("HERALD_TEST_BROWSER", "")
SDKS = os.environ.get("HERALD_TEST_BROWSER_SDKS", "")
SEGMENT, SNOWPLOW = "@segment/analytics-next/dist/umd/index.js", "@snowplow/browser-tracker/dist/index.umd.min.js"
EMPTY = b"<!doctype html><title>a shop</title><p>Tea and cups"

pytestmark = pytest.mark.skipif(not BROWSER, reason="no HERALD_TEST_BROWSER: the program of a Chrome or Chromium")
needs_sdks = pytest.mark.skipif(not SDKS, reason="no HERALD_TEST_BROWSER_SDKS: a node_modules folder with the SDKs")


class Shop(NamedTuple):
    """A site on one origin, a collector on another. own: its page. stranger: a page that may not send."""

    browser: Browser
    broker: EmbeddedKafka
    collector: RunningCollector
    log: Log
    own: str
    stranger: str
    url: str

    def page(self, url: str = "") -> Page:
        """A new visitor's page, with COLLECTOR as the script's name for where events go."""
        made = Page(self.browser)
        made.open(url or f"{self.own}/page.html")
        made.run(f"window.COLLECTOR = {json.dumps(self.url)}")
        return made

    def stored(self, *event_ids: str) -> list[Stored]:
        """Wait until the log has events of all these ids; returns all that stand there under them."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = self.log.find(*event_ids)
            if {one.event.event_id for one in found} == set(event_ids):
                return found
            assert time.monotonic() < deadline, f"expected {event_ids}, found {found}"
            time.sleep(0.1)

    def named(self, **fields: object) -> list[dict[str, object]]:
        """Return the stored events (as sent, with their visitor) that have these fields."""
        found = [{**json.loads(one.event.raw), "visitor": one.event.visitor} for one in self.log.read()]
        return [one for one in found if fields.items() <= one.items()]

    def until_named(self, count: int, **fields: object) -> list[dict[str, object]]:
        """Wait until so many such events are stored; exactly so many."""
        deadline = time.monotonic() + PATIENCE_S
        while len(found := self.named(**fields)) < count:
            assert time.monotonic() < deadline, f"expected {count} of {fields}, found {found}"
            time.sleep(0.1)
        assert len(found) == count, found
        return found


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The collector's name is a sub-domain of the shop's, as its owner would have it, and on another port."""
    folder = tmp_path_factory.mktemp("browser")
    files = {"/page.html": EMPTY, "/next.html": EMPTY}
    files |= {f"/{Path(name).name}": (Path(SDKS) / name).read_bytes() for name in (SEGMENT, SNOWPLOW) if SDKS}
    with pages(files) as port, broker_in(folder / "kafka") as broker:
        own = f"http://www.shop.test:{port}"
        with collector_on(broker.bootstrap_servers, folder, allowed_origins=(own,), ack_timeout_ms=2_000) as collector:
            log = Log(collector.settings)
            browser = Browser(BROWSER, folder / "profile")
            url = f"http://events.shop.test:{collector.settings.collector_port}"
            try:
                yield Shop(browser, broker, collector, log, own, f"http://www.stranger.test:{port}", url)
            finally:
                browser.close()
                log.close()


# --- what browsers can do by themselves -------------------------------------------------------------------------------

EVERY_WAY = """(async () => {
  const event = id => ({messageId: id, anonymousId: "a1", type: "track", event: "Looked", writeKey: "demo"});
  const text = id => JSON.stringify({batch: [event(id)], writeKey: "demo", sentAt: new Date().toISOString()});
  const auth = {"Content-Type": "application/json", "Authorization": "Basic " + btoa("demo:"), "X-Retry-Count": "1"};
  const asked = await fetch(COLLECTOR + "/v1/batch", {method: "POST", headers: auth, body: text("w-preflight")});
  const simple = await fetch(COLLECTOR + "/v1/b/", {method: "POST", body: text("w-simple"), credentials: "include"});
  const old = await new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("POST", COLLECTOR + "/v1/t");
    request.withCredentials = true;
    request.setRequestHeader("Content-Type", "application/json");
    request.onload = () => done(request.status);
    request.onerror = failed;
    request.send(JSON.stringify(event("w-xhr")));
  });
  const image = new Image();
  image.src = COLLECTOR + "/p.gif?k=demo&e=page&v=a1&id=w-image&u=" + encodeURIComponent(location.href);
  await image.decode();
  const beacons = [
    navigator.sendBeacon(COLLECTOR + "/v1/batch", text("w-beacon")),
    navigator.sendBeacon(COLLECTOR + "/v1/batch", new Blob([text("w-json")], {type: "application/json"})),
    navigator.sendBeacon(COLLECTOR + "/v1/t", new Blob([JSON.stringify(event("w-type"))], {type: "text/plain"})),
  ];
  return [asked.status, (await asked.json()).accepted, simple.status, (await simple.json()).accepted, old,
          image.naturalWidth, ...beacons];
})()"""


def test_a_page_sends_by_every_way_that_browsers_have(shop: Shop) -> None:
    """With and without a preflight, with credentials, as an image and as beacons; answers can be read by the page."""
    with shop.page() as page:
        assert page.run(EVERY_WAY) == [200, 1, 200, 1, 200, 1, True, True, True]
    ids = [f"w-{way}" for way in ("preflight", "simple", "xhr", "image", "beacon", "json", "type")]
    found = shop.stored(*ids)
    assert sorted(one.event.event_id for one in found) == sorted(ids)
    assert {one.event.visitor for one in found} == {"a1"}
    assert all("Chrome" in one.context.user_agent for one in found)


def test_a_visitor_keeps_the_id_that_the_collector_gave_on_its_sub_domain(shop: Shop) -> None:
    """Two images and a Segment event without any id: one cookie, one visitor; the next visitor is another."""
    look = """(async id => {
      const image = new Image();
      image.src = COLLECTOR + "/p.gif?k=demo&e=page&id=" + id;
      await image.decode();
      return document.cookie;
    })"""
    with shop.page() as first, shop.page() as second:
        assert first.run(f"{look}('c-1')") == "", "the cookie is the server's: no script reads it"
        first.run(f"{look}('c-2')")
        first.run(
            "fetch(COLLECTOR + '/v1/t', {method: 'POST', credentials: 'include', "
            "body: JSON.stringify({messageId: 'c-3', type: 'track', event: 'X', writeKey: 'demo'})}).then(a => a.ok)"
        )
        second.run(f"{look}('c-4')")
    visitors = {one.event.event_id: one.event.visitor for one in shop.stored("c-1", "c-2", "c-3", "c-4")}
    assert visitors["c-1"] == visitors["c-2"] == visitors["c-3"] != ""
    assert visitors["c-4"] not in ("", visitors["c-1"])


def test_what_a_page_says_as_it_is_left_arrives(shop: Shop) -> None:
    """A beacon, and a fetch that outlives its page, sent when the visitor goes elsewhere."""
    with shop.page() as page:
        page.run("""addEventListener("pagehide", () => {
          const text = id => JSON.stringify({messageId: id, anonymousId: "a2", type: "track", event: "Left",
                                             writeKey: "demo"});
          navigator.sendBeacon(COLLECTOR + "/v1/t", text("l-beacon"));
          fetch(COLLECTOR + "/v1/t", {method: "POST", body: text("l-fetch"), keepalive: true, credentials: "include",
                                      headers: {"Content-Type": "application/json"}});
        }) || true""")
        page.open(f"{shop.own}/next.html")
        assert len(shop.stored("l-beacon", "l-fetch")) == 2


def test_a_page_that_is_not_named_gets_nothing_stored(shop: Shop) -> None:
    """Its scripts see a network error; what browsers send without asking is refused by the collector itself."""
    with shop.page(f"{shop.stranger}/page.html") as page:
        said = page.run("""(async () => {
          const text = id => JSON.stringify({messageId: id, anonymousId: "s", type: "track", event: "X",
                                             writeKey: "demo"});
          const ask = (id, headers) => fetch(COLLECTOR + "/v1/t", {method: "POST", headers, body: text(id)})
            .then(answer => answer.status, error => error.name);
          return [await ask("s-preflight", {"Content-Type": "application/json"}), await ask("s-simple", {}),
                  navigator.sendBeacon(COLLECTOR + "/v1/t", text("s-beacon"))];
        })()""")
        assert said == ["TypeError", "TypeError", True]
    with shop.page() as page:
        page.run("navigator.sendBeacon(COLLECTOR + '/v1/t', JSON.stringify({messageId: 's-last', anonymousId: 's', "
                 "type: 'track', event: 'X', writeKey: 'demo'}))")  # fmt: skip
    shop.stored("s-last")
    assert shop.log.find("s-preflight", "s-simple", "s-beacon") == []


# --- Segment's SDK ----------------------------------------------------------------------------------------------------

LOAD_SEGMENT = """(async settings => {
  await new Promise((done, failed) => {
    const script = document.createElement("script");
    [script.src, script.onload, script.onerror] = ["/index.js", done, failed];
    document.head.append(script);
  });
  window.sdk = AnalyticsNext.AnalyticsBrowser.load({writeKey: "demo", cdnURL: COLLECTOR}, settings);
  await sdk.ready();
  return (await sdk.user()).anonymousId();
})"""
BATCHING = {"integrations": {"Segment.io": {"deliveryStrategy": {"strategy": "batching", "config": {"size": 3}}}}}


@needs_sdks
def test_segments_sdk_sends_one_event_after_the_other(shop: Shop) -> None:
    """Its settings come from the collector; every kind of event arrives once, under its own visitor."""
    with shop.page() as page:
        visitor = page.run(f"{LOAD_SEGMENT}({{}})")
        page.run("""(async () => {
          await sdk.page("Shop", "Home");
          await sdk.identify("u-seg", {plan: "pro"});
          await sdk.track("Order Completed", {revenue: 9.5, currency: "EUR"});
          await sdk.group("g1");
          await sdk.alias("u-seg-2");
          return true;
        })()""")
        found = shop.until_named(5, visitor=visitor)
    assert sorted(str(one["type"]) for one in found) == ["alias", "group", "identify", "page", "track"]
    (order,) = (one for one in found if one["type"] == "track")
    assert (order["event"], order["userId"], order["properties"]) == (
        "Order Completed", "u-seg", {"revenue": 9.5, "currency": "EUR"},
    )  # fmt: skip
    assert len({str(one["messageId"]) for one in found}) == 5


@needs_sdks
def test_segments_sdk_sends_batches_and_what_is_left_when_the_page_is(shop: Shop) -> None:
    """Batches of three; of seven events the last waits, and goes as the visitor does."""
    with shop.page() as page:
        visitor = page.run(f"{LOAD_SEGMENT}({json.dumps(BATCHING)})")
        page.run("(async () => { for (let n = 0; n < 7; n++) await sdk.track('Looked', {n}); return true; })()")
        page.open(f"{shop.own}/next.html")
        found = shop.until_named(7, visitor=visitor)
    numbers = [one["properties"]["n"] for one in found if isinstance(one["properties"], dict)]
    assert sorted(numbers) == list(range(7))
    blocks = {stored.context.kind for stored in shop.log.read() if stored.event.visitor == visitor}
    assert blocks == {"batch"}


@needs_sdks
def test_segments_sdk_sends_again_what_met_a_broker_that_was_away(shop: Shop) -> None:
    """503, whose Retry-After the page can read; once the broker answers the event is stored, under one id."""
    with shop.page() as page:
        visitor = page.run(f"{LOAD_SEGMENT}({{}})")
        os.kill(shop.broker.pid, signal.SIGSTOP)
        try:
            page.run("sdk.track('Kept', {}) && true")
            status, retry_after = page.run(
                "fetch(COLLECTOR + '/v1/t', {method: 'POST', body: JSON.stringify({messageId: 'away', "
                "anonymousId: 'a3', type: 'track', event: 'X', writeKey: 'demo'})})"
                ".then(answer => [answer.status, answer.headers.get('Retry-After')])"
            )
        finally:
            os.kill(shop.broker.pid, signal.SIGCONT)
        assert (status, 1 <= int(retry_after) <= 5) == (503, True)
        deadline = time.monotonic() + PATIENCE_S
        while not (found := shop.named(visitor=visitor, event="Kept")):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert len({one["messageId"] for one in found}) == 1


# --- Snowplow's tracker -----------------------------------------------------------------------------------------------

LOAD_SNOWPLOW = """(async options => {
  await new Promise((done, failed) => {
    const script = document.createElement("script");
    [script.src, script.onload, script.onerror] = ["/index.umd.min.js", done, failed];
    document.head.append(script);
  });
  window.sp = snowplowBrowserTracking;
  sp.newTracker("sp", COLLECTOR, {appId: "demo", cookieSecure: false, ...options});
  return true;
})"""
THREE_EVENTS = """(name => {
  sp.trackPageView({title: name});
  sp.trackStructEvent({category: name, action: "add", label: "sku1", value: 3});
  sp.trackSelfDescribingEvent({event: {schema: "iglu:com.acme/offer/jsonschema/1-0-0", data: {offer: name}}});
  return true;
})"""


def of_snowplow(shop: Shop, name: str, count: int) -> list[dict[str, object]]:
    """Wait for a tracker's events by the name that they bear; a page view, a structured and a self-describing one."""
    deadline = time.monotonic() + PATIENCE_S
    while len(found := [one for one in shop.named(aid="demo") if f'"{name}"' in json.dumps(one, separators=(",", ":"))
                        or name in str(one.get("ue_pr"))]) < count:  # fmt: skip
        assert time.monotonic() < deadline, f"{name}: {found}"
        time.sleep(0.1)
    assert len(found) == count, found
    return found


@needs_sdks
@pytest.mark.parametrize("options", [
    {}, {"bufferSize": 3}, {"eventMethod": "get"}, {"keepalive": True}, {"withCredentials": False},
], ids=["post", "batch", "get", "keepalive", "no-credentials"])  # fmt: skip
def test_snowplows_tracker_sends(shop: Shop, options: dict[str, object]) -> None:
    """By POST, by POST of three, by GET, by a fetch that outlives its page, and without credentials."""
    name = "snow-" + "-".join(str(value) for value in options.values()).lower()
    with shop.page() as page:
        page.run(f"{LOAD_SNOWPLOW}({json.dumps(options)})")
        page.run(f"{THREE_EVENTS}({json.dumps(name)})")
        found = of_snowplow(shop, name, 3)
    assert sorted(str(one["e"]) for one in found) == ["pv", "se", "ue"]
    assert len({one["eid"] for one in found}) == 3
    assert len({one["visitor"] for one in found}) == 1
    assert found[0]["visitor"] == found[0]["duid"] != ""


@needs_sdks
def test_snowplows_tracker_sends_what_is_left_when_the_page_is(shop: Shop) -> None:
    """A buffer of ten holds three events as the visitor leaves; the next page of the site sends what is still there."""
    with shop.page() as page:
        page.run(f"{LOAD_SNOWPLOW}({json.dumps({'bufferSize': 10})})")
        page.run(f"{THREE_EVENTS}('snow-left')")
        page.open(f"{shop.own}/next.html")
        page.run(f"window.COLLECTOR = {json.dumps(shop.url)}")
        page.run(f"{LOAD_SNOWPLOW}({{}})")
        page.run("sp.trackPageView({title: 'snow-next'}) || true")
        assert len({one["eid"] for one in of_snowplow(shop, "snow-left", 3)}) == 3
        of_snowplow(shop, "snow-next", 1)


@needs_sdks
def test_a_visitor_who_is_to_be_anonymous_is(shop: Shop) -> None:
    """The tracker's header asks for a preflight of its own; the events come without ids, and no cookie is set."""
    anonymous = {"anonymousTracking": {"withServerAnonymisation": True}}
    with shop.page() as page:
        page.run(f"{LOAD_SNOWPLOW}({json.dumps(anonymous)})")
        page.run(f"{THREE_EVENTS}('snow-nobody')")
        found = of_snowplow(shop, "snow-nobody", 3)
        cookies = page.cookies(shop.url)
    assert {one["visitor"] for one in found} == {""}
    assert not {"duid", "sid", "uid", "nuid"} & set().union(*found)
    assert cookies == []
