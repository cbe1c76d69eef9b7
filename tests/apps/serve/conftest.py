"""A server on a free port in a thread, and OpenAI's own client for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from rlhf.apps.serve.command import Door, make_server

KEY = "a-key"
WAIT = 120.0
"""Seconds for what takes none on a machine that is not busy."""


class Running:
    """A server that answers. model: what it serves, for a script to speak in its place."""

    def __init__(self, server: Any, port: int) -> None:
        self.server, self.port, self.url = server, port, f"http://127.0.0.1:{port}/v1"
        service = server.config.app.routes[0].endpoint.__self__
        self.engine, self.name = service.engine, service.name

    @cache  # noqa: B019  (a server outlives no test module)
    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=WAIT)


@contextmanager
def serving(model: Path, **door: Any) -> Iterator[Running]:
    settings = {"port": 0, "key": KEY} | door
    server, listener = make_server(model, Door(**settings), lambda line: None)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    listener.listen()
    thread.start()
    try:
        yield Running(server, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


class Said:
    """In the place of `model.generate`: these texts in turn, each token a letter."""

    def __init__(self, running: Running, *texts: str) -> None:
        self.tokenizer = running.engine.speaker.tokenizer
        self.texts: Sequence[str] = texts
        self.prompts: list[str] = []
        self.configs: list[Any] = []

    def __call__(self, input_ids: torch.Tensor, **options: Any) -> None:
        self.prompts.append(str(self.tokenizer.decode(input_ids[0].tolist())))
        self.configs.append(options["generation_config"])
        options["streamer"].put(input_ids)
        text = self.texts[(len(self.prompts) - 1) % len(self.texts)]
        for token in self.tokenizer.encode(text)[: self.configs[-1].max_new_tokens]:
            options["streamer"].put(torch.tensor([token]))
            if options["stopping_criteria"](input_ids, torch.empty(0)).all():
                return


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Has a server's model say texts, and read 8192 tokens."""

    def script(running: Running, *texts: str) -> Said:
        said, model = Said(running, *texts), running.engine.speaker.model
        monkeypatch.setattr(model, "generate", said)
        monkeypatch.setattr(model.config, "model_max_length", 8192)
        return said

    return script
