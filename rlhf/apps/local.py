"""What servers on this machine have in common: how they are reached."""

from __future__ import annotations

import os


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
