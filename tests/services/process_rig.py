"""One of our services in a process of its own, as a test wants it: with these settings, ready, stopped, or killed."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import httpx

from pipeline.settings import Settings
from tests.waits import until

PROCESS = """
import sys
from pipeline.edge import log
from pipeline.errors import SettingsError
from pipeline.settings import load
from {module} import run
try:
    settings = load()
    log.set_up(settings.log_level)
    sys.exit(run(settings))
except SettingsError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


class ServiceProcess:
    """A service, started. module: has its `run`. port: the name of the setting that says where it listens."""

    module: ClassVar[str]
    port: ClassVar[str]

    def __init__(self, settings: Settings, log_path: Path) -> None:
        """settings: those that were set are told by the environment. log_path: takes what it writes, at the end."""
        self.settings, self.log_path = settings, log_path
        with log_path.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROCESS.format(module=self.module)],
                env=settings.as_environment(),
                stdout=out,
                stderr=out,
            )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{getattr(settings, self.port)}", timeout=30)

    def wait_for(self, path: str) -> None:
        """Wait until a path answers 200."""

        def answers() -> bool:
            assert self.process.poll() is None, self.log_path.read_text()
            try:
                return self.http.get(path).status_code == 200
            except httpx.TransportError:
                return False

        until(answers, f"{path} answers 200")

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()
        self.http.close()

    def stop(self) -> int:
        """Stop it as a supervisor would; returns its exit code."""
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
