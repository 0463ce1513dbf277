"""Who sent it: write keys, visitor ids, consent, addresses. Pure, but for fresh ids, which come from outside."""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from http.cookies import SimpleCookie

from pipeline.core.ids import usable_id

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class WriteKeys:
    """Who may write, and under which site. A look-up takes the same time for a wrong key as for a right one."""

    def __init__(self, sites: Mapping[str, str]) -> None:
        self._found = {hashlib.sha256(key.encode()).digest(): (key.encode(), site) for key, site in sites.items()}

    def site(self, key: str) -> str:
        """Return the site of a write key, "" for an unknown one. The digest hides how much of a guess was right."""
        given = key.encode("utf-8", "surrogatepass")  # "replace" would make a lone surrogate the `?` of another key
        known, site = self._found.get(hashlib.sha256(given).digest(), (b"", ""))
        return site if hmac.compare_digest(known, given) and known else ""


def refuses_tracking(headers: Mapping[str, str]) -> bool:
    """True where the visitor asked not to be followed: DNT: 1, Sec-GPC: 1 or Snowplow's SP-Anonymous."""
    get = headers.get
    return get("dnt") == "1" or get("sec-gpc") == "1" or bool(get("sp-anonymous"))


def cookie_id(cookie: str, name: str) -> str:
    """Return the usable id in the named cookie of a Cookie header, else ""."""
    for part in cookie.split(";"):
        key, _, value = part.partition("=")
        if key.strip() == name:
            return usable_id(value.strip().strip('"'))
    return ""


def set_cookie(name: str, value: str, max_age_s: int, secure: bool) -> str:
    """Return the Set-Cookie header for a visitor id."""
    cookie: SimpleCookie = SimpleCookie()
    cookie[name] = value
    morsel = cookie[name]
    morsel["path"] = "/"
    morsel["max-age"] = str(max_age_s)
    morsel["samesite"] = "Lax"
    morsel["httponly"] = True
    morsel["secure"] = secure
    return morsel.OutputString()


def read_networks(texts: Sequence[str]) -> tuple[IpNetwork, ...]:
    """Return addresses and CIDR ranges as networks. Raises ValueError naming the wrong one."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def client_ip(peer: str, forwarded_for: str, trusted: tuple[IpNetwork, ...]) -> str:
    """Return the address of the client: the last one in X-Forwarded-For that no trusted proxy wrote.

    peer: address that the connection came from. The header counts only where the peer is trusted; what a client wrote
    itself stands further left and is never reached.
    """
    if not trusted or not forwarded_for or not _is_trusted(peer, trusted):
        return peer
    found = peer
    for part in reversed(forwarded_for.split(",")):
        candidate = part.strip().strip("[]")
        try:
            ipaddress.ip_address(candidate)
        except ValueError:
            return found
        found = candidate
        if not _is_trusted(candidate, trusted):
            break
    return found


def _is_trusted(address: str, trusted: tuple[IpNetwork, ...]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in trusted)
