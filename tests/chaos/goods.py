"""What the shops show for money: one line with a budget and a cap, so that its books and counts are killed at too."""

import io

import msgspec
import yaml
from rich.console import Console

from pipeline.campaigns.command import ImportWish, import_file
from pipeline.settings import Settings
from schemas.spend import SpendFixed
from tests.chaos.expected import SHOWN, Check
from tests.chaos.reference import States
from tests.journeys.rig import Running

SHELF = "shelf"
LINE = "shelf-line"
CREATIVES = ("shelf-red", "shelf-blue")
EACH_MICROS = 1_000
SHOWS_MAX = 600  # that the budget pays for
CAP = 12  # of a visitor and day: all of them together would be shown more than the budget pays for
SOLD_FROM = 400  # decisions answered: from so many on, some must have been paid for


def publish(settings: Settings) -> None:
    """Put the line into the marketers' store; the running service publishes it."""
    objects = {
        "advertisers": [{"id": "chaos", "name": "Chaos"}],
        "campaigns": [{"id": "shelf-campaign", "advertiser": "chaos", "name": "Shelf"}],
        "lines": [{
            "id": LINE, "campaign": "shelf-campaign", "name": "Shelf", "placements": [SHELF], "pacing": "asap",
            "price": {"per": "impression", "micros": EACH_MICROS * 1_000},
            "budget": {"total_micros": EACH_MICROS * SHOWS_MAX}, "caps": [{"count": CAP, "per": "day"}],
        }],
        "creatives": [{"id": name, "line": LINE, "name": name, "url": "https://shop.example/"} for name in CREATIVES],
        "placements": [{"id": SHELF, "name": "Shelf"}],
    }  # fmt: skip
    file = settings.data_dir / "shelf.yaml"
    file.write_text(yaml.safe_dump(objects), "utf-8")
    import_file(settings, Console(file=io.StringIO()), ImportWish(file, publish=True))


def promises(running: Running, clean: States, answered: int) -> list[Check]:
    """Check that the books of money balance, that the budget and no visitor's cap was passed.

    clean: states of the clean run. answered: decisions of the shops.
    """
    totals = [msgspec.msgpack.decode(view.fixed, type=SpendFixed).total for (stage, _), view in clean.items()
              if stage == "spend" and view.fixed]  # fmt: skip
    reserved, settled, released, held = (
        sum(getattr(total, name).micros for total in totals) for name in ("reserved", "settled", "released", "open")
    )
    passed = max(0, settled + held - EACH_MICROS * SHOWS_MAX)
    wrong = f"{passed} above the budget" if passed else ""
    if not reserved and answered >= SOLD_FROM:
        wrong = "nothing was paid for: the run did not test it"
    shown = running.ask(
        f"SELECT visitor, count() FROM outcomes FINAL WHERE line_id = '{LINE}' GROUP BY visitor"  # noqa: S608 - ours
    )
    above = sorted(f"{visitor}: {count}" for visitor, count in shown if int(str(count)) > CAP)
    return [
        Check("micros in the books of money", reserved, settled + released + held, wrong),
        Check("visitors whose cap was kept", len(shown), len(shown) - len(above), "; ".join(above[:SHOWN])),
    ]
