"""Everything that a client sees, by OpenAI's own."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from rlhf.apps.chat.command import Sampling, open_conversation
from rlhf.data.records import Message, PromptRecord
from rlhf.evaluation.answers import Answer
from rlhf.evaluation.endpoint import ChatJudge
from rlhf.evaluation.kept import Kept
from tests.apps.serve.conftest import KEY, WAIT, Running, Said, serving
from tests.checkpoints import write_checkpoint
from tests.llamas import import_with_bos
from tests.models.moss.conftest import write_checkpoint as write_moss

ASKED: Any = [{"role": "user", "content": "你好"}]
Say = Callable[..., Said]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def checkpoint_path(folder: Path, pieces: Callable[[int], bytes]) -> Path:
    path = write_checkpoint(folder / "baichuan2-7b", "baichuan2-7b", pieces)
    fields = {"do_sample": True, "max_new_tokens": 32, "temperature": 0.3, "top_k": 5}
    (path / "generation_config.json").write_text(
        json.dumps(fields | {"top_p": 0.85, "repetition_penalty": 1.05})
    )
    return path


@pytest.fixture(scope="module")
def server(checkpoint_path: Path) -> Iterator[Running]:
    with serving(checkpoint_path) as running:
        yield running


def chatted(path: Path, sampling: Sampling, seed: int = 0) -> str:
    """What `rlhf chat` answers."""
    torch.manual_seed(seed)
    return "".join(piece.text for piece in open_conversation(path, sampling=sampling).ask("你好"))


@pytest.mark.parametrize("architecture", ["baichuan-7b", "baichuan-13b", "baichuan2-13b", "moss"])
def test_every_family_answers_as_in_rlhf_chat(
    architecture: str,
    tmp_path: Path,
    pieces: Callable[[int], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / architecture
    if architecture == "moss":
        monkeypatch.setattr("tests.models.moss.conftest.POSITIONS", 2048)
        write_moss(path)
    else:
        write_checkpoint(path, architecture, pieces)
    limit = 12
    with serving(path) as running:
        reply = running.client().chat.completions.create(
            model=architecture, messages=ASKED, temperature=0, max_tokens=limit
        )
    expected = chatted(path, Sampling(temperature=0, max_new_tokens=limit))
    assert reply.choices[0].message.content == expected != ""


def test_the_checkpoint_s_own_sampling_and_a_seed(server: Running, checkpoint_path: Path) -> None:
    ask = server.client().chat.completions.create
    reply = ask(model=server.name, messages=ASKED, seed=7)
    assert reply.choices[0].message.content == chatted(checkpoint_path, Sampling(), seed=7)
    streamed = ask(model=server.name, messages=ASKED, seed=7, stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in streamed]
    assert "".join(parts) == reply.choices[0].message.content and len(parts) > 3


def test_two_at_once_answer_as_each_alone(server: Running) -> None:
    def ask(seed: int) -> Any:
        reply = server.client().chat.completions.create(
            model=server.name, messages=ASKED, seed=seed, temperature=1, n=2, max_tokens=6
        )
        return [choice.message.content for choice in reply.choices]

    alone = [ask(seed) for seed in range(3)]
    assert alone[0][0] != alone[0][1] and alone[0] != alone[1]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, range(3))) == alone


def test_what_is_asked_for_reaches_the_model(server: Running, say: Say) -> None:
    said = say(server, "A</s>")
    ask = server.client().chat.completions.create
    ask(model=server.name, messages=ASKED)
    own = said.configs[-1]
    assert (own.temperature, own.top_k, own.top_p, own.repetition_penalty) == (0.3, 5, 0.85, 1.05)
    assert own.max_new_tokens == 32
    ask(
        model=server.name,
        messages=ASKED,
        temperature=0.5,
        top_p=0.25,
        max_completion_tokens=9,
        extra_body={"top_k": 3, "repetition_penalty": 1.5},
    )
    asked = said.configs[-1]
    assert (asked.temperature, asked.top_k, asked.top_p) == (0.5, 3, 0.25)
    assert (asked.repetition_penalty, asked.max_new_tokens) == (1.5, 9)


def test_usage_and_why_it_ended(server: Running, say: Say) -> None:
    said = say(server, " ABC</s>", "ABCDEFGH")
    ask = server.client().chat.completions.create
    conversation = [{"role": "system", "content": "天气"}, *ASKED]
    reply = ask(model=server.name, messages=conversation, n=2, max_tokens=6)  # type: ignore[call-overload]
    assert [choice.message.content for choice in reply.choices] == ["ABC", "ABCDEF"]
    assert [choice.finish_reason for choice in reply.choices] == ["stop", "length"]
    tokenizer = server.engine.speaker.tokenizer
    user, assistant = tokenizer.convert_ids_to_tokens([195, 196])
    assert said.prompts[0] == f"天气{user}你好{assistant}"
    prompt = len(tokenizer.encode("天气")) + len(tokenizer.encode("你好")) + 2
    first = len(tokenizer.encode(" ABC</s>"))
    usage = reply.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, first + 6)
    assert usage.total_tokens == prompt + first + 6


def test_stop_strings_end_an_answer_and_are_no_part_of_it(server: Running, say: Say) -> None:
    say(server, "one. two. END three</s>")
    ask = server.client().chat.completions.create
    options: Any = {"model": server.name, "messages": ASKED, "stop": ["END", "never"]}
    reply = ask(**options)
    assert reply.choices[0].message.content == "one. two. "
    assert reply.choices[0].finish_reason == "stop"
    chunks = list(ask(**options, stream=True, stream_options={"include_usage": True}))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(texts) == "one. two. " and not any("E" in text for text in texts)
    assert [chunk.choices[0].delta.role for chunk in chunks[:-1]].count("assistant") == 1
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage == reply.usage


def test_what_began_like_a_stop_string_is_said_after_all(server: Running, say: Say) -> None:
    say(server, "EN</s>")
    ask = server.client().chat.completions.create
    streamed = ask(model=server.name, messages=ASKED, stop="END", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == "EN"


def test_completions_go_on_with_the_text(server: Running, say: Say) -> None:
    said = say(server, " and so on</s>")
    ask = server.client().completions.create
    reply = ask(model=server.name, prompt="世界", max_tokens=100)
    assert said.prompts == ["世界"] and reply.choices[0].text == " and so on"
    streamed = list(ask(model=server.name, prompt="世界</s>", max_tokens=100, stream=True))
    assert "".join(chunk.choices[0].text for chunk in streamed) == " and so on"
    # The end token was written by a person: it is text here, as in a conversation.
    assert server.engine.speaker.tokenizer.encode(said.prompts[1])[-1] == 2
    assert streamed[-1].choices[0].finish_reason == "stop"


def test_completions_of_an_imported_model_begin_with_its_bos(tmp_path: Path, say: Say) -> None:
    with serving(import_with_bos(tmp_path)) as running:
        said = say(running, "A<|im_end|>")
        running.client().completions.create(model=running.name, prompt="Hello")
        running.client().chat.completions.create(model=running.name, messages=ASKED)
    assert said.prompts[0] == "<|endoftext|>Hello"
    assert said.prompts[1].count("<|endoftext|>") == 1


def test_a_message_may_be_blank(server: Running, say: Say) -> None:
    said = say(server, "A</s>")
    answered = [{"role": "system", "content": " "}, *ASKED, {"role": "assistant", "content": ""}]
    messages: Any = [*answered, *ASKED]
    server.client().chat.completions.create(model=server.name, messages=messages)
    user, assistant = said.tokenizer.convert_ids_to_tokens([195, 196])
    assert said.prompts == [f"{user}你好{assistant}{user}你好{assistant}"]


def test_refusals(server: Running) -> None:
    ask = server.client().chat.completions.create
    long: Any = [{"role": "user", "content": "天气" * 300}]
    with pytest.raises(
        openai.BadRequestError, match="reads 256 tokens in all: the prompt has"
    ) as e:
        ask(model=server.name, messages=long)
    assert (e.value.code, e.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError, match="and 255 of the answer"):
        ask(model=server.name, messages=ASKED, max_tokens=255)
    with pytest.raises(openai.BadRequestError, match="the user last") as e:
        ask(model=server.name, messages=[*ASKED, *ASKED])
    assert e.value.param == "messages"
    with pytest.raises(openai.BadRequestError, match="logprobs: not served here"):
        ask(model=server.name, messages=ASKED, logprobs=True)
    for name in ("gpt-4", "/etc", "org/model", ""):
        with pytest.raises(openai.NotFoundError, match="is not served here, only baichuan2-7b"):
            ask(model=name, messages=ASKED)
    with pytest.raises(openai.BadRequestError, match="the prompt is empty"):
        server.client().completions.create(model=server.name, prompt="")


def test_models(server: Running) -> None:
    assert [model.id for model in server.client().models.list()] == [server.name]
    assert server.client().models.retrieve(server.name).id == server.name
    with pytest.raises(openai.NotFoundError):
        server.client().models.retrieve("other/model")


def test_the_key(server: Running) -> None:
    for key in ("wrong", "ключ".encode().hex(), KEY + "x"):
        with pytest.raises(openai.AuthenticationError, match="API key"):
            server.client(key).models.list()
    for path, status in (("/v1/models", 401), ("/nowhere", 401), ("/health", 200)):
        assert plain(server, "GET", path)[0] == status


def test_without_a_key_only_this_machine_s_names_are_answered(checkpoint_path: Path) -> None:
    with serving(checkpoint_path, key=None, keyless=True) as running:
        assert plain(running, "GET", "/v1/models")[0] == 200
        assert plain(running, "GET", "/v1/models", {"Host": "evil.example:80"})[0] == 403
        sent = plain(running, "POST", "/v1/completions", {"Content-Type": "text/plain"})
        assert sent[0] == 415


class Endless:
    """In the place of `model.generate`: speaks until it is stopped."""

    def __init__(self) -> None:
        self.begun, self.over = threading.Event(), threading.Event()

    def __call__(self, input_ids: torch.Tensor, **options: Any) -> None:
        options["streamer"].put(input_ids)
        while not options["stopping_criteria"](input_ids, torch.empty(0)).all():
            options["streamer"].put(torch.tensor([5]))
            self.begun.set()
            time.sleep(0.01)  # as a model takes its time; other threads get theirs
        self.over.set()


@pytest.mark.parametrize("stream", [True, False], ids=["reading", "waiting for the whole"])
def test_a_client_that_leaves_ends_its_answer(
    server: Running, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    endless = Endless()
    monkeypatch.setattr(server.engine.speaker.model, "generate", endless)
    body = json.dumps({"model": server.name, "messages": ASKED, "stream": stream})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    if stream:
        connection.getresponse().read(200)
    assert endless.begun.wait(WAIT)
    connection.sock.shutdown(socket.SHUT_RDWR)  # close waits for the response to be let go
    assert endless.over.wait(WAIT)


def test_a_server_that_is_stopped_tells_those_who_wait(checkpoint_path: Path) -> None:
    endless = Endless()
    with ThreadPoolExecutor(2) as pool:
        with serving(checkpoint_path) as running:
            running.engine.speaker.model.generate = endless
            ask = running.client().chat.completions.create
            options: Any = {"model": running.name, "messages": ASKED}
            streamed = ask(**options, stream=True)
            next(streamed)
            read = pool.submit(list, streamed)
            waiting = pool.submit(ask, **options)
            assert endless.begun.wait(WAIT)
        assert "being stopped" in str(read.exception(WAIT))
        assert isinstance(waiting.exception(WAIT), openai.APIError)


class Held:
    """In the place of `model.generate`: its first token takes until `go_on`."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, input_ids: torch.Tensor, **options: Any) -> None:
        options["streamer"].put(input_ids)
        self.begun.set()
        self.go_on.wait(WAIT)


@pytest.mark.parametrize(("stream", "status"), [(True, 200), (False, 503)])
def test_a_server_that_is_stopped_waits_for_no_token(
    checkpoint_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stream: bool,
    status: int,
) -> None:
    monkeypatch.setattr("rlhf.apps.serve.command.PATIENCE", 0)
    held = Held()
    with ThreadPoolExecutor(1) as pool:
        with serving(checkpoint_path) as running:
            running.engine.speaker.model.generate = held
            body = json.dumps({"model": running.name, "messages": ASKED, "stream": stream})
            headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
            asked = "POST", "/v1/chat/completions", headers, body
            waiting = pool.submit(plain, running, *asked)
            assert held.begun.wait(WAIT)
        answer = waiting.result(WAIT)
        held.go_on.set()
    assert answer[0] == status and b"the server is being stopped" in answer[1]
    assert "Traceback" not in capsys.readouterr().err


def half_a_request(running: Running) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", running.port), timeout=WAIT)
    head = "POST /v1/completions HTTP/1.1", "Host: localhost", f"Authorization: Bearer {KEY}"
    body = "Content-Type: application/json", "Content-Length: 1000", "", "{"
    connection.sendall("\r\n".join([*head, *body]).encode())
    return connection


def test_a_server_that_is_stopped_waits_for_no_client_that_is_silent(
    checkpoint_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rlhf.apps.serve.command.PATIENCE", 0)
    with serving(checkpoint_path) as running, half_a_request(running) as connection:
        assert plain(running, "GET", "/health")[0] == 200  # after the half was read
        running.server.should_exit = True
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 503 ") and b"the server is being stopped" in answer
    assert "Traceback" not in capsys.readouterr().err


def test_a_client_that_leaves_in_the_middle_of_its_request(
    checkpoint_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(checkpoint_path) as running:
        half_a_request(running).close()
        assert plain(running, "GET", "/health")[0] == 200
    assert capsys.readouterr().err == ""


def test_the_server_answers_while_it_reads_a_prompt(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, begun, go_on = server.engine.reader, threading.Event(), threading.Event()
    encode = reader.encode

    def slowly(*texts: Any, **options: Any) -> Any:
        begun.set()
        assert go_on.wait(WAIT)
        return encode(*texts, **options)

    monkeypatch.setattr(reader, "encode", slowly)
    with ThreadPoolExecutor(1) as pool:
        ask = server.client().completions.create
        asked = pool.submit(ask, model=server.name, prompt="世界", max_tokens=2)
        assert begun.wait(WAIT)
        assert plain(server, "GET", "/health")[0] == 200
        go_on.set()
        assert asked.result(WAIT).usage


def test_a_request_that_is_too_long_is_not_kept(server: Running) -> None:
    ask = server.client().completions.create
    with pytest.raises(openai.APIStatusError, match="bytes; 4194304 is the longest") as e:
        ask(model=server.name, prompt="x" * 2**22)
    assert e.value.status_code == 413


def test_a_prompt_that_no_tokens_are_long_enough_for_is_not_read(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.engine.longest_token == len("<reserved_100>")
    most = 256 * 14
    with pytest.raises(openai.BadRequestError, match="in all: the prompt has 3584"):
        server.client().completions.create(model=server.name, prompt="~" * most)
    monkeypatch.setattr(server.engine.reader, "encode", None)
    told = "reads 256 tokens in all, too few for 3585 characters; shorten the prompt"
    with pytest.raises(openai.BadRequestError, match=told) as e:
        server.client().completions.create(model=server.name, prompt="~" * (most + 1))
    assert (e.value.code, e.value.param) == ("context_length_exceeded", "prompt")
    long: Any = [*ASKED, {"role": "assistant", "content": "~" * most}, *ASKED]
    with pytest.raises(openai.BadRequestError, match="too few for 3588 characters"):
        server.client().chat.completions.create(model=server.name, messages=long)
    with pytest.raises(openai.BadRequestError, match="too few for 257 messages"):
        server.client().chat.completions.create(model=server.name, messages=ASKED * 257)


def test_a_failure_is_told_and_the_next_request_answered(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    ask = server.client().chat.completions.create
    with monkeypatch.context() as patch:
        patch.setattr(server.engine.speaker.model, "generate", broken)
        with pytest.raises(openai.InternalServerError, match="server's own output"):
            ask(model=server.name, messages=ASKED)
        with pytest.raises(openai.APIError, match="server's own output"):
            list(ask(model=server.name, messages=ASKED, stream=True))
    assert ask(model=server.name, messages=ASKED, max_tokens=2).choices


def test_what_nobody_foresaw_is_told_in_openai_s_shape(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError(f"{__file__} is no path to tell of")

    monkeypatch.setattr(server.engine, "_text", broken)
    with pytest.raises(openai.InternalServerError, match="server's own output") as caught:
        server.client().completions.create(model=server.name, prompt="A")
    assert caught.value.type == "server_error" and __file__ not in str(caught.value)


def test_the_judge_of_rlhf_evaluate_asks_here(server: Running, say: Say, tmp_path: Path) -> None:
    say(server, " [[A]]</s>")
    prompt = PromptRecord(id="p", messages=(Message(role="user", content="你好"),))
    judge = ChatJudge(server.url, server.name, KEY, Kept(tmp_path / "kept.jsonl"))
    # It says A in both orders.
    before, after = ([Answer(text) for text in texts] for texts in ("xy", "zw"))
    assert judge.compare([prompt] * 2, before, after) == ([0.5, 0.5], [0.5, 0.5])


def plain(
    running: Running,
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    body: str | None = None,
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=WAIT)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    return response.status, response.read()
