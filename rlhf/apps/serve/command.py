"""`rlhf serve`: a checkpoint behind an address and a key."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.apps.chat.command import load_speaker
from rlhf.apps.local import bind, is_loopback
from rlhf.models.source import find_source
from rlhf.runtime.quiet import quiet

EXTRA = ("starlette", "uvicorn", "anyio")
PATIENCE = 5  # seconds that answers have to end once the server is stopped


@dataclass(frozen=True)
class Door:
    """Where the server listens, and whom it lets in.

    port: 0 takes a free one. key: None has one made, and said. keyless: whoever reaches the server
    may use it.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = None
    keyless: bool = False


def serve(model: Path, door: Door, say: Callable[[str], None], **options: Any) -> None:
    """Serves a model until interrupted; arguments and errors as `make_server`."""
    server, listener = make_server(model, door, say, **options)
    with quiet(), suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def make_server(
    model: Path,
    door: Door,
    say: Callable[[str], None],
    *,
    adapter: Path | None = None,
    load_in: str | None = None,
    name: str | None = None,
) -> tuple[Any, socket.socket]:
    """uvicorn's server and the socket for it, bound and not yet listening.

    Args:
        say: takes lines for the person who starts it.
        load_in: 4bit or 8bit, by bitsandbytes; None for plain weights.
        name: that requests call the model by; None is its directory's.

    Raises:
        ValueError: without the extra `serve`, for an address that is taken or not of this machine,
            a key that no header can carry, other machines let in without a key, a checkpoint that
            says a way to sample that is none, and as `find_source` and `load_speaker`.
    """
    try:
        import uvicorn

        from rlhf.apps.serve.app import make_app
        from rlhf.apps.serve.engine import Engine
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise ValueError(
            f"serving needs {error.name}: pip install 'baichuan-rlhf[serve]'"
        ) from None
    key = choose_key(door.key, door.keyless)
    source = find_source(model, adapter)
    listener = bind(door.host, door.port)  # before the minutes that loading takes
    try:
        if not _is_loopback(listener):
            if key is None:
                raise ValueError(f"--host {door.host} lets others in: leave --no-api-key out")
            say(f"warning: {door.host} lets other machines in, and nothing is encrypted on its way")
        called = name or (adapter or model).resolve().name
        say(f"loading {model}")
        with quiet():
            engine = Engine(load_speaker(source, load_in))
    except BaseException:
        listener.close()
        raise
    _introduce(listener, called, key if door.key is None else None, say)
    app = make_app(engine, called, key)
    config = uvicorn.Config(
        app, log_level="warning", lifespan="off", timeout_graceful_shutdown=PATIENCE
    )
    server = uvicorn.Server(config)
    engine.leaving = lambda: server.should_exit
    return server, listener


def choose_key(key: str | None, keyless: bool) -> str | None:
    """The key that requests need, None where they need none; ValueError for one that cannot be."""
    if keyless:
        if key is not None:
            raise ValueError("--api-key and --no-api-key: choose one; RLHF_API_KEY may be set too")
        return None
    if key is None:
        return f"rlhf-{secrets.token_urlsafe(24)}"
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(
            "--api-key: empty, or with spaces or characters outside ASCII, which no header "
            "carries; leave it out to have one made"
        )
    return key


def _is_loopback(listener: socket.socket) -> bool:
    return is_loopback(listener.getsockname()[0].partition("%")[0])


def _introduce(
    listener: socket.socket, name: str, made: str | None, say: Callable[[str], None]
) -> None:
    """made: the key that only this server knows so far."""
    host, port = listener.getsockname()[:2]
    say(f"model     {name}")
    say(f"base URL  http://{f'[{host}]' if ':' in host else host}:{port}/v1")
    if made is not None:
        say(f"API key   {made}")
    say("Ctrl-C stops.")
