"""At the door of delivery: who may ask, and reading a request within bounds of size, time and kind."""

import hashlib
import hmac
import ipaddress
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.collector.identity import client_ip, read_networks, refuses_tracking
from pipeline.core.mask import truncate_ip
from pipeline.delivery.log import Sender
from pipeline.delivery.problems import Problem, invalid
from pipeline.delivery.web import Request
from pipeline.errors import SettingsError
from pipeline.settings import Settings

HEADER_CHARS_MAX: Final = 2_048
HEADERS_MAX: Final = 64  # lines; more is 431
M = TypeVar("M", bound=BaseModel)


def check_exposed(settings: Settings) -> None:
    """Raise SettingsError where delivery would answer the whole network without asking for a key."""
    try:
        is_loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        is_loopback = settings.host == "localhost"
    if not is_loopback and not settings.delivery_keys:
        raise SettingsError(
            f"HERALD_HOST = {settings.host!r}: delivery would tell profiles to anyone who reaches it; "
            "expected HERALD_DELIVERY_KEYS=key,… or a loopback address"
        )


class Guard:
    """Checks and reads requests."""

    def __init__(self, settings: Settings) -> None:
        """See Settings: delivery_keys, trusted_proxies."""
        self._keys = [_digest(key.get_secret_value()) for key in settings.delivery_keys]
        self._proxies = read_networks(settings.trusted_proxies)

    def admit(self, request: Request) -> None:
        """Raise Problem 401 where keys are set and the request has none of them."""
        if not self._keys:
            return
        given = request.header("x-herald-key") or request.header("ocp-apim-subscription-key")
        scheme, _, token = request.header("authorization").partition(" ")
        if not given and scheme.lower() == "bearer":
            given = token.strip()
        digest = _digest(given)
        # every key is compared, so that the time says nothing of which one it was
        if not sum(hmac.compare_digest(digest, key) for key in self._keys):
            raise Problem(
                401, "unauthorised", "expected a delivery key as `Authorization: Bearer …` or `X-Herald-Key: …`"
            )

    def read(self, request: Request, kind: type[M]) -> M:
        """Return a request's JSON body as its model. Raises Problem 400 or 415."""
        content_type = request.header("content-type").partition(";")[0].strip().lower() or "application/json"
        if content_type != "application/json" and not content_type.endswith("+json"):
            raise Problem(415, "media_type", f"content-type: {content_type[:80]!r}, expected application/json")
        encoding = request.header("content-encoding").strip().lower()
        if encoding not in ("", "identity"):
            raise Problem(415, "encoding", f"content-encoding: {encoding[:80]!r}, expected none")
        try:
            return kind.model_validate_json(request.body)
        except ValidationError as error:
            raise invalid(400, error, "request body") from None

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


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()
