"""How long the broker may hold back a fetch: briefly while records come, long while none do."""

import asyncio
import contextlib
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import Fetcher

from agents import transport
from agents.transport import BUSY_WAIT_MS, IDLE_WAIT_MS


class Scripted:
    """Stands for aiokafka's fetcher: what each call finds is given."""

    def __init__(self, *found: dict[str, list[int]]) -> None:
        self._found = list(found)
        self._closed = False
        self._subscriptions = SimpleNamespace(fetch_context=contextlib.nullcontext)

    async def fetched_records(self, *_: Any, **__: Any) -> dict[str, list[int]]:
        return self._found.pop(0)


def fetch(fetcher: Scripted) -> None:
    thread = object.__new__(transport._Thread)
    thread.consumer = SimpleNamespace(flow_active=True)  # type: ignore[assignment]
    asyncio.run(thread._fetch_records(SimpleNamespace(_closed=False, _fetcher=fetcher), set(), timeout=1.0))


def test_the_wait_is_short_from_the_first_record_to_the_first_silence() -> None:
    fetcher: Any = Scripted({"events": [1]}, {"events": [2]}, {}, {"events": [3]})
    fetcher._fetch_max_wait_ms = 1_500
    waits = []
    for _ in range(4):
        fetch(fetcher)
        waits.append(fetcher._fetch_max_wait_ms)
    assert waits == [BUSY_WAIT_MS, BUSY_WAIT_MS, IDLE_WAIT_MS, BUSY_WAIT_MS]


def test_a_release_that_names_the_wait_otherwise_is_seen() -> None:
    """It is private: a change must fail here or at the first fetch, not by becoming slow."""
    assert "self._fetch_max_wait_ms" in inspect.getsource(Fetcher._get_actions_per_node)
    with pytest.raises(AttributeError):
        fetch(Scripted({}))
