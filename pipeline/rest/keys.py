"""Keys at the door of a service, and reading a JSON body."""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from typing import Final, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from pipeline.delivery.problems import Problem, invalid
from pipeline.delivery.web import Request

M = TypeVar("M", bound=BaseModel)
KEY_HEADERS: Final = ("x-herald-key", "ocp-apim-subscription-key", "x-adzerk-apikey")


def is_loopback(host: str) -> bool:
    """True where a server on this address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Keys:
    """Who may ask. Only digests are kept, and every one is compared: the time says nothing of which key it was."""

    def __init__(self, keys: Mapping[str, SecretStr], what: str) -> None:
        """keys: by the name of whose it is; none = anybody may. what: kind of key, for the refusal."""
        self._digests = [(name, _digest(key.get_secret_value())) for name, key in keys.items()]
        self._what = what

    def owner(self, request: Request) -> str:
        """Return whose key a request has, "" where none are asked for. Raises Problem 401."""
        if not self._digests:
            return ""
        digest = _digest(given_key(request))
        owners = [name for name, known in self._digests if hmac.compare_digest(digest, known)]
        if not owners:
            text = f"expected a {self._what} key as `Authorization: Bearer …` or `X-Herald-Key: …`"
            raise Problem(401, "unauthorised", text)
        return owners[0]


def given_key(request: Request) -> str:
    """Return the key that a request came with, "" where it has none."""
    given = next((found for name in KEY_HEADERS if (found := request.header(name))), "")
    scheme, _, token = request.header("authorization").partition(" ")
    return token.strip() if not given and scheme.lower() == "bearer" else given


def read_json(request: Request, kind: type[M]) -> M:
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


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()
