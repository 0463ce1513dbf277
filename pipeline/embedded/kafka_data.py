"""The embedded Kafka's data directory: who may use it, and its formatting.

Place in the flow: `pipeline.embedded.kafka` takes the lock, formats once, and hands the lock on to Java. Java alone
then holds it, so the lock is free exactly when no broker runs in the directory, whatever was killed.
"""

import base64
import fcntl
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from pipeline.embedded.kafka_files import NODE_ID
from pipeline.embedded.kafka_jars import Report
from pipeline.errors import EmbeddedError

_DYING_S = 2.0
"""How long a broker that was just killed may take to be gone."""
_ORPHAN_S = 15.0
"""How long a broker whose parent is gone may take to end in order."""


@contextmanager
def lock_data_dir(data_dir: Path) -> Iterator[int]:
    """Hold the lock of the data directory; gives its file descriptor.

    Raises EmbeddedError, naming the process, if another broker has it.
    """
    path = data_dir / "kafka.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait_for_lock(lock, data_dir)
        os.ftruncate(lock, 0)
        yield lock
    finally:
        os.close(lock)


def record_owner(lock: int, pid: int) -> None:
    """Write into the lock file that process pid, a child of ours, has the directory."""
    os.pwrite(lock, f"{pid} {os.getpid()}\n".encode(), 0)


def _wait_for_lock(lock: int, data_dir: Path) -> None:
    started = time.monotonic()
    orphan: int | None = None
    while not _try_lock(lock):
        owner = _owner(lock)
        if orphan is None and owner is not None and not psutil.pid_exists(owner[1]):
            orphan = owner[0]
            _stop_orphan(orphan, data_dir)
        if time.monotonic() - started > (_DYING_S if orphan is None else _ORPHAN_S):
            raise EmbeddedError(_in_use(data_dir, owner[0] if owner else None))
        time.sleep(0.05)


def _in_use(data_dir: Path, pid: int | None) -> str:
    process = f"process {pid}" if pid else "a process that is just starting"
    return (
        f"the data directory {data_dir} is in use by another Kafka ({process}); "
        "stop that one, or give this one its own directory with HERALD_DATA_DIR"
    )


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(lock: int) -> tuple[int, int] | None:
    """(Java's pid, its parent's pid), or None if whoever has the lock has not written them yet."""
    words = os.pread(lock, 100, 0).split()
    return (int(words[0]), int(words[1])) if len(words) == 2 else None


def _stop_orphan(pid: int, data_dir: Path) -> None:
    """Ask a broker whose parent is gone to end; on Linux the kernel has killed it already.

    Only a process that runs on this very directory's properties is touched: the pid may be somebody else's by now.
    """
    try:
        process = psutil.Process(pid)
        if str(data_dir.absolute() / "kafka.properties") in process.cmdline():
            process.terminate()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return  # gone, or not ours: the caller goes on waiting for the lock


def cluster_id(data_dir: Path) -> str:
    """The id that the directory's cluster was given when it was formatted."""
    return _meta(data_dir / "kafka")["cluster.id"]


def format_once(data_dir: Path, java: Sequence[str], render: Callable[[Path], str], report: Report) -> None:
    """Make the cluster's id and first metadata, unless they are there.

    java: command up to the class path.
    render: server.properties for a given folder of logs.
    Formats a folder of another name and renames it, so that a kill on the way leaves nothing half formatted.
    Raises EmbeddedError if the folder holds something that this Kafka cannot take over, or Kafka refuses.
    """
    target = data_dir / "kafka"
    if target.exists() and any(target.iterdir()):
        _check_format(target)
        return
    report(f"formatting {target}")
    fresh, properties = data_dir / "kafka.formatting", data_dir / "kafka.formatting.properties"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    properties.write_text(render(fresh), encoding="utf-8")
    new_id = "H" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]  # a leading "-" were an option
    command = [*java, "kafka.tools.StorageTool", "format", "--standalone", "-t", new_id, "-c", str(properties)]
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EmbeddedError(f"Kafka could not format {target}: {error}") from error
    if done.returncode != 0:
        raise EmbeddedError(f"Kafka could not format {target}: {(done.stdout + done.stderr).strip()[-1500:]}")
    if target.exists():
        target.rmdir()
    fresh.rename(target)
    properties.unlink()


def _check_format(folder: Path) -> None:
    found = _meta(folder)
    wanted = {"version": "1", "node.id": str(NODE_ID)}
    if "cluster.id" not in found or any(found.get(name) != value for name, value in wanted.items()):
        raise EmbeddedError(
            f"{folder} was not made by this Kafka: meta.properties has {found or 'nothing'}, expected {wanted} and a "
            "cluster.id. Move the folder away (its topics with it) or set HERALD_DATA_DIR to another directory"
        )


def _meta(folder: Path) -> dict[str, str]:
    path = folder / "meta.properties"
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
