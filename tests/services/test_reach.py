"""Where a delivery process says that it answers: an address that the others can reach."""

import socket
from pathlib import Path
from typing import Any

import psutil
import pytest
from campaigns_rig import of_url

from pipeline.delivery.reach import peer_url, route
from pipeline.rest.keys import is_loopback
from pipeline.settings import Settings


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "http://127.0.0.1:8402"),
        ({"host": "10.0.0.7"}, "http://10.0.0.7:8402"),
        ({"host": "::1", "delivery_port": 99}, "http://[::1]:99"),
        ({"host": "0.0.0.0", "delivery_peer_url": "http://shop:1"}, "http://shop:1"),
    ],
)
def test_what_is_said_is_what_others_are_told(given: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert peer_url(Settings(data_dir=tmp_path, **({"delivery_port": 8402} | given))) == expected


def own_addresses() -> list[str]:
    """The addresses of this machine that another one may reach."""
    found = [each.address for ones in psutil.net_if_addrs().values() for each in ones if each.family == socket.AF_INET]
    return [each for each in found if not is_loopback(each)]


def test_bound_to_every_address_with_a_store_for_several_machines_it_is_none_of_this_machine_alone() -> None:
    """Debian has the machine's own name as 127.0.1.1: two machines with that address would each ask themselves."""
    others = own_addresses()
    if not others:
        pytest.skip("this machine has no address but its own")
    assert [route(each, socket.AF_INET) for each in others] == others
    settings = of_url(f"postgresql://herald@{others[0]}/herald", Path("/nowhere"))
    found = peer_url(settings.model_copy(update={"host": "0.0.0.0", "delivery_port": 1}))
    assert found in [f"http://{each}:1" for each in others]


def test_a_way_to_nowhere_is_no_address() -> None:
    assert [route(name, socket.AF_INET) for name in ("no name", "h" * 64, "::1")] == [""] * 3
    assert route("127.0.0.1", socket.AF_INET) == "127.0.0.1"
