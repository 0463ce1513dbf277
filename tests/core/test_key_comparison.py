"""Keys are compared in constant time: shown by what touches a key, since a clock on a busy machine shows nothing.

A key that is watched tells of every comparison and every look-up by its own value; both stop at the first character
that differs, and so tell a guesser how far he got. Its digest may be looked up: nothing follows from a digest's prefix.
"""

import pytest

from pipeline.collector.identity import WriteKeys
from pipeline.delivery.guard import Guard
from pipeline.delivery.problems import Problem
from pipeline.delivery.web import Request
from pipeline.http.message import Head
from pipeline.settings import Settings

RIGHT = "k3y-of-the-shop"
GUESSES = [
    "",
    "k",
    "k3y",
    RIGHT[:-1],
    RIGHT[:-1] + "q",
    "x" + RIGHT[1:],
    RIGHT + "p",
    RIGHT.upper(),
    "\ud800",
    "é" * 99,
]


class Leak(AssertionError):
    """A key was compared in a way whose time tells of it."""


class WatchedBytes(bytes):
    """Bytes that may be digested, and compared by compare_digest alone."""

    def __eq__(self, other: object) -> bool:
        raise Leak("compared with ==")

    def __hash__(self) -> int:
        raise Leak("looked up by its value")

    def startswith(self, *_: object) -> bool:
        raise Leak("compared by its beginning")


class Watched(str):
    """A key as a client gave it."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise Leak("compared with ==")

    def __hash__(self) -> int:
        raise Leak("looked up by its value")

    def startswith(self, *_: object) -> bool:
        raise Leak("compared by its beginning")

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> WatchedBytes:
        return WatchedBytes(str.encode(self, encoding, errors))


def test_the_watch_sees_a_careless_comparison() -> None:
    """Else the tests below would pass whatever they are given."""
    for careless in (lambda key: key == RIGHT, lambda key: {RIGHT: 1}.get(key), lambda key: key.encode() == b"k"):
        with pytest.raises(Leak):
            careless(Watched(RIGHT))


@pytest.mark.parametrize("guess", GUESSES)
def test_a_write_key_is_compared_by_its_digest_alone(guess: str) -> None:
    keys = WriteKeys({RIGHT: "shop", "other": "blog"})
    assert keys.site(Watched(guess)) == ""
    assert keys.site(Watched(RIGHT)) == "shop"


class Asking(Request):
    """A request whose X-Herald-Key is watched."""

    def __init__(self, key: str) -> None:
        headers: dict[str, str] = {"x-herald-key": Watched(key)}
        super().__init__(Head("GET", "/", headers, 1, ""))


@pytest.mark.parametrize("guess", [guess for guess in GUESSES if guess])
def test_a_delivery_key_is_compared_by_its_digest_alone(guess: str) -> None:
    guard = Guard(Settings(delivery_keys=("first", RIGHT)))  # type: ignore[arg-type]
    with pytest.raises(Problem) as refused:
        guard.admit(Asking(guess))
    assert refused.value.status == 401
    guard.admit(Asking(RIGHT))
