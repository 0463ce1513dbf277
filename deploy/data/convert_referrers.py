"""Convert the published lists of referrers and crawlers to the compact JSON that `pipeline/core` reads.

Run when a list was updated at its source:

    python deploy/data/convert_referrers.py --referrers FOLDER --crawlers crawler-user-agents.json.gz

FOLDER holds SearchEngines.yml and Socials.yml (github.com/matomo-org/searchengine-and-social-list) and spammers.txt
(github.com/matomo-org/referrer-spam-list), all public domain. The crawler list is npm crawler-user-agents (MIT).
Needs PyYAML. The output has no date in it: the same input gives the same bytes.
"""

import argparse
import codecs
import gzip
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

DATA = Path(__file__).resolve().parents[2] / "pipeline" / "data"

# Hosts that are listed as search engines or social networks but are better known as something else.
NOT_SEARCH = frozenset({"chat.openai.com", "chatgpt.com", "www.perplexity.ai"})
NOT_SOCIAL = frozenset({"login.live.com"})

# Engines whose hosts do not bear their name.
SEARCH_HOSTS = frozenset({"so.com", "m.so.com", "so.360.cn", "coccoc.com", "dogpile.com", "metacrawler.com"})

# Patterns narrowed, because as published they also flag people: apps that name okhttp after their own name, the
# telephones HTC Butterfly, Lucky Sonic and sprd-L008, the app of WIRED, an app on a telephone called speedy.
NARROWED = {
    "okhttp": "^okhttp",
    "Butterfly": r"Butterfly\/",
    "Sonic": r"Sonic\/|RankSonic",
    r"008\/": r"^008\/",
    r"RED\/": r"^RED\/",
    "speedy": "speedy_spider",
}

# Which reason a tag gives; a pattern without one of these is a crawler. Written in the order they are tried.
REASON_OF_TAG = {"monitoring": "monitor", "browser-automation": "headless", "http-library": "library"}
REASONS = ("monitor", "crawler", "headless", "library")


def convert_search_engines(source: Path) -> dict[str, Any]:
    """{"engines": [[name, params, path patterns, pages without a term, charsets]], "hosts": {host: [index, bare]}}.

    Hosts keep the `{}` of the source (a country); bare: an origin without a path is enough to call it a search,
    which holds where the source lists it or the host bears the engine's name or calls itself search.
    """
    engines: list[list[Any]] = []
    hosts: dict[str, list[int]] = {}
    for name, definitions in yaml.safe_load(source.read_text("utf-8")).items():
        for definition in definitions:
            hidden = definition.get("hiddenkeyword", [])
            params = [str(param) for param in definition.get("params") or []]
            engines.append([
                str(name),
                [param for param in params if not param.startswith("/") and param.strip()],
                [param.strip("/") for param in params if param.startswith("/")],
                [_as_pattern(page) for page in hidden],
                [charset for charset in definition.get("charsets", []) if _is_codec(charset)],
            ])  # fmt: skip
            for host in definition["urls"]:
                if host not in NOT_SEARCH and "//" not in host:
                    bare = "/" in hidden or "/.*/" in hidden or _bears_name(host, str(name))
                    bare = bare or host.removeprefix("www.") in SEARCH_HOSTS
                    hosts.setdefault(host.removeprefix("www."), [len(engines) - 1, int(bare)])
    return {"engines": engines, "hosts": dict(sorted(hosts.items()))}


def _as_pattern(page: str) -> str:
    return page[1:-1] if len(page) > 1 and page.startswith("/") and page.endswith("/") else re.escape(page) + r"(\?.*)?"


def _is_codec(charset: str) -> bool:
    try:
        codecs.lookup(charset)
    except LookupError:
        return False
    return charset.lower() != "utf-8"


def _bears_name(host: str, name: str) -> bool:
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    return "search" in host or letters in re.sub(r"[^a-z0-9]", "", host)


def convert_socials(source: Path) -> dict[str, str]:
    """{host: network}; a host stands for its subdomains too, so those of the same network are left out."""
    networks = {
        str(host).lower(): unquote(str(name))
        for name, hosts in yaml.safe_load(source.read_text("utf-8")).items()
        for host in hosts
        if host not in NOT_SOCIAL
    }
    return {
        host: name
        for host, name in sorted(networks.items())
        if not any(networks.get(parent) == name for parent in _parents(host))
    }


def _parents(host: str) -> list[str]:
    labels = host.split(".")
    return [".".join(labels[i:]) for i in range(1, len(labels) - 1)]


def convert_spammers(source: Path) -> list[str]:
    """Sorted domains, lower case."""
    return sorted({line.strip().lower() for line in source.read_text("utf-8").splitlines() if line.strip()})


def convert_crawlers(source: Path) -> dict[str, list[str]]:
    """{reason: patterns}, reasons in the order they are tried, patterns in the order of the source."""
    patterns: dict[str, list[str]] = {reason: [] for reason in REASONS}
    for crawler in json.loads(gzip.decompress(source.read_bytes())):
        reasons = {REASON_OF_TAG.get(tag, "crawler") for tag in crawler.get("tags", [])} or {"crawler"}
        reason = next(reason for reason in REASONS if reason in reasons)
        patterns[reason].append(NARROWED.get(crawler["pattern"], crawler["pattern"]))
    return patterns


def write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, ensure_ascii=False, indent=0, separators=(",", ":")) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--referrers", type=Path, required=True)
    parser.add_argument("--crawlers", type=Path, required=True)
    given = parser.parse_args()
    write(DATA / "referrers" / "search.json", convert_search_engines(given.referrers / "SearchEngines.yml"))
    write(DATA / "referrers" / "social.json", convert_socials(given.referrers / "Socials.yml"))
    write(DATA / "referrers" / "spam.json", convert_spammers(given.referrers / "spammers.txt"))
    write(DATA / "user_agents" / "crawlers.json", convert_crawlers(given.crawlers))


if __name__ == "__main__":
    main()
