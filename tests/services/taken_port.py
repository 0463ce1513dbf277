"""What a second service does on a port that the first one has."""

import subprocess
import sys

from pipeline.settings import Settings


def refuses_a_second(part: str, settings: Settings) -> None:
    """Start `herald collector` or `herald delivery` once more and see it end with the setting's name."""
    second = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", part],
        env=settings.as_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 2
    assert f"HERALD_{part.upper()}_PORT = {getattr(settings, f'{part}_port')}" in second.stderr
    assert "Traceback" not in second.stderr
