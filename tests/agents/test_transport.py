"""How long the broker may hold back a fetch: briefly where it leaves partitions out, long where it asks for all."""

import asyncio
import contextlib
import inspect
from types import SimpleNamespace
from typing import Any

from aiokafka.consumer.fetcher import Fetcher

from agents import transport
from agents.transport import PARTIAL_WAIT_MS, WHOLE_WAIT_MS, PatientFetcher


async def nothing(*_: Any, **__: Any) -> dict[str, list[int]]:
    return {}


def fetched(fetcher: Any) -> Any:
    """Have Faust's thread fetch once; return the fetcher that it has then."""
    thread = object.__new__(transport._Thread)
    thread.consumer = SimpleNamespace(flow_active=True)  # type: ignore[assignment]
    fetcher.fetched_records = nothing
    asyncio.run(thread._fetch_records(SimpleNamespace(_closed=False, _fetcher=fetcher), set(), timeout=1.0))
    return fetcher


def test_a_fetch_waits_briefly_only_while_records_of_a_partition_wait_to_be_taken() -> None:
    plain = object.__new__(Fetcher)
    plain.__dict__ |= {"_closed": False, "_records": {}, "_fetch_max_wait_ms": 1_500}
    plain._subscriptions = SimpleNamespace(fetch_context=contextlib.nullcontext)
    fetcher = fetched(plain)
    assert isinstance(fetcher, PatientFetcher)
    waits = [fetcher._fetch_max_wait_ms]
    fetcher._records["events"] = object()
    waits.append(fetcher._fetch_max_wait_ms)
    fetcher._records.clear()
    waits.append(fetcher._fetch_max_wait_ms)
    assert waits == [WHOLE_WAIT_MS, PARTIAL_WAIT_MS, WHOLE_WAIT_MS]


def test_a_release_that_names_what_we_rely_on_otherwise_is_seen() -> None:
    """It is private: a change must fail here, not by becoming slow."""
    builds = inspect.getsource(Fetcher._get_actions_per_node)
    assert "self._fetch_max_wait_ms" in builds
    assert "tp in self._records" in builds
    assert "self._fetcher_timeout" in builds
