"""Where other delivery processes reach this one."""

import contextlib
import logging
import socket
from typing import Final

from pipeline.campaigns.database import url_of
from pipeline.delivery.desk import own_url
from pipeline.rest.keys import is_loopback
from pipeline.settings import Settings

log = logging.getLogger(__name__)

EVERYWHERE: Final = {"0.0.0.0": socket.AF_INET, "": socket.AF_INET, "::": socket.AF_INET6}
"""What a server is bound to that takes every address of its machine."""
_ANYBODY: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses for documentation (RFC 5737, RFC 3849): nobody has them, so the way to them is the way to everybody."""
_PORT: Final = 9


def peer_url(settings: Settings) -> str:
    """Return where other delivery processes reach this one.

    Bound to every address, it is the one of the machine's name; where that stands for this machine alone, as Debian
    has it, and the store is one for several machines, the one that leads to the store. Raises SettingsError for an
    address that names no store.
    """
    if settings.delivery_peer_url:
        return settings.delivery_peer_url
    if settings.host not in EVERYWHERE:
        return own_url(settings)
    family = EVERYWHERE[settings.host]
    store = url_of(settings)
    found = _address_of(socket.gethostname(), family)
    if store.get_backend_name() != "sqlite" and (not found or is_loopback(found)):
        ways = (route(each, family) for each in (store.host or "", _ANYBODY[family]))
        found = next((each for each in ways if each and not is_loopback(each)), found)
    if not found:
        log.warning("HERALD_DELIVERY_PEER_URL: not set, and %s is no address", socket.gethostname())
        found = "127.0.0.1" if family == socket.AF_INET else "::1"
    return own_url(settings.model_copy(update={"host": found}))


def route(host: str, family: int) -> str:
    """Return the address of this machine by which it would reach another one, "" where it has none. Nothing is sent."""
    with contextlib.suppress(OSError, UnicodeError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, _PORT))
        return str(probe.getsockname()[0])
    return ""


def _address_of(name: str, family: int) -> str:
    with contextlib.suppress(OSError, UnicodeError):
        return str(socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)[0][4][0])
    return ""
