"""Faust's transport with one change: how long the broker may hold back a fetch.

Faust has it as 1,500 ms, in its code. aiokafka has one fetch under way to a broker; partitions whose records wait to be
taken are left out of it. So where the others have nothing new, the fetch for these alone stands for 1.5 s, and those
that have much to give are not asked meanwhile: aggregate, which reads four topics, stood still for a third of the time
while it was behind, and at an even rate a row came a second late now and then. A fetch that leaves partitions out is
therefore short. One for all partitions holds nobody up, and may stand for as long as nothing comes: each empty answer
costs the broker and us.
"""

from typing import Any

from aiokafka.consumer.fetcher import Fetcher
from faust.transport.drivers import aiokafka as driver

PARTIAL_WAIT_MS = 100
WHOLE_WAIT_MS = 1_500
LOOK_AROUND_S = 1.0
"""So often aiokafka's fetcher looks around where nothing woke it; 0.2 s, its default, is a fifth of an idle stage."""


class PatientFetcher(Fetcher):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's fetcher, which reads this attribute for each fetch that it sends."""

    @property
    def _fetch_max_wait_ms(self) -> int:
        return PARTIAL_WAIT_MS if self._records else WHOLE_WAIT_MS

    @_fetch_max_wait_ms.setter
    def _fetch_max_wait_ms(self, wait_ms: int) -> None:
        """What the constructor was given, from Faust: see above."""


class _Thread(driver.AIOKafkaConsumerThread):
    async def _fetch_records(self, consumer: Any, *arguments: Any, **named: Any) -> Any:
        if type(consumer._fetcher) is Fetcher:  # a consumer makes its own when it starts, and asks nobody for the class
            consumer._fetcher.__class__ = PatientFetcher
            consumer._fetcher._fetcher_timeout = LOOK_AROUND_S
        return await super()._fetch_records(consumer, *arguments, **named)


class _Consumer(driver.Consumer):
    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class Transport(driver.Transport):
    """Waits for the broker's answer as long as it pays."""

    Consumer = _Consumer
