"""A broker of its own for each file of these tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.embedded.kafka import EmbeddedKafka
from tests.agents.rig import broker


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("broker")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[EmbeddedKafka]:
    with broker(folder) as found:
        yield found
