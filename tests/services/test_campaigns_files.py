"""`herald campaigns import|export`: a file goes in as a whole or not at all, and comes out as it went in."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from campaigns_rig import of_url, opened
from rich.console import Console

from pipeline.campaigns.command import ImportWish, export_file, import_file
from pipeline.campaigns.refusals import Reason, Refused
from pipeline.campaigns.yaml_file import FileError
from pipeline.errors import SettingsError
from pipeline.settings import Settings
from schemas.campaign import Status

FILE = """
advertisers: [{id: acme, name: Acme, labels: {country: no}}]
placements: [{id: home, name: Home page, policy: thompson, fallback: {text: "two\\nlines"}}]
campaigns:
- id: spring
  advertiser: acme
  name: Spring
  schedule: {starts_at: 2026-06-01T00:00:00+02:00, zone: Europe/Paris, hours: [{days: [mon], from_hour: 8}]}
  budget: {total_micros: 10000000}
  status: published
lines: [{id: all, campaign: spring, name: Everyone, placements: [home], caps: [{count: 3, per: day}], status: paused}]
experiments:
- {id: button, factors: {colour: [red, blue], text: [buy, order]}, starts: 2026-06-01, status: review}
creatives:
- {id: red, line: all, name: Red, url: "https://shop.example/red", features: {weight: 1.5, hot: true}}
- {id: old, line: all, name: Old, status: ended}
"""


class Desk:
    """A store in a folder, and somebody who imports and exports."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.settings = folder, of_url("", folder)
        self.said = ""

    def load(self, text: str, **wish: Any) -> int:
        file = self.folder / "in.yaml"
        file.write_text(text, "utf-8")
        out = io.StringIO()
        code = import_file(self.settings, Console(file=out, width=200), ImportWish(file, **wish))
        self.said = out.getvalue()
        return code

    def export(self) -> str:
        assert export_file(self.settings, self.folder / "out.yaml") == 0
        return (self.folder / "out.yaml").read_text("utf-8")

    def versions(self) -> dict[str, tuple[int, str]]:
        """Return the version and status of each object."""
        with opened(self.settings) as store:
            return {f"{one.kind}/{one.id}": (one.version, one.status.value) for one in store.everything()}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_an_export_makes_the_same_objects_again_in_another_store(desk: Desk, tmp_path: Path) -> None:
    assert desk.load(FILE) == 0
    written = desk.export()
    (tmp_path / "other").mkdir()
    other = Desk(tmp_path / "other")
    assert other.load(written) == 0
    assert other.export() == written
    with opened(desk.settings) as one, opened(other.settings) as two:
        assert [(each.kind, each.id, each.status, each.body) for each in one.everything()] == [
            (each.kind, each.id, each.status, each.body) for each in two.everything()
        ]
    assert desk.load(written) == 0
    assert desk.said == "0 of 7 objects changed\n"


def test_objects_come_to_the_status_that_the_file_says(desk: Desk) -> None:
    desk.load(FILE)
    assert desk.versions() == {
        "placements/home": (1, "draft"), "advertisers/acme": (1, "draft"), "campaigns/spring": (3, "published"),
        "lines/all": (4, "paused"), "experiments/button": (2, "review"),
        "creatives/red": (1, "draft"), "creatives/old": (2, "ended"),
    }  # fmt: skip
    desk.load(FILE, publish=True)
    assert {name: status for name, (_, status) in desk.versions().items()} == {
        "placements/home": "published", "advertisers/acme": "published", "campaigns/spring": "published",
        "lines/all": "paused", "experiments/button": "review", "creatives/red": "published", "creatives/old": "ended",
    }  # fmt: skip


def test_what_would_change_is_shown_and_a_dry_run_stores_none_of_it(desk: Desk) -> None:
    desk.load(FILE)
    before = desk.versions()
    changed = FILE.replace("total_micros: 10000000", "daily_micros: 5").replace("status: paused", "status: published")
    more = changed + "- {id: blue, line: all, name: Blue}\n"
    assert desk.load(more, dry_run=True) == 0
    assert desk.said.splitlines() == [
        "~ campaigns/spring (published)",
        "    /budget/total_micros: 10000000 -> None",
        "    /budget/daily_micros: None -> 5",
        "~ lines/all (paused -> published)",
        "+ creatives/blue (draft)",
        "3 of 8 objects would change",
    ]
    assert desk.versions() == before
    desk.load(more)
    assert desk.said.endswith("3 of 8 objects changed\n")
    assert desk.versions()["campaigns/spring"] == (4, "published")


@pytest.mark.parametrize(("changed", "reason"), [
    (("line: all, name: Red", "line: none, name: Red"), Reason.UNKNOWN_PARENT),
    (("placements: [home]", "placements: [home, attic]"), Reason.UNKNOWN_PLACEMENT),
    (("name: Everyone", 'name: Everyone, audience: "profile."'), Reason.AUDIENCE),
])  # fmt: skip
def test_of_a_file_with_one_wrong_object_nothing_is_stored(
    desk: Desk, changed: tuple[str, str], reason: Reason
) -> None:
    with pytest.raises(Refused) as failure:
        desk.load(FILE.replace(*changed), publish=True)
    assert failure.value.reason is reason
    assert desk.versions() == {}


def test_a_status_that_no_steps_lead_to_is_refused(desk: Desk) -> None:
    desk.load(FILE)
    with pytest.raises(Refused, match="campaigns/spring: no steps lead from published to review") as failure:
        desk.load(FILE.replace("status: published", "status: review").replace("name: Acme", "name: Other"))
    assert failure.value.reason is Reason.STEP
    with opened(desk.settings) as store:
        found = store.get("advertisers", "acme")
    assert found is not None
    assert (found.status, found.body["name"]) == (Status.DRAFT, "Acme")


def test_the_audit_says_who_imported(desk: Desk) -> None:
    desk.load(FILE)
    with opened(desk.settings) as store:
        lines = store.audit(None, None, 0, 100)
    assert len({(one.who, one.whence, one.at_ms) for one in lines}) == 1
    assert lines[0].whence.startswith("herald campaigns import, on ")


def test_a_file_that_cannot_be_read_or_written_is_named(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"in.yaml:\nlines: expected a list of objects"):
        desk.load("lines: 7")
    with pytest.raises(FileError, match="nowhere"):
        import_file(desk.settings, Console(quiet=True), ImportWish(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match="expected a file that can be written"):
        export_file(desk.settings, tmp_path / "no" / "folder.yaml")


def test_the_command_imports_and_exports(tmp_path: Path) -> None:
    """As it is typed: exit code 0, or 1 with the fault on standard error."""

    def herald(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline.cli", "campaigns", *arguments]
        env = os.environ | {"HERALD_DATA_DIR": str(Settings(data_dir=tmp_path / "data").data_dir)}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)

    file = tmp_path / "campaigns.yaml"
    file.write_text(FILE, "utf-8")
    done = herald("import", str(file), "--publish")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "7 of 7 objects changed"), done.stderr
    exported = herald("export")
    assert (exported.returncode, exported.stdout.startswith("advertisers:\n- id: acme\n")) == (0, True)
    file.write_text("banners: []", "utf-8")
    refused = herald("import", str(file))
    assert refused.returncode == 1
    assert "banners: unknown; expected some of advertisers" in refused.stderr
