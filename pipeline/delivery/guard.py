"""At the door of delivery: who may ask, and reading a request within bounds of size, time and kind."""

from typing import Final, TypeVar

from pydantic import BaseModel

from pipeline.collector.identity import client_ip, read_networks, refuses_tracking
from pipeline.core.mask import truncate_ip
from pipeline.delivery.log import Sender
from pipeline.delivery.web import Request
from pipeline.errors import SettingsError
from pipeline.rest.keys import Keys, is_loopback, read_json
from pipeline.settings import Settings

HEADER_CHARS_MAX: Final = 2_048
HEADERS_MAX: Final = 64  # lines; more is 431
M = TypeVar("M", bound=BaseModel)


def check_exposed(settings: Settings) -> None:
    """Raise SettingsError where delivery would answer the whole network without asking for a key."""
    if not is_loopback(settings.host) and not settings.delivery_keys:
        raise SettingsError(
            f"HERALD_HOST = {settings.host!r}: delivery would tell profiles to anyone who reaches it; "
            "expected HERALD_DELIVERY_KEYS=key,… or a loopback address"
        )


class Guard:
    """Checks and reads requests."""

    def __init__(self, settings: Settings) -> None:
        """See Settings: delivery_keys, trusted_proxies."""
        self._keys = Keys({str(at): key for at, key in enumerate(settings.delivery_keys)}, "delivery")
        self._proxies = read_networks(settings.trusted_proxies)

    def admit(self, request: Request) -> None:
        """Raise Problem 401 where keys are set and the request has none of them."""
        self._keys.owner(request)

    def read(self, request: Request, kind: type[M]) -> M:
        """Return a request's JSON body as its model. Raises Problem 400 or 415."""
        return read_json(request, kind)

    def refuses_tracking(self, request: Request) -> bool:
        """True where the request came with DNT: 1 or Sec-GPC: 1."""
        return refuses_tracking(request.headers)

    def browser(self, request: Request, site: str) -> Sender:
        """Return who follows a signed address: the network cut, the user agent as it is (the pen masks it)."""
        address = client_ip(request.client, request.header("x-forwarded-for"), self._proxies)
        agent = request.header("user-agent")[:HEADER_CHARS_MAX]
        agent = agent.encode("utf-8", "replace").decode()
        no_consent = self.refuses_tracking(request)
        return Sender(site, truncate_ip(address), agent, no_consent)
