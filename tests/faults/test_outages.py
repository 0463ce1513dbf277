"""Short outages of everything around our parts; `python -m tests.faults` plays each for its full time."""

from collections.abc import Iterator, Sequence

import pytest

from tests.faults import scenarios
from tests.faults.load import Load
from tests.faults.plant import DISK_MB, Plant, can_mount, plant
from tests.faults.scenarios import Scenario

pytestmark = pytest.mark.journey

EVENTS_S = 150


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    folder = tmp_path_factory.mktemp("plant")
    with plant(folder, DISK_MB if can_mount(folder) else 0, ack_timeout_ms=1_500) as found:
        yield found


@pytest.fixture(scope="module")
def loads() -> list[Load]:
    """All visitors since the plant's start."""
    return []


@pytest.mark.parametrize(
    "played",
    [
        [(scenarios.broker_away, 3), (scenarios.broker_answers_lost, 2)],
        [(scenarios.warehouse_refuses, 3), (scenarios.disk_full, 2)],
        [(scenarios.cuts, 2), (scenarios.lossy, 2), (scenarios.wrong_clocks, 2)],
    ],
    ids=["broker", "warehouse", "lines-and-clocks"],
)
def test_what_was_accepted_is_stored_once_whatever_was_away(
    running: Plant, loads: list[Load], played: Sequence[tuple[Scenario, float]]
) -> None:
    """No 200 without the event, nothing twice, the right sessions; 503 says when to come again; decisions go on."""
    possible = [one for one in played if one[0] is not scenarios.disk_full or can_mount(running.settings.data_dir)]
    print(scenarios.play(running, possible, EVENTS_S, loads))
