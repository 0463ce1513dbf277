"""The books of held pieces, as `herald status` shows them: by sku, from the spend state.

What is open is counted twice: as the books have it, and hold by hold.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from pipeline.core.holds import HELD, PIECES
from pipeline.core.spend import STOCK, is_newer
from pipeline.core.state import StateView
from schemas.spend import Held, Pieces, StockLevel

_decode_pieces = msgspec.msgpack.Decoder(Pieces).decode
_decode_held = msgspec.msgpack.Decoder(Held).decode
_decode_level = msgspec.msgpack.Decoder(StockLevel).decode

SHOWN_MAX = 50
"""Skus shown to people: those of which most is held."""


class SkuPieces(NamedTuple):
    """A sku's pieces over all partitions. level: the newest that was told, None = none. open: counted hold by hold."""

    site: str
    sku: str
    level: int | None
    held: int
    bought: int
    ended: int
    bots: int
    open: int

    @property
    def is_balanced(self) -> bool:
        """True where held = bought + ended + bots + open."""
        return self.held == self.bought + self.ended + self.bots + self.open

    def as_object(self) -> dict[str, Any]:
        """Return it by name, for machines."""
        return self._asdict()


def books_of(views: Iterable[StateView]) -> list[SkuPieces]:
    """Return the books of every sku of which pieces were ever held, added up."""
    books: dict[tuple[str, str], Pieces] = {}
    levels: dict[tuple[str, str], StockLevel] = {}
    open_holds: Counter[tuple[str, str]] = Counter()
    for view in views:
        for key, raw in view.entries.items():
            if key.startswith(PIECES):
                _add(books, _decode_pieces(raw))
            elif key.startswith(HELD):
                held = _decode_held(raw)
                open_holds[held.site, held.sku] += 1
            elif key.startswith(STOCK):
                level = _decode_level(raw)
                known = levels.get((level.site, level.sku))
                if known is None or is_newer(level, known):
                    levels[level.site, level.sku] = level
    return [
        SkuPieces(
            *name, levels[name].level if name in levels else None, one.held, one.bought, one.ended, one.bots,
            open_holds[name],
        )
        for name, one in sorted(books.items())
    ]  # fmt: skip


def _add(books: dict[tuple[str, str], Pieces], more: Pieces) -> None:
    total = books.setdefault((more.site, more.sku), Pieces(more.site, more.sku))
    for column in ("held", "bought", "ended", "bots", "open"):
        setattr(total, column, getattr(total, column) + getattr(more, column))


def show(rows: Sequence[SkuPieces], console: Console) -> None:
    """Print it for people."""
    title = "pieces: held = bought + ended + bots + open"
    table = Table("sku", "told", "held", "bought", "ended", "bots", "open", title=title)
    for row in sorted(rows, key=lambda one: (one.is_balanced, -one.open))[:SHOWN_MAX]:
        level = "" if row.level is None else f"{row.level:,}"
        figures = [f"{count:,}" for count in (row.held, row.bought, row.ended, row.bots, row.open)]
        table.add_row(f"{row.site}/{row.sku}", level, *figures, style="" if row.is_balanced else "red")
    console.print(table)
