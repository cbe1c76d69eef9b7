from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rlhf.apps.annotate.accounts import add_user
from rlhf.apps.local import ask_directly, calls_this_machine, free_port
from tests.apps.annotate.worlds import collect_folder
from tests.apps.dashboard.worlds import make_run

needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="needs gradio to serve a page"
)
NOWHERE = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        (None, None, ["127.0.0.1,localhost,::1"] * 2),
        ("a, localhost", None, ["a,localhost,127.0.0.1,::1"] * 2),
        (None, "b", ["b,127.0.0.1,localhost,::1"] * 2),
        ("a", "b", ["a,127.0.0.1,localhost,::1", "b,127.0.0.1,localhost,::1"]),
        (" *", None, ["*"] * 2),
    ],
)
def test_this_machine_is_asked_directly(
    small: str | None, large: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"no_proxy": small, "NO_PROXY": large}
    for name, value in names.items():
        monkeypatch.setenv(name, value or "")  # to be set back afterwards
        if value is None:
            monkeypatch.delenv(name)
    ask_directly("::1")
    assert [os.environ.get(name) for name in names] == expected


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:7860", "127.0.0.1", "127.0.0.1:80", "127.8.0.1", "[::1]", "[::1]:80"],
)
def test_names_of_this_machine(host: str) -> None:
    assert calls_this_machine(host)


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "localhost.evil.example:7860", "127.0.0.1.evil.example",
        "evil@localhost", "192.168.0.1:7860", "[::2]:80", "0.0.0.0", "127.1",
        "localhost:80:80", "[", "[]",
    ],
)  # fmt: skip
def test_names_of_others(host: str) -> None:
    assert not calls_this_machine(host)


@contextmanager
def page(*arguments: str, **environment: str) -> Iterator[str]:
    """Where a page in a process of its own is, by its first line."""
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhf", *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split(" ")[0]
    finally:
        process.kill()
        process.communicate()


def status(address: str, **headers: str) -> int:
    connection = HTTPConnection(urlsplit(address).netloc)
    connection.request("GET", "/", headers=headers)
    return connection.getresponse().status


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, tuple[str, ...]]:
    make_run(tmp_path / "runs/a")
    add_user(collect_folder(tmp_path / "collect").database, "ann", "long enough", auditor=False)
    return {
        "ui": ("ui", str(tmp_path / "runs")),
        "annotate": ("annotate", str(tmp_path / "collect")),
    }


@pytest.mark.slow
@needs_gradio
@pytest.mark.parametrize("command", ["ui", "annotate"])
def test_pages_start_behind_a_proxy(command: str, commands: dict[str, tuple[str, ...]]) -> None:
    with page(*commands[command], **NOWHERE) as address:
        assert status(address) == 200


def has_ipv6() -> bool:
    try:
        return free_port("::1") > 0
    except ValueError:
        return False


@pytest.mark.slow
@needs_gradio
@pytest.mark.parametrize("command", [("ui", "--host", "::1"), ("annotate",)])
def test_port_0_is_a_free_one(
    command: tuple[str, ...], commands: dict[str, tuple[str, ...]]
) -> None:
    if "::1" in command and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    arguments = (*commands[command[0]], *command[1:], "--port", "0")
    with page(*arguments) as first, page(*arguments) as second:
        assert first != second and not urlsplit(first).netloc.endswith(":0")
        assert status(first) == status(second) == 200


@pytest.mark.slow
@needs_gradio
def test_only_a_password_lets_a_page_be_called_otherwise(
    commands: dict[str, tuple[str, ...]],
) -> None:
    """A website can have its own name lead here, and would read what has no password."""
    with page(*commands["ui"]) as address:
        port = urlsplit(address).port
        for own in (f"localhost:{port}", "localhost:8888", f"[::1]:{port}"):
            assert status(address, Host=own) == 200
        assert status(address, Host=f"evil.example:{port}") == 403
    with page(*commands["ui"], RLHF_UI_PASSWORD="long enough") as address:
        assert status(address, Host="hub.example") == 200  # the page to sign in on
