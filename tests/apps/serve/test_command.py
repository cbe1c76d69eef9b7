from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf import cli
from rlhf.apps.serve import command
from rlhf.apps.serve.command import Door, make_server
from rlhf.config.schema import TuningSection
from rlhf.models.adapter import add_lora
from rlhf.models.load import load_causal_lm, load_tokenizer
from tests.apps.serve.conftest import serving

Checkpoint = Callable[..., Path]


def start(model: Path, said: list[str], **options: Any) -> Any:
    door = {name: options.pop(name) for name in ("host", "key", "keyless") if name in options}
    server, listener = make_server(model, Door(port=0, **door), said.append, **options)
    listener.close()
    return server


def test_the_key_that_is_made_is_said_once_and_a_given_one_never(checkpoint: Checkpoint) -> None:
    path = checkpoint()
    said: list[str] = []
    gate = start(path, said).config.app.user_middleware[0].kwargs
    assert sum(gate["key"] in line for line in said) == 1 and len(gate["key"]) > 30
    assert "http://127.0.0.1:" in "".join(said) and any("base" in line for line in said)
    said.clear()
    start(path, said, key="given")
    assert "given" not in "".join(said)


def test_another_host_is_warned_of(checkpoint: Checkpoint) -> None:
    said: list[str] = []
    start(checkpoint(), said, host="0.0.0.0")
    assert said[0].startswith("warning: 0.0.0.0 lets other machines in")


def test_load_in_is_looked_at(checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match="--load-in 2bit: choose 4bit or 8bit"):
        start(checkpoint(), [], load_in="2bit")


@pytest.mark.parametrize(
    "fields",
    [
        {"do_sample": True, "temperature": 0.0},
        {"num_beams": 4},
        {"stop_strings": ["a"]},
        # What a request's temperature would bring in.
        {"min_p": 2.0},
        {"min_p": "0.1"},
        {"top_h": 3.0},
        {"temperature": -1.0},
        {"forced_eos_token_id": 10**6},
    ],
)
def test_a_way_to_sample_that_is_none_is_told_before_the_address(
    checkpoint: Checkpoint, fields: dict[str, Any]
) -> None:
    path, said = checkpoint(), list[str]()
    (path / "generation_config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="generation_config.json: .*; correct it"):
        start(path, said)
    assert not any("http" in line for line in said)


def test_a_greedy_temperature_is_served(checkpoint: Checkpoint) -> None:
    path = checkpoint()
    (path / "generation_config.json").write_text('{"temperature": 0.0}')
    start(path, [])


def test_an_adapter_is_served(checkpoint: Checkpoint, tmp_path: Path) -> None:
    base, adapter = checkpoint(), tmp_path / "my-lora"
    tuning = TuningSection(method="lora", r=4, alpha=8, targets="all-linear")
    tuned = add_lora(load_causal_lm(base, dtype=torch.float32, device="cpu"), tuning, "causal")
    tuned.save_pretrained(str(adapter))
    load_tokenizer(base).save_pretrained(str(adapter))
    with serving(adapter) as running:
        messages: Any = [{"role": "user", "content": "你好"}]
        ask = running.client().chat.completions.create
        assert ask(model="my-lora", messages=messages, max_tokens=2).usage.completion_tokens  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "no config.json, so no checkpoint; name a model directory"),
        (["--api-key", "a b"], "--api-key: empty, or with spaces"),
        (["--api-key", "a", "--no-api-key"], "choose one"),
        (["--host", "203.0.113.1"], "203.0.113.1: Cannot assign requested address"),
        (["--host", "a..b"], "a..b: no name of a host; choose another with --host"),
        (["--host", "a" * 64], "a: no name of a host; choose another with --host"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Checkpoint,
) -> None:
    model = checkpoint() if arguments else tmp_path
    assert_told([str(model), "--port", "0", *arguments], told, monkeypatch, capsys)


def test_a_taken_port_and_an_open_door(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Checkpoint
) -> None:
    path = str(checkpoint())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = f"127.0.0.1, port {port}: Address already in use; choose another"
        assert_told([path, "--port", str(port)], told, monkeypatch, capsys)
    told = "--host 0.0.0.0 lets others in: leave --no-api-key out"
    assert_told(
        [path, "--host", "0.0.0.0", "--port", "0", "--no-api-key"], told, monkeypatch, capsys
    )


def test_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Checkpoint
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    told = "serving needs uvicorn: pip install 'baichuan-rlhf[serve]'"
    assert_told([str(checkpoint())], told, monkeypatch, capsys)


def assert_told(
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["rlhf", "serve", *arguments])
    monkeypatch.setattr(command, "load_speaker", None)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
