"""What a leasing process knows of the spend state: the very sums of the stage, whole versions only, no reservations."""

from collections.abc import Sequence

from hypothesis import given

from pipeline.core.lease import Account, Place
from pipeline.core.state import StateView, StateWriter
from pipeline.delivery.spend_view import SpendView
from schemas.outcome import Outcome
from schemas.spend import StockLevel
from schemas.state import StateRecord
from schemas.topics import SPEND
from tests.core.spend_rig import PRICE, RULES, START_MS, Spend, choice, news, restored, tell
from tests.core.test_spend import streams

LINE, DAY, CAMPAIGN = Account("line", "l1"), Account("line", "l1", "2026-09-21"), Account("campaign", "c1")


class Log:
    """The spend stage on one partition, and the records that it writes."""

    def __init__(self) -> None:
        self.view = StateView()
        self.records: list[StateRecord] = [StateWriter.fence("x")]
        self.view.apply(self.records[0], 0)
        self._fold = Spend(self.view, RULES)
        self._writer = StateWriter(self.view, "x")

    def write(self, at_ms: int, outcomes: Sequence[Outcome], bytes_max: int = 1_000_000) -> None:
        """One round of one block; its record may have parts."""
        from schemas.block import Origin, OutcomeBlock

        self._fold.apply(Origin(0, self.view.version + 1), OutcomeBlock(START_MS + at_ms, list(outcomes)))
        changes = self._fold.take_changes()
        made = self._writer.records(self.view.version + 1, self._fold.fixed(), changes, bytes_max)
        first = len(self.records)
        self.records += made
        self._writer.written(first)
        self.view.version += 1


def read(view: SpendView, records: Sequence[StateRecord], partition: int = 0, first: int = 0) -> None:
    for offset, record in enumerate(records, first):
        view.take(SPEND, partition, record, offset)


def test_what_was_reserved_and_not_released_is_spent_by_line_campaign_and_day() -> None:
    log = Log()
    log.write(0, [choice(1), choice(2), choice(3, line_id="l2", campaign_day="2026-09-22")])
    log.write(1, [news(1, is_paid=True), news(2, is_bot=True)])
    view = SpendView(1)
    view.begin(SPEND, 0)
    assert not view.is_loaded
    read(view, log.records)
    view.loaded(SPEND, 0)
    assert view.is_loaded
    assert view.spent_micros(LINE) == view.spent_micros(DAY) == PRICE
    assert view.spent_micros(CAMPAIGN) == 2 * PRICE
    assert view.spent_micros(Account("campaign", "c1", "2026-09-22")) == PRICE
    assert view.spent_micros(Account("line", "l9")) == 0
    assert view.seen_micros("g1") == 3 * PRICE
    assert (view.position, view.clock_ms) == ((Place(1, START_MS + 1),), START_MS + 1)


def test_a_record_in_parts_counts_once_it_is_whole() -> None:
    log = Log()
    log.write(0, [choice(number, line_id=f"line{number}") for number in range(20)], bytes_max=300)
    view = SpendView(1)
    view.begin(SPEND, 0)
    view.loaded(SPEND, 0)
    for offset, record in enumerate(log.records[:-1]):
        view.take(SPEND, 0, record, offset)
        assert (view.spent_micros(CAMPAIGN), view.position) == (0, (Place(-1, 0),))
    view.take(SPEND, 0, log.records[-1], len(log.records) - 1)
    assert (view.spent_micros(CAMPAIGN), view.position) == (20 * PRICE, (Place(0, START_MS),))


def test_while_a_partition_is_read_anew_what_was_known_stays_in_use() -> None:
    log = Log()
    log.write(0, [choice(1)])
    view = SpendView(1)
    view.begin(SPEND, 0)
    read(view, log.records)
    view.loaded(SPEND, 0)
    view.begin(SPEND, 0)
    assert view.spent_micros(LINE) == PRICE
    log.write(1, [choice(2)])
    read(view, log.records)
    assert view.spent_micros(LINE) == PRICE
    view.loaded(SPEND, 0)
    assert view.spent_micros(LINE) == 2 * PRICE


def test_a_partition_that_goes_back_to_an_older_version_is_not_whole_until_that_is_read() -> None:
    """A damaged state that is computed again: meanwhile nothing is granted by it."""
    log = Log()
    log.write(0, [choice(1)])
    view = SpendView(1)
    view.begin(SPEND, 0)
    read(view, log.records)
    view.loaded(SPEND, 0)
    again = StateRecord("change", "x", 0, -1, 0, b"", [], [])
    view.take(SPEND, 0, again, len(log.records))
    assert not view.is_whole


def test_the_newest_level_of_all_partitions_is_the_stock() -> None:
    view = SpendView(2)
    for partition, level in enumerate((StockLevel("shop", "s", 5, 20), StockLevel("shop", "s", 0, 30))):
        told = tell((0, []), stock=[level])
        puts = list(restored(told).entries.items())
        view.begin(SPEND, partition)
        view.take(SPEND, partition, StateRecord("change", "x", 0, 0, 0, told.fold.fixed(), puts, []), 1)
        view.loaded(SPEND, partition)
    assert view.stock_level("shop", "s") == 0
    assert view.stock_level("shop", "t") is None


@given(streams())
def test_the_sums_are_those_of_the_books_at_every_moment(stream: list[tuple[int, Outcome]]) -> None:
    log, view = Log(), SpendView(1)
    view.begin(SPEND, 0)
    read(view, log.records)
    view.loaded(SPEND, 0)
    for at_ms, one in stream:
        first = len(log.records)
        log.write(at_ms, [one])
        read(view, log.records[first:], first=first)
        late = SpendView(1)
        late.begin(SPEND, 0)
        read(late, log.records)
        late.loaded(SPEND, 0)
        for account in (LINE, DAY, CAMPAIGN, Account("campaign", "c2")):
            assert view.spent_micros(account) == late.spent_micros(account)
        assert view.seen_micros("g1") == late.seen_micros("g1")
