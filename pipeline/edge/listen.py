"""Ports that our servers listen on."""

import socket

from pipeline.errors import SettingsError


def need_free(host: str, port: int, setting: str) -> None:
    """Raise SettingsError where something listens on the port already. setting: that names the port.

    Granian binds with SO_REUSEPORT: a second server would start without a word, and the kernel would give it half of
    the connections. A plain bind is refused while any other process holds the port, whichever way it was bound.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(
            f"{setting} = {port}: port {port} on {host}: {reason}; stop what listens there, or choose a free port"
        ) from error
