"""What a user agent string says: browser, operating system, device class, and whether it is a bot and why.

Third enrichment of the `clean` stage. Both look-ups are regex lists run by ua-parser's engine, which searches all
patterns' literals at once and then tries the few that can match; tried one by one the crawler list alone costs a
millisecond. A string is read once and remembered.
"""

import json
import re
from enum import StrEnum
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

import msgspec
from ua_parser import Domain, load_lazy_builtins
from ua_parser.lazy import OSMatcher, UserAgentMatcher
from ua_parser.regex import Resolver

USER_AGENT_CHARS_MAX: Final = 1_024
USER_AGENTS_CACHED_MAX: Final = 16_384

_CRAWLERS: Final = Path(__file__).resolve().parent.parent / "data" / "user_agents" / "crawlers.json"


class DeviceClass(StrEnum):
    """TV includes consoles at a television; OTHER is what is not known."""

    DESKTOP = "desktop"
    MOBILE = "mobile"
    TABLET = "tablet"
    TV = "tv"
    BOT = "bot"
    OTHER = "other"


class BotReason(StrEnum):
    """Why a client counts as a bot.

    LIBRARY is a program's HTTP client (curl, python-requests, okhttp). On a browser's pixel it is a bot; on a server's
    or an app's call it is that server or app, so the door that received the call must judge.
    """

    CRAWLER = "crawler"
    LIBRARY = "library"
    HEADLESS = "headless"
    MONITOR = "monitor"
    EMPTY = "empty"


class UserAgent(msgspec.Struct, frozen=True, gc=False):
    """browser, os: ua-parser's family ("Chrome Mobile", "iOS"), "Other" when unknown. bot: why, or None for people."""

    browser: str
    os: str
    device: DeviceClass
    bot: BotReason | None = None


# Patterns beside the published list, tried after it. Regular expressions of the engine: no look-around.
OWN_PATTERNS: Final = (
    (BotReason.HEADLESS, r"[Hh]eadless|SlimerJS|jsdom/|CasperJS|Nightmare/|WebDriver|HtmlUnit"),
    (BotReason.MONITOR, r"[Uu]ptime|[Mm]onitoring|[Hh]ealth-?[Cc]heck|kube-probe|GoogleHC|Consul Health"),
    (BotReason.LIBRARY, r"^(?:curl|libcurl|[Ww]get|[Pp]ython|[Jj]ava|Ruby|PHP|perl|node|undici|Deno|Bun|Go|Rust)\b"),
    (BotReason.LIBRARY, r"^(?:GuzzleHttp|RestSharp|PostmanRuntime|insomnia|Faraday|reqwest|hyper|got|superagent)\b"),
    (BotReason.LIBRARY, r"^(?:k6|ApacheBench|vegeta|hey|wrk|JMeter|Apache-HttpAsyncClient|WinHTTP|HTTPie|http\.rb)\b"),
    (BotReason.CRAWLER, r"[Cc]rawl|[Ss]pider|[Ss]lurp|[Ss]craper|[Ff]etcher|[Pp]review[Bb]ot"),
)  # fmt: skip

# Which device a word gives away; the first pattern that matches wins.
DEVICE_PATTERNS: Final = (
    (DeviceClass.TV, r"\bTV\b|SMART-?TV|SmartTV|HbbTV|AppleTV|GoogleTV|BRAVIA|CrKey|\bAFT[A-Z]|Roku|Web0S|NetCast"),
    (DeviceClass.TV, r"PlayStation|PLAYSTATION|Xbox|Viera|VIDAA|DTV|OperaTV|Large Screen|Nintendo Wii"),
    (DeviceClass.TABLET, r"iPad|[Tt]ablet|PlayBook|Kindle|Silk-|\bKF[A-Z]{2,}|SM-T\d|Nexus (?:7|9|10)\b|Xoom"),
    (DeviceClass.MOBILE, r"Mobi|iPhone|iPod|Windows Phone|BlackBerry|BB10|Opera Mini|Symbian|SymbOS|Series ?[346]0"),
    (DeviceClass.MOBILE, r"KAIOS|webOS/|N(?:okia|OKIA)|MIDP|UCWEB|\bPalm|Windows CE|UP\.Browser|Obigo|NetFront"),
)

# "bot" at a word's end, unless the word is a telephone's make (Cubot).
_BOT_WORD = re.compile(r"(?<!cu)bots?(?![a-z])")

_MOBILE_OS: Final = frozenset({
    "Android", "iOS", "Windows Phone", "Windows Mobile", "BlackBerry OS", "Symbian OS", "KaiOS", "Firefox OS", "Bada",
    "HarmonyOS", "OpenHarmony", "MeeGo", "Tizen",
})  # fmt: skip
_TV_OS: Final = frozenset({"tvOS", "ATV OS X", "Chromecast", "Chromecast Android", "Roku", "WebTV"})
_BOTH: Final = Domain.USER_AGENT | Domain.OS
_DESKTOP_OS = re.compile(
    r"Windows.*|Mac OS.*|Linux|Ubuntu|Fedora|Debian|Chrome OS|FreeBSD|OpenBSD|NetBSD|Solaris|Red Hat|SUSE|Mint|CentOS|"
    r"Arch Linux|Gentoo|Slackware|Mageia|Mandriva|Puppy"
)


def read_user_agent(raw: str) -> UserAgent:
    """Read a user agent string.

    raw: the header as sent, any text; what is past USER_AGENT_CHARS_MAX characters is not read.
    Raises nothing. A bot's device is BOT whatever it pretends to be.
    Source: uap-core's patterns (ua-parser-builtins) for families, npm crawler-user-agents for bots.
    """
    return _read_user_agent(raw[:USER_AGENT_CHARS_MAX])  # cut before the cache, so that its memory is bounded


@lru_cache(maxsize=USER_AGENTS_CACHED_MAX)
def _read_user_agent(raw: str) -> UserAgent:
    text = raw if raw.isascii() else raw.encode("utf-8", "replace").decode()  # the engine refuses lone surrogates
    text = text.strip()
    if text in {"", "-"}:
        return UserAgent("Other", "Other", DeviceClass.BOT, BotReason.EMPTY)
    family = _families()(text, _BOTH)
    browser = family.user_agent.family if family.user_agent else "Other"
    os = family.os.family if family.os else "Other"
    marks = _marks()(text, _BOTH)
    if marks.user_agent is not None:
        return UserAgent(browser, os, DeviceClass.BOT, BotReason(marks.user_agent.family))
    lower = text.lower()
    if "bot" in lower and _BOT_WORD.search(lower):
        return UserAgent(browser, os, DeviceClass.BOT, BotReason.CRAWLER)
    return UserAgent(browser, os, DeviceClass(marks.os.family) if marks.os else _device_class(text, os))


def _device_class(text: str, os: str) -> DeviceClass:
    """The device of a client that gave none away."""
    if os in _TV_OS:
        return DeviceClass.TV
    if os == "Android" and ("Chrome/" in text or "Silk/" in text):
        return DeviceClass.TABLET  # Chrome's own rule: a telephone writes "Mobile", a tablet leaves it out
    if os in _MOBILE_OS:
        return DeviceClass.MOBILE
    return DeviceClass.DESKTOP if _DESKTOP_OS.fullmatch(os) else DeviceClass.OTHER


@cache
def _families() -> Resolver:
    browsers, systems, _ = load_lazy_builtins()
    return Resolver((browsers, systems, []))  # the device patterns cost as much again, for a model that we do not use


@cache
def _marks() -> Resolver:
    """Bot patterns in the place of browsers (family = reason) and device patterns in that of systems (family = class).

    Of those that match, the engine names the first in the list.
    """
    published: dict[str, list[str]] = json.loads(_CRAWLERS.read_text("utf-8"))
    bots = [(reason, pattern) for reason, listed in published.items() for pattern in listed]
    bots += [(reason.value, pattern) for reason, pattern in OWN_PATTERNS]
    return Resolver((
        [UserAgentMatcher(f"({pattern})", reason) for reason, pattern in bots],
        [OSMatcher(f"({pattern})", device.value) for device, pattern in DEVICE_PATTERNS],
        [],
    ))  # fmt: skip
