"""Recorded files: what is damaged is counted and skipped, and where they are sent is checked before anything is."""

import gzip
from pathlib import Path

import pytest

from pipeline.errors import SettingsError
from pipeline.replay.formats import Recorded, read
from pipeline.replay.service import url_of
from pipeline.settings import Settings

REES46 = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
GOOD = "2019-10-01 00:00:00 UTC,view,7,1,a.b,acme,1.50,u1,s1\n"
LOG = '10.0.0.1 - - [01/Jul/2025:00:00:01 +0000] "GET /{} HTTP/1.1" 200 5 "-" "Mozilla/5.0"\n'


def rows_of(path: Path) -> tuple[list[Recorded], int]:
    """The rows that can be read, and how many cannot."""
    skipped: list[None] = []
    return list(read(path, lambda: skipped.append(None))), len(skipped)


@pytest.mark.parametrize("damage", [
    "2019-10-01 00:00:00 UTC,view\n", "yesterday,view,7,1,a,b,1,u,s\n", "2019-10-01 00:00:00 UTC,peek,7,1,a,b,1,u,s\n",
    "\x00\ufffd\n", "9" * 200_000 + "\n", '"' + "x" * 10 + "\n",
])  # fmt: skip
def test_a_damaged_row_of_a_csv_is_counted_and_takes_no_other_with_it(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(REES46 + GOOD + damage, "utf-8")
    rows, skipped = rows_of(path)
    assert ([row.message["event"] for row in rows], skipped) == (["Product Viewed"], 1)


def test_the_rows_after_a_damaged_one_keep_their_own_ids(tmp_path: Path) -> None:
    """Ids come from the row's number, so a file that is mended later does not give two rows one id."""
    path = tmp_path / "a.csv"
    path.write_text(REES46 + GOOD + "x,y\n" + GOOD)
    rows, skipped = rows_of(path)
    assert ([row.message["messageId"] for row in rows], skipped) == (["rees46-0", "rees46-2"], 1)


def test_a_line_that_no_access_log_has_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text(LOG.format("a") + "what is this\n" + "\n" + LOG.format("b"))
    rows, skipped = rows_of(path)
    assert (len(rows), skipped) == (2, 2)


@pytest.mark.parametrize("cut", [5, 40])
def test_a_gzip_file_that_is_cut_short_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "access.log.gz"
    path.write_bytes(gzip.compress((LOG.format("a") * 50).encode())[:cut])
    with pytest.raises(SettingsError, match=r"access\.log\.gz.*expected"):
        list(read(path))


def test_without_an_address_the_collector_is_this_machine_s(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, collector_port=8085)
    assert url_of("", settings) == "http://127.0.0.1:8085"
    assert url_of("", settings.model_copy(update={"host": "::"})) == "http://127.0.0.1:8085"
    assert url_of("", settings.model_copy(update={"host": "::1"})) == "http://[::1]:8085"
    assert url_of("https://collect.example/base/", settings) == "https://collect.example/base"


@pytest.mark.parametrize(
    "url", ["collect.example", "ftp://x.example", "http://", "http://x:99999", "http://x?y", "//x"]
)
def test_what_is_no_address_is_named(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="--url"):
        url_of(url, Settings(data_dir=tmp_path))
