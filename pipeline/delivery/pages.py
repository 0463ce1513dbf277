"""The pages for people: a few small files of our own, so that it works without a network and under a strict policy."""

from importlib.resources import files
from typing import Final

from pipeline.delivery.web import Answer, Endpoint, Request

PAGES: Final = {
    "index.html": "text/html; charset=utf-8",
    "docs.js": "text/javascript",
    "docs.css": "text/css",
    "campaigns.js": "text/javascript",
    "campaigns.css": "text/css",
}
HEADERS: Final = (
    ("content-security-policy", "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-cache"),
)


def content(name: str) -> bytes:
    """Return one of our files, in pipeline/data/docs."""
    return files("pipeline").joinpath("data", "docs", name).read_bytes()


def page(name: str, media: str) -> Endpoint:
    """Return the endpoint that serves one of our files. name: in pipeline/data/docs. media: its type."""
    body = content(name)

    def answer(request: Request) -> Answer:
        return Answer(200, body, media, HEADERS)

    return answer
