"""Shots drawn from a seed: valid messages of every protocol, most of them spoilt in one to four ways."""

import base64
import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from pipeline.collector.app import ROUTES as COLLECTOR_ROUTES
from pipeline.core.adapt import PIXEL_FIELDS
from pipeline.delivery.reports import DIMENSIONS, INTERVALS, METRICS
from pipeline.delivery.routes import ROUTES as DELIVERY_ROUTES
from tests.fuzz.shots import COLLECTOR, DELIVERY, Shot
from tests.fuzz.transport import METHODS, spoil_transport, spoil_wire
from tests.fuzz.values import VALUES, damage, spoil, write

HOST = ("Host", "fuzz.example")
KEYS = ("demo", "other", "nobody")
VISITORS = 200
EVENTS = (
    "Product Viewed", "Product Added", "Order Completed", "Promotion Viewed", "Promotion Clicked", "Products Searched",
    "Ad Spend", "click", "impression", "conversion", "reward", "decision", "stock", "Something Else",
)  # fmt: skip
SNOWPLOW = "com.snowplowanalytics.snowplow"


class Plan:
    """Draws shots. Feed it the ids and addresses that delivery has answered: they come back in later shots."""

    def __init__(self, seed: int, now_ms: int) -> None:
        """now_ms: around which the events happen."""
        self.rng, self.now_ms = random.Random(seed), now_ms
        self.decisions: list[str] = ["0" * 32]
        self.links: list[str] = []
        self._kinds: list[tuple[Callable[[], Shot], int]] = [
            (self._batch, 20), (self._single, 12), (self._tp2, 12), (self._i, 8), (self._pixel, 14), (self._decide, 14),
            (self._reward, 6), (self._link, 6), (self._report, 8), (self._look, 4), (self._odd, 4),
        ]  # fmt: skip

    def draw(self) -> Shot:
        """Return the next shot."""
        rng = self.rng
        (make,) = rng.choices([kind for kind, _ in self._kinds], [weight for _, weight in self._kinds])
        shot = make()
        if rng.random() < 0.25:
            spoil_transport(rng, shot, self._key())
        if rng.random() < 0.03:
            spoil_wire(rng, shot)
        return shot

    def learn(self, decision_id: str, links: list[str]) -> None:
        """Remember what delivery answered, within bounds."""
        for known, new in ((self.decisions, [decision_id]), (self.links, links)):
            known += new
            del known[: max(0, len(known) - 200)]

    # --- messages -----------------------------------------------------------------------------------------------------

    def _id(self, name: str) -> str:
        return f"{name}-{self.rng.getrandbits(64):x}"

    def _visitor(self) -> str:
        return f"v{self.rng.randrange(VISITORS)}"

    def _time(self) -> Any:
        ms = self.now_ms - self.rng.choice([0, 1_000, 60_000, 3_600_000, 86_400_000])
        return self.rng.choice([ms, str(ms), ms // 1_000, "2026-11-22T10:00:00Z", None])

    def _event(self) -> dict[str, Any]:
        rng = self.rng
        return {
            "type": rng.choice(["track", "page", "identify", "screen", "group", "alias"]),
            "event": rng.choice(EVENTS),
            "messageId": self._id("m"),
            "anonymousId": self._visitor(),
            "userId": rng.choice([None, "u1", 7]),
            "timestamp": self._time(),
            "properties": {
                "revenue": rng.choice([9.5, "9.50", 1]), "currency": "EUR", "product_id": "p1", "category": "a/b",
                "quantity": 1, "products": [{"product_id": "p", "price": 1.5}], "score": 0.5,
                "url": "https://shop.example/a?utm_source=g&gclid=x", "decision_id": rng.choice(self.decisions),
            },
            "traits": {"email": "jo@example.org", "plan": "pro"},
            "context": {
                "page": {"url": "https://shop.example/é?q=1", "referrer": "https://www.google.com/", "title": "T"},
                "userAgent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/130.0", "locale": "de-DE",
                "campaign": {"source": "g", "name": "c"},
                "consent": rng.choice([None, False, {"categoryPreferences": {"a": False}}]),
            },
            "sentAt": self._time(),
        }  # fmt: skip

    def _spoilt(self, message: Any) -> bytes:
        """The message as JSON: one in three right, the others changed in up to four places, some in their bytes."""
        rng = self.rng
        for _ in range(rng.choice([0, 0, 1, 1, 2, 4])):
            message = spoil(rng, message)
            if not isinstance(message, dict | list):
                break
        body = write(message)
        return damage(rng, body) if rng.random() < 0.12 else body

    def _json(self, side: str, target: str, message: Any) -> Shot:
        return Shot(side, "POST", target, [HOST, ("Content-Type", "application/json")], self._spoilt(message))

    def _batch(self) -> Shot:
        size = self.rng.choice([0, 1, 1, 2, 3, 5, 10, 30])
        events = [self._event() for _ in range(size)]
        if size > 1 and self.rng.random() < 0.1:
            events[-1]["messageId"] = events[0]["messageId"]
        if self.rng.random() < 0.01:
            events = [{"messageId": self._id("m"), "type": "page"} for _ in range(self.rng.choice([999, 1_000, 1_001]))]
        message = {"writeKey": self._key(), "batch": events, "sentAt": self._time()}
        return self._json(COLLECTOR, self.rng.choice(["/v1/batch", "/v1/import", "/v1/b", "/v1/batch/"]), message)

    def _key(self) -> str:
        return self.rng.choices(KEYS, [20, 4, 1])[0]

    def _single(self) -> Shot:
        kinds = [route.path for route in COLLECTOR_ROUTES if route.handler == "segment" and route.kind != "batch"]
        return self._json(COLLECTOR, self.rng.choice(kinds), {**self._event(), "writeKey": self._key()})

    def _snow(self) -> dict[str, Any]:
        rng = self.rng
        inner = {"schema": "iglu:com.acme/ad_click/jsonschema/1-0-0", "data": {"campaignId": "c", "bannerId": "b"}}
        wrapped = {"schema": f"iglu:{SNOWPLOW}/unstruct_event/jsonschema/1-0-0", "data": inner}
        found: dict[str, Any] = {
            "e": rng.choice(["pv", "pp", "se", "ue", "tr", "ti", "zz"]), "aid": self._key(), "eid": self._id("e"),
            "dtm": str(self.now_ms), "stm": str(self.now_ms), "duid": self._visitor(), "uid": "u1", "p": "web",
            "url": "https://shop.example/a", "page": "T", "refr": "https://x.example/", "se_ca": "shop", "se_ac": "add",
            "se_la": "sku", "se_va": "3.5", "tr_tt": "10", "tr_cu": "EUR", "ti_pr": "1.5", "ti_qu": "2",
        }  # fmt: skip
        packed = self._spoilt(wrapped) if rng.random() < 0.5 else write(wrapped)
        if rng.random() < 0.5:
            found["ue_px"] = base64.urlsafe_b64encode(packed).decode() + rng.choice(["", "=", "*", "A"])
        else:
            found["ue_pr"] = packed.decode("utf-8", "replace")
        found[rng.choice(["cx", "co"])] = rng.choice(["{}", "e30", "[]", "x", base64.b64encode(packed).decode()])
        return found

    def _tp2(self) -> Shot:
        data = [self._snow() for _ in range(self.rng.choice([0, 1, 1, 2, 5, 20]))]
        message = {"schema": f"iglu:{SNOWPLOW}/payload_data/jsonschema/1-0-4", "data": data}
        return self._json(COLLECTOR, f"/{SNOWPLOW}/tp2", message)

    def _query(self, pairs: dict[str, Any]) -> str:
        """A query string of these, some of them spoilt."""
        rng = self.rng
        for _ in range(rng.choice([0, 0, 1, 2, 4])):
            name = rng.choice([*pairs, "x", "é", "__proto__"])
            value = rng.choice(VALUES)
            pairs[name] = write(value).decode()[:6_000] if isinstance(value, dict | list) else str(value)[:6_000]
        text = urlencode(pairs, errors="replace")
        if rng.random() < 0.1:
            text += rng.choice(
                ["&%zz=%ff", "&&&=&", "&a" * 300, "%00", "&k=demo&k=nobody", "&p=%7B%22a%22", "#frag", "&\xe9=1"]
            )
        return text

    def _i(self) -> Shot:
        path = self.rng.choice(["/i", "/ice.png", "/i/"])
        return Shot(COLLECTOR, "GET", f"{path}?{self._query(self._snow())}", [HOST])

    def _pixel(self) -> Shot:
        rng = self.rng
        found: dict[str, Any] = {"k": self._key(), "id": self._id("p"), "e": rng.choice(["page", "click", *EVENTS])}
        if rng.random() < 0.8:
            found["v"] = self._visitor()
        for name in rng.sample(sorted(PIXEL_FIELDS), 5):
            found.setdefault(name, rng.choice(["1", "9.5", "EUR", "https://shop.example/a?b=c", str(self.now_ms), "x"]))
        if rng.random() < 0.5:
            found["p"] = self._spoilt({"a": 1, "b": {"c": [1, 2, "x"]}}).decode("utf-8", "replace")
        if rng.random() < 0.1:
            found["c"] = rng.choice(["0", "1", ""])
        return Shot(COLLECTOR, "GET", f"/p.gif?{self._query(found)}", [HOST])

    def _decide(self) -> Shot:
        rng = self.rng
        actions = [
            {
                "id": f"a{number}", "url": rng.choice(["https://shop.example/a", "javascript:1", "//evil", ""]),
                "campaign_id": "c1", "creative_id": "k1", "features": {"price": 1.5, "new": True, "name": "x"},
            }
            for number in range(rng.choice([1, 2, 3, 10, 100]))
        ]  # fmt: skip
        message: dict[str, Any] = {
            "placement": rng.choice(["home", "top", "cart"]), "actions": actions, "visitor": self._visitor(),
            "count": rng.choice([1, 1, 2, 5]), "context": {"hour": 7, "mail": "jo@example.org"},
            "consent": rng.choice([True, True, False]), "site": rng.choice(["", "shop", "blog"]),
        }  # fmt: skip
        if rng.random() < 0.1:
            message["made"] = {"action_id": "a0", "probability": 0.5}
        return self._json(DELIVERY, "/v1/decisions", message)

    def _reward(self) -> Shot:
        decision_id = self.rng.choice([*self.decisions[-20:], "0" * 31, "G" * 32, "%00", "é"])
        message = {
            "value": self.rng.choice([0, 1, 0.5]),
            "action_id": self.rng.choice(["", "a0"]),
            "event_id": self._id("r"),
        }
        return self._json(DELIVERY, f"/v1/decisions/{quote(decision_id)}/reward", message)

    def _link(self) -> Shot:
        rng = self.rng
        target = rng.choice(self.links) if self.links else "/c/x"
        at = rng.randrange(len(target))
        spoilt = [
            target, target, target[:at], target + "A", target[:at] + rng.choice("Aa0-_.%é~") + target[at + 1 :],
            target.replace("/c/", "/v1/i/") + ".gif", target.replace("/v1/i/", "/c/").removesuffix(".gif"),
        ]  # fmt: skip
        return Shot(
            DELIVERY,
            "GET",
            quote(rng.choice(spoilt), safe="/%.~_-"),
            [HOST, ("User-Agent", "Mozilla/5.0 Firefox/130.0")],
        )

    def _report(self) -> Shot:
        rng = self.rng
        found: dict[str, Any] = {"metrics": ",".join(rng.sample(METRICS, rng.randrange(1, 4)))}
        if rng.random() < 0.6:
            found["dimensions"] = rng.choice(["placement,action", "campaign", "source,referrer_class", *DIMENSIONS])
        for name, values in (
            ("interval", [*INTERVALS]),
            ("limit", ["1", "10000", "10001"]),
            ("from", ["0", "2026-11-22"]),
        ):
            if rng.random() < 0.3:
                found[name] = rng.choice(values)
        if rng.random() < 0.5:
            hostile = ["' OR 1=1 --", "%(kind)s", "; DROP TABLE events", "\\'", "`", "\0", "%s", "{x:String}", "\u2028"]
            found[rng.choice(["site", *DIMENSIONS, "dimensions", "metrics", "bots", "timezone"])] = rng.choice(hostile)
        return Shot(DELIVERY, "GET", f"/v1/reports/rollup?{self._query(found)}", [HOST])

    def _look(self) -> Shot:
        rng = self.rng
        name = quote(
            str(rng.choice([self._visitor(), *VALUES]))[:2_000],
            safe=rng.choice(["", "/"]),
            errors="replace",
        )
        paths = [
            f"/v1/profiles/{name}",
            f"/v1/models/{name}",
            "/v1/models/home",
            f"/v1/decisions/{rng.choice(self.decisions)}",
        ]
        return Shot(DELIVERY, "GET", rng.choice(paths), [HOST])

    def _odd(self) -> Shot:
        """Any address with any method; addresses a little wrong."""
        rng = self.rng
        side = rng.choice([COLLECTOR, DELIVERY])
        routes = COLLECTOR_ROUTES if side == COLLECTOR else DELIVERY_ROUTES
        path = rng.choice([route.path for route in routes])
        path = rng.choice([
            path, path + "/", "/" + path, path.upper(), path + "/x", path[:-1], path.replace("/", "//"), path + ";x=1",
            path + "%20", path + "?" + "a=b&" * 300, "/", "//", "/..", "/%2e%2e/x", "/" + "a" * 7_000, "/%00", "/%ff",
            "*", "/é", "/v1/projects/demo/settings", "/v1/projects/%00/settings", "/v1/projects//settings",
        ])  # fmt: skip
        return Shot(side, rng.choice(METHODS), path, [HOST], rng.choice([b"", b"{}", b"x"]))


def as_text(shot: Shot) -> str:
    """A shot for people, short."""
    sent = shot.payload()
    return json.dumps(sent[:600].decode("latin-1")) + (f" … {len(sent)} bytes" if len(sent) > 600 else "")
