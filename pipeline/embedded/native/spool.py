"""Rows on their way into the engine: a file in memory where the system has one, else a temporary file."""

import os
import tempfile
from io import FileIO
from pathlib import Path
from typing import Self


class Spool:
    """Bytes that the engine reads back by path.

    Why not the engine's own streaming insert: it reports success when the table refuses the rows (broken constraint,
    too many partitions) or the query was killed, and the rows are lost (measured with chDB 26.9).
    """

    def __init__(self) -> None:
        """Start empty."""
        if hasattr(os, "memfd_create") and Path("/proc/self/fd").exists():
            self._file = FileIO(os.memfd_create("herald-insert"), "wb")
            self.path = f"/proc/self/fd/{self._file.fileno()}"
        else:
            self._file, self.path = _temporary()
        self.size_bytes = 0

    def write(self, piece: bytes) -> None:
        """Append."""
        view = memoryview(piece)
        while view:
            view = view[self._file.write(view) or 0 :]
        self.size_bytes += len(piece)

    def clear(self) -> None:
        """Empty it."""
        self._file.truncate(0)
        self._file.seek(0)
        self.size_bytes = 0

    def __enter__(self) -> Self:
        """Return itself; gone at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the memory back."""
        self._file.close()
        if not self.path.startswith("/proc/"):
            Path(self.path).unlink()


def _temporary() -> tuple[FileIO, str]:
    number, path = tempfile.mkstemp(prefix="herald-insert-")
    return FileIO(number, "wb"), path
