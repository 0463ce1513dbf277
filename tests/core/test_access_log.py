"""Access log lines: every real line parses, the published counts come out, broken lines are None."""

import gzip
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.access_log import AccessLine, read_access_line

DATA = Path(os.environ.get("HERALD_TEST_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "access_logs").is_dir(), reason=f"no published access logs in {DATA} (set HERALD_TEST_DATA)"
)


def read_lines(name: str) -> list[str]:
    return gzip.decompress((DATA / "access_logs" / name).read_bytes()).decode("utf-8", "replace").splitlines()


def test_a_combined_line_is_read_with_its_zone() -> None:
    line = (
        '1.2.3.4 - ann [17/Apr/2025:05:10:56 +0100] "GET /a?b=1 HTTP/2.0" 200 103 "https://a.example/" "Mozilla/5.0"\n'
    )
    assert read_access_line(line) == AccessLine(
        "1.2.3.4", 1_744_863_056_000, "GET", "/a?b=1", "HTTP/2.0", 200, 103, "https://a.example/", "Mozilla/5.0"
    )


def test_a_common_line_has_no_referrer() -> None:
    line = 'unicomp6.unicomp.net - - [01/Jul/1995:00:00:06 -0400] "GET /shuttle/ HTTP/1.0" 304 -'
    assert read_access_line(line) == AccessLine(
        "unicomp6.unicomp.net", 804_571_206_000, "GET", "/shuttle/", "HTTP/1.0", 304, 0
    )


@pytest.mark.parametrize(
    ("request_line", "read"),
    [
        ("", ("", "", "")),
        ("-", ("", "", "")),
        ("GET /old", ("GET", "/old", "")),
        ("GET /a b HTTP/1.1", ("GET", "/a b", "HTTP/1.1")),
        (r"\x16\x03\x01", ("", "\x16\x03\x01", "")),
        (r"GET /\"x\" HTTP/1.1", ("GET", '/"x"', "HTTP/1.1")),
    ],
)
def test_request_lines_are_read_whatever_they_hold(request_line: str, read: tuple[str, str, str]) -> None:
    found = read_access_line(f'::1 - - [01/Jan/2025:00:00:00 +0000] "{request_line}" 400 0 "-" "-"')
    assert found is not None
    assert (found.method, found.target, found.protocol) == read
    assert (found.referrer, found.user_agent) == ("", "")


def test_escaped_quotes_do_not_end_a_field() -> None:
    line = r'::1 - - [01/Jan/2025:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "http://a/\"\\" "a \"b\" \xc3\xa9" "extra"'
    found = read_access_line(line)
    assert found is not None
    assert (found.referrer, found.user_agent) == ('http://a/"\\', 'a "b" é')


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        '::1 - - [31/Jun/2025:00:00:00 +0000] "GET / HTTP/1.1" 200 1',
        '::1 - - [01/Foo/2025:00:00:00 +0000] "GET / HTTP/1.1" 200 1',
        '::1 - - [01/Jan/2025:00:00:00 +9900] "GET / HTTP/1.1" 200 1',
        '::1 - - [01/Jan/2025:00:00:00 +0000] "GET / HTTP/1.1" abc 1',
        '::1 - - [01/Jan/2025:00:00:00 +0000] "GET / HTTP/1.1 200 1',
    ],
)
def test_what_is_no_access_line_is_none(line: str) -> None:
    assert read_access_line(line) is None


TEXTS = st.lists(
    st.sampled_from(
        ["\\x16", "\\xc3\\xa9", "\\x", "\\n", '\\"', '"', "\\", " ", "-", "GET ", " HTTP/1.1", "/a?b", "é", "\n", "]"]
    ),
    max_size=4,
).map("".join)
LINES = st.builds(
    'h{} - - [{} {}] "{}" 200 1 "{}" "{}"'.format,
    st.sampled_from(["", " x", "\t"]),
    st.sampled_from(["01/Jan/2025:00:00:00", "29/Feb/2024:23:59:60", "31/Jun/2025:00:00:00", "01/Jän/2025:00:00:00"]),
    st.sampled_from(["+0000", "-1200", "+0530", "+2400"]),
    TEXTS,
    TEXTS,
    TEXTS,
)


def test_any_line_is_read_or_is_none() -> None:
    """Of one that is read the status and size stand where they stood, whatever its texts hold."""
    read: Counter[bool] = Counter()

    @settings(max_examples=120)
    @given(LINES)
    def is_either(line: str) -> None:
        found = read_access_line(line)
        read[found is not None] += 1
        assert found is None or (found.status, found.body_bytes, found.event_time_ms > 0) == (200, 1, True)

    is_either()
    assert min(read[True], read[False]) > 5, read


@needs_data
@pytest.mark.parametrize(
    ("name", "lines", "statuses", "methods", "body_bytes", "hosts", "first_ms", "last_ms"),
    [
        (
            "apache_combined_2015.log.gz",
            10_000,
            {200: 9_126, 304: 445, 404: 213, 301: 164, 206: 45, 500: 3, 403: 2, 416: 2},
            {"GET": 9_952, "HEAD": 42, "POST": 5, "OPTIONS": 1},
            2_747_282_740,
            1_753,
            1_431_857_100_000,
            1_432_155_959_000,
        ),
        (
            "nginx_combined_2025.log.gz",
            5_749,
            {200: 5_116, 499: 350, 404: 142, 301: 48, 405: 29, 302: 23, 403: 20, 503: 9, 206: 6, 500: 4, 400: 1}
            | {409: 1},
            {"GET": 4_936, "POST": 789, "HEAD": 23, "": 1},
            873_723_552,
            715,
            1_744_863_056_000,
            1_745_447_666_000,
        ),
        (
            "nasa_common_1995-07-01.log.gz",
            4_000,
            {200: 3_566, 304: 216, 302: 193, 404: 25},
            None,
            91_255_662,
            416,
            804_571_201_000,
            804_575_334_000,
        ),
    ],
)
def test_the_published_counts_of_real_logs_come_out(
    name: str,
    lines: int,
    statuses: dict[int, int],
    methods: dict[str, int] | None,
    body_bytes: int,
    hosts: int,
    first_ms: int,
    last_ms: int,
) -> None:
    read = [found for line in read_lines(name) if (found := read_access_line(line)) is not None]
    assert len(read) == lines
    assert Counter(line.status for line in read) == statuses
    assert methods is None or Counter(line.method for line in read) == methods
    assert sum(line.body_bytes for line in read) == body_bytes
    assert len({line.host for line in read}) == hosts
    times = [line.event_time_ms for line in read]
    assert (min(times), max(times)) == (first_ms, last_ms)


def test_a_user_agent_that_was_cut_is_read_to_the_lines_end() -> None:
    found = read_access_line('::1 - - [01/Jan/2025:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "Mozilla/5.0 (comp')
    assert found is not None
    assert found.user_agent == "Mozilla/5.0 (comp"


@needs_data
def test_user_agents_and_referrers_of_a_real_log_are_counted() -> None:
    read = [found for line in read_lines("apache_combined_2015.log.gz") if (found := read_access_line(line))]
    assert len({line.user_agent for line in read}) == 559
    assert sum(line.referrer == "" for line in read) == 4_073  # published: 4,072, without the one line that was cut
    read = [found for line in read_lines("nginx_combined_2025.log.gz") if (found := read_access_line(line))]
    assert len({line.user_agent for line in read}) == 125
    assert sum(line.referrer == "" for line in read) == 5_305
