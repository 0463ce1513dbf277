"""`herald campaigns`: the marketer's objects."""

from pathlib import Path
from typing import Any

import click

from pipeline.commands import data_option, out, with_settings
from pipeline.settings import Settings


@click.group()
def campaigns() -> None:
    """The marketer's objects: their service, and files of them.

    \b
    Example: herald campaigns export campaigns.yaml
    """


@campaigns.command("serve")
@data_option
@with_settings
def serve_campaigns(settings: Settings) -> int:
    """Run the campaigns' service: REST, history, and the topic that delivery reads.

    \b
    Example: HERALD_CAMPAIGNS_KEYS=ann=k1,bob=k2 herald campaigns serve
    """
    from pipeline.campaigns.service import run

    return run(settings)


@campaigns.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--publish", is_flag=True, help="Publish what the file gives no status.")
@click.option("--dry-run", is_flag=True, help="Check all of it and show what would change.")
@data_option
@with_settings
def import_campaigns(settings: Settings, **wish: Any) -> int:
    """Create and change what a YAML file holds: all of it, or nothing. What it does not name stays as it is.

    It writes to the store itself, so no service has to run; one that runs publishes the changes within a second.

    \b
    campaigns.yaml:
      advertisers: [{id: acme, name: Acme}]
      placements: [{id: home, name: Home page}]
      campaigns: [{id: spring, advertiser: acme, name: Spring, status: published}]
      lines: [{id: all, campaign: spring, name: Everyone, placements: [home]}]
      creatives: [{id: red, line: all, name: Red, url: "https://shop.example/red"}]

    \b
    Example: herald campaigns import campaigns.yaml --publish
    """
    from pipeline.campaigns.command import ImportWish, import_file

    return import_file(settings, out, ImportWish(**wish))


@campaigns.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@data_option
@with_settings
def export_campaigns(settings: Settings, file: Path | None) -> int:
    """Write all that is in the store as YAML, to a file or to standard output. To import it gives the same again.

    \b
    Example: herald campaigns export campaigns.yaml
    """
    from pipeline.campaigns.command import export_file

    return export_file(settings, file)
