"""What the journeys share: where the published data are."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from segment.analytics import request as segment_request

DATA = Path(os.environ.get("HERALD_TEST_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))


@pytest.fixture(autouse=True, scope="module")
def _segments_connections_end() -> Iterator[None]:
    """Segment's client keeps one pool of connections for the whole process and never closes it."""
    yield
    segment_request._session.close()


@pytest.fixture
def published() -> Callable[[str], Path]:
    """Return a file of the published data sets by its path in their folder; skip the test where it is absent."""

    def find(path: str) -> Path:
        if not (DATA / path).exists():
            pytest.skip(f"{path} is not in {DATA} (set HERALD_TEST_DATA)")
        return DATA / path

    return find
