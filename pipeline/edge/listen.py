"""Ports that our servers listen on."""

import socket

from pipeline.errors import SettingsError


def need_free(host: str, port: int, setting: str) -> None:
    """Raise SettingsError where something listens on the port already. setting: that names the port.

    Asked before anything is started, so that who starts it reads the setting's name first.
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
