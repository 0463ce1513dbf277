"""Keys that are given by a setting, or made once and kept in the data directory."""

import os
import secrets
from pathlib import Path

from pydantic import SecretStr

from pipeline.errors import SettingsError

KEY_BYTES = 32


def key_of(given: SecretStr, data_dir: Path, name: str) -> bytes:
    """Return the key: the given one, else the one in data_dir/secrets/name, made now where there is none.

    given: the setting. name: of the file; readable by its owner alone. Every process on one data_dir gets the same key.
    Raises SettingsError where the file is too short or cannot be read or written.
    """
    if given.get_secret_value():
        return given.get_secret_value().encode()
    path = data_dir / "secrets" / name
    try:
        if not path.exists():
            _make(path)
        key = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; expected a readable file") from error
    if len(key) < KEY_BYTES:
        raise SettingsError(f"{path}: {len(key)} bytes, expected {2 * KEY_BYTES} hex digits; remove it for a new key")
    return key


def _make(path: Path) -> None:
    """Write a new key beside its place and link it there: of two processes at once, the first one's key stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Not the process id alone: in a container it is always the same, and one that was killed here has left its file.
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_hex(KEY_BYTES).encode())
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
