"""Event ids seen in the last window, 16 bytes each: exact duplicates are found without keeping the events.

Ids are 64-bit hashes. Two different ids share one with probability n / 2**64: one in 10**11 for a hundred million
remembered ids, the price of an eighth of the memory.

At rest they are entries of the stage's state, one for each block, joined in tiers up to ENTRY_IDS_MAX. For look-ups
they stand once more in sorted runs, one list for each hour, joined geometrically (the logarithmic method, Bentley and
Saxe 1980): few runs to search, and each id is moved only a few times.
"""

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from pipeline.core.state import Packed

HOUR_MS = 3_600_000
FAN_IN = 16  # entries of a tier that become one of the next
ENTRY_IDS_MAX = 65_536  # a state record must stay well under the broker's limit

Hashes = npt.NDArray[np.uint64]


def hash_id(event_id: str) -> int:
    """Return the 64-bit hash of an event id, the same in every process."""
    digest = blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class SeenIds:
    """The ids of one partition. Keys of the entries: `hour:tier:offset of the first block`."""

    def __init__(self, packed: Packed, window_ms: int) -> None:
        """packed: the state's entries, owned from now on. window_ms: how long an id is remembered, whole hours up."""
        self.packed = packed
        self.window_hours = -(-window_ms // HOUR_MS)
        self._tiers: dict[tuple[int, int], list[str]] = {}
        self._runs: dict[int, list[Hashes]] = {}
        self._puts: dict[str, None] = {}
        self._deletes: dict[str, None] = {}
        for key in sorted(packed, key=_parts):  # in the order in which they came: an owner and its heir join alike
            hour, tier, _ = _parts(key)
            self._tiers.setdefault((hour, tier), []).append(key)
            self._runs.setdefault(hour, []).append(np.frombuffer(packed[key], np.uint64))
        for hour in self._runs:
            self._join(hour)

    def __len__(self) -> int:
        return sum(len(run) for runs in self._runs.values() for run in runs)

    def new_ones(self, hashes: list[int]) -> list[bool]:
        """Say for each hash of a block whether it is new: not seen before, nor earlier in the same block."""
        found = np.array(hashes, np.uint64)
        seen = np.zeros(len(hashes), bool)
        for runs in self._runs.values():
            for run in runs:
                place = np.searchsorted(run, found)
                place[place == len(run)] = 0
                seen |= run[place] == found
        fresh: list[bool] = (~seen).tolist()
        if len(set(hashes)) < len(hashes):  # seldom
            once: set[int] = set()
            for at, one in enumerate(hashes):
                fresh[at] = fresh[at] and one not in once
                once.add(one)
        return fresh

    def add(self, hashes: list[int], offset: int, block_time_ms: int) -> None:
        """Remember the hashes that `new_ones` called new; forget those that are out of the window."""
        self.forget(block_time_ms)
        hour = block_time_ms // HOUR_MS
        if not hashes:
            return
        if hour not in self._runs:
            for earlier in self._runs:
                self._join(earlier)
        run = np.sort(np.array(hashes, np.uint64))
        self._put(f"{hour}:0:{offset}", run)
        self._join_tiers(hour, 0)
        runs = self._runs.setdefault(hour, [])
        runs.append(run)
        while len(runs) > 1 and len(runs[-2]) <= 2 * len(runs[-1]):
            last = runs.pop()
            runs[-1] = _merged([runs[-1], last])

    def _join(self, hour: int) -> None:
        runs = self._runs[hour]
        if len(runs) > 1:
            self._runs[hour] = [_merged(runs)]

    def forget(self, block_time_ms: int) -> None:
        """Forget what is out of the window; before a look-up, so that the answer depends on nothing but the time."""
        first_hour = block_time_ms // HOUR_MS - self.window_hours
        for old, tier in [found for found in self._tiers if found[0] < first_hour]:
            for key in list(self._tiers[old, tier]):
                self._drop(key)
            del self._tiers[old, tier]
            self._runs.pop(old, None)

    def _join_tiers(self, hour: int, tier: int) -> None:
        """Join the last FAN_IN entries of a tier, unless they are too large: then they stay as they are for good."""
        same = self._tiers[hour, tier]
        if len(same) % FAN_IN:
            return
        last = same[-FAN_IN:]
        ids = _merged([np.frombuffer(self.packed[key], np.uint64) for key in last])
        if len(ids) > ENTRY_IDS_MAX:
            return
        for key in last:
            self._drop(key)
        self._put(f"{hour}:{tier + 1}:{_parts(last[0])[2]}", ids)
        self._join_tiers(hour, tier + 1)

    def _put(self, key: str, ids: Hashes) -> None:
        hour, tier, _ = _parts(key)
        self.packed[key] = ids.tobytes()
        self._tiers.setdefault((hour, tier), []).append(key)
        self._puts[key] = None

    def _drop(self, key: str) -> None:
        hour, tier, _ = _parts(key)
        del self.packed[key]
        self._tiers[hour, tier].remove(key)
        self._puts.pop(key, None)
        self._deletes[key] = None

    def take_changes(self) -> tuple[list[tuple[str, bytes]], list[str]]:
        """Return (puts, deletes) since the last call."""
        changes = [(key, self.packed[key]) for key in self._puts], list(self._deletes)
        self._puts.clear()
        self._deletes.clear()
        return changes


def _merged(runs: list[Hashes]) -> Hashes:
    """Join sorted runs, no id in two of them. A stable sort of whole numbers finds runs and merges them (Timsort)."""
    return np.sort(np.concatenate(runs), kind="stable")


def _parts(key: str) -> tuple[int, int, int]:
    hour, tier, offset = key.split(":")
    return int(hour), int(tier), int(offset)
