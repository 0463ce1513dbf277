"""How many events a second each write key may send: a bucket of tokens a key. Pure: it is told the time.

A request passes while its key's bucket is not empty, and takes as many tokens as it has events, also more than there
are: the key then waits until what it owes has flowed in again. So a batch larger than the rate passes like any other,
and over time a key gets its rate exactly, however its events are cut into requests.
"""

from collections.abc import Iterable, Mapping

BURST_S = 1.0  # a bucket holds what flows in during this time: so much may come at once after a pause


class Quota:
    """The buckets of all write keys. Every method is told the time (s, any origin that does not go back)."""

    def __init__(self, keys: Iterable[str], events_per_s_max: int, now_s: float) -> None:
        """events_per_s_max: of each key, above 0."""
        self._rate = float(events_per_s_max)
        self._full = self._rate * BURST_S
        self._buckets: dict[str, tuple[float, float]] = dict.fromkeys(keys, (self._full, now_s))

    def take(self, events_by_key: Mapping[str, int], now_s: float) -> tuple[str, float]:
        """Take the events of one request from their keys' buckets: from all of them, or from none.

        Returns ("", 0.0), or a key that has passed its rate and how long it has to wait, s.
        """
        left = {key: self._level(key, now_s) for key in events_by_key}
        for key, level in left.items():
            if level <= 0:
                return key, -level / self._rate
        for key, events in events_by_key.items():
            self._buckets[key] = (left[key] - events, now_s)
        return "", 0.0

    def give_back(self, events_by_key: Mapping[str, int]) -> None:
        """Put back what a request took that could not be stored: it will be sent again."""
        for key, events in events_by_key.items():
            level, since_s = self._buckets[key]
            self._buckets[key] = (level + events, since_s)

    def _level(self, key: str, now_s: float) -> float:
        level, since_s = self._buckets[key]
        return min(self._full, level + (now_s - since_s) * self._rate)
