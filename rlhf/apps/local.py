"""What servers on this machine have in common: how they are reached."""

from __future__ import annotations

import os
import re
import socket
from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, by which no other reaches it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def calls_this_machine(header: str) -> bool:
    """Whether the header Host of a request, port or not, is of this machine.

    A page in a browser cannot send that: its own name stands there, even where its DNS leads here.
    """
    host = re.sub(r":\d*$", "", header.strip().lower())
    return is_loopback(host[1:-1] if host.startswith("[") else host)


def ask_directly(host: str) -> None:
    """Have this process ask `host` and this machine without a proxy.

    Gradio asks the page that it has started, and `http_proxy` would have somebody else asked.
    """
    given = {name: os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")}
    for name, value in given.items():
        # Libraries read one of the two; set alone, it would hide what the other says.
        hosts = [each.strip() for each in (value or "".join(given.values())).split(",")]
        if hosts != ["*"]:
            hosts += ["127.0.0.1", "localhost", host]
        os.environ[name] = ",".join(dict.fromkeys(filter(None, hosts)))


def bind(host: str, port: int) -> socket.socket:
    """A socket of that address, not listening; ValueError where it is taken, not here or none."""
    listener = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:  # a label of a name is empty or too long
        if listener is not None:
            listener.close()
        reason = error.strerror if isinstance(error, OSError) else "no name of a host"
        place = f"{host}, port {port}" if port else host
        raise ValueError(f"{place}: {reason}; choose another with --host or --port") from None
    return listener


def free_port(host: str, port: int = 0) -> int:
    """A port that nobody has there, for a server that takes nothing but a number.

    port: the one that it has to be; 0 is any. ValueError as `bind`.
    """
    with bind(host, port) as listener:
        return int(listener.getsockname()[1])
