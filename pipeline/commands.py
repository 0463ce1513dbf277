"""What every command of `herald` does alike: its settings are read, our errors become a text and an exit code."""

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from pipeline import settings as settings_module
from pipeline.edge import log as logging_setup
from pipeline.errors import HeraldError, SettingsError

out = Console()
err = Console(stderr=True)
ORPHAN_S = 10.0  # for a supervised part whose supervisor was killed to end in order


def with_settings(command: Callable[..., int]) -> Callable[..., None]:
    """Give a command its settings and turn our errors into a text and an exit code."""

    @wraps(command)
    def run(**options: Any) -> None:
        try:
            settings = settings_module.load(**_overrides(options))
            logging_setup.set_up(settings.log_level)
            sys.exit(command(settings, **options))
        except SettingsError as error:
            err.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
            sys.exit(2)
        except HeraldError as error:
            err.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
            sys.exit(1)

    return run


def _overrides(options: dict[str, Any]) -> dict[str, Any]:
    """Options that stand for a setting: `--data`."""
    data = options.pop("data", None)
    return {"data_dir": Path(data).expanduser().absolute()} if data else {}


data_option = click.option("--data", metavar="DIR", help="Data folder; the same as HERALD_DATA_DIR.")


def end_with_parent() -> None:
    """Wait for the end of standard input: our parent holds the other side, and it is gone, as is the broker it ran."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_S)
    os._exit(1)
