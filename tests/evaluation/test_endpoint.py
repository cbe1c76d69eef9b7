from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest

from rlhf.data.records import Message, PromptRecord
from rlhf.evaluation import endpoint
from rlhf.evaluation.answers import Answer
from rlhf.evaluation.endpoint import ChatJudge
from rlhf.evaluation.kept import Kept

PROMPTS = [
    PromptRecord(id=f"p{i}", messages=(Message(role="user", content=f"question {i}"),))
    for i in range(6)
]
Reply = Callable[[str, str], str | int | dict[str, Any]]
"""From answer A and answer B to what the endpoint says, the HTTP status it fails with, or all of
its reply."""


class Endpoint:
    """A chat endpoint on this machine; it keeps what it is asked."""

    def __init__(self) -> None:
        self.reply: Reply = lambda a, b: "[[TIE]]"
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.headers: dict[str, str] = {}
        self.lock = Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                said = body["messages"][1]["content"]
                answers = re.findall(r"\[start of answer .\]\n(.*?)\n\[end", said, re.DOTALL)
                with endpoint.lock:
                    endpoint.requests.append(body)
                    endpoint.keys.append(self.headers["Authorization"])
                    reply = endpoint.reply(*answers)
                status = reply if isinstance(reply, int) else 200
                message = (
                    reply
                    if isinstance(reply, dict)
                    else {"choices": [{"message": {"content": reply}}]}
                )
                content = (
                    b"no\nsuch thing" if isinstance(reply, int) else json.dumps(message).encode()
                )
                self.send_response(status if self.path == "/v1/chat/completions" else 404)
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                """Silence."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.0)
    server = Endpoint()
    yield server
    server.server.shutdown()
    server.server.server_close()


def judge(fake: Endpoint, path: Path, key: str | None = None, **changes: Any) -> ChatJudge:
    return ChatJudge(fake.url, "judge-1", key, Kept(path / "replies.jsonl"), **changes)


def compare(
    chat: ChatJudge, prompts: list[PromptRecord], *texts: list[str]
) -> tuple[list[float], list[float]]:
    before, after = ([Answer(text) for text in each] for each in texts)
    return chat.compare(prompts, before, after)


def longer(a: str, b: str) -> str:
    return "[[TIE]]" if len(a) == len(b) else " [[A]]\n" if len(a) > len(b) else "[[B]]"


def test_a_pair_is_judged_in_both_orders(fake: Endpoint, tmp_path: Path) -> None:
    fake.reply = longer
    seen: list[tuple[int, int]] = []
    chat = judge(fake, tmp_path, key="secret", on_reply=lambda *done: seen.append(done))
    before, after = compare(chat, PROMPTS[:3], ["xx", "xxx", "xx"], ["xxxx", "x", "yy"])
    assert before == [0.0, 1.0, 0.5] and after == [1.0, 0.0, 0.5]
    assert len(fake.requests) == 6 and set(fake.keys) == {"Bearer secret"}
    assert seen == [(i, 6) for i in range(1, 7)]
    asked = fake.requests[0]
    assert asked["model"] == "judge-1" and asked["temperature"] == 0
    assert "user: question" in asked["messages"][1]["content"]


def test_a_judge_that_likes_the_first_answer_ties(fake: Endpoint, tmp_path: Path) -> None:
    fake.reply = lambda a, b: "[[A]]"
    before, after = compare(judge(fake, tmp_path), PROMPTS[:2], ["x", "x"], ["yy", "yy"])
    assert before == after == [0.5, 0.5]
    assert fake.keys == [None] * 4


def test_one_order_s_tie_makes_a_tie(fake: Endpoint, tmp_path: Path) -> None:
    fake.reply = lambda a, b: "[[B]]" if b == "good" else "[[TIE]]"
    _, after = compare(judge(fake, tmp_path), PROMPTS[:1], ["bad"], ["good"])
    assert after == [0.5]


def test_an_interrupted_evaluation_goes_on(fake: Endpoint, tmp_path: Path) -> None:
    texts = (["x"] * 6, [f"yy{i}" for i in range(6)])
    fake.reply = lambda a, b: 402 if len(fake.requests) > 5 else longer(a, b)
    with pytest.raises(ValueError, match="402 no such thing; the same command goes on") as error:
        compare(judge(fake, tmp_path), PROMPTS, *texts)
    assert "\n" not in str(error.value)
    kept = len((tmp_path / "replies.jsonl").read_text("utf-8").splitlines())
    assert 0 < kept <= 5

    fake.reply, fake.requests = longer, []
    assert compare(judge(fake, tmp_path), PROMPTS, *texts)[1] == [1.0] * 6
    assert len(fake.requests) == 12 - kept
    fake.requests = []
    assert compare(judge(fake, tmp_path), PROMPTS, *texts)[1] == [1.0] * 6
    assert fake.requests == []


def test_a_passing_failure_is_tried_again(fake: Endpoint, tmp_path: Path) -> None:
    failures = iter([429, 503, 500])
    fake.reply = lambda a, b: next(failures, longer(a, b))
    assert compare(judge(fake, tmp_path), PROMPTS[:1], ["x"], ["yy"])[1] == [1.0]
    fake.reply = lambda a, b: 503
    with pytest.raises(ValueError, match="503"):
        compare(judge(fake, tmp_path), PROMPTS[:1], ["x"], ["other"])


@pytest.mark.parametrize("said", ["[[A]] is better", "A", "[[C]]", "", "[[A]] [[B]]", "[[a]]"])
def test_only_a_bare_verdict_counts(fake: Endpoint, tmp_path: Path, said: str) -> None:
    fake.reply = lambda a, b: said
    with pytest.raises(ValueError, match=r"12 of 12 replies are no verdict"):
        compare(judge(fake, tmp_path), PROMPTS, ["x"] * 6, ["yy"] * 6)


def test_a_few_unreadable_replies_are_ties(fake: Endpoint, tmp_path: Path) -> None:
    fake.reply = lambda a, b: "who knows" if a == "yy5" else longer(a, b)
    _, after = compare(judge(fake, tmp_path), PROMPTS, ["x"] * 6, [f"yy{i}" for i in range(6)])
    assert after == [1.0] * 5 + [0.5]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_question_is_an_unreadable_reply(
    fake: Endpoint, tmp_path: Path, status: int
) -> None:
    """One order of one pair, as a content filter does it: a tie, and not asked again."""
    texts = ["x"] * 6, [f"yy{i}" for i in range(6)]
    seen: list[tuple[int, int]] = []
    fake.reply = lambda a, b: status if a == "yy0" else longer(a, b)
    chat = judge(fake, tmp_path, on_reply=lambda *done: seen.append(done))
    assert compare(chat, PROMPTS, *texts)[1] == [0.5] + [1.0] * 5
    assert seen == [(i, 12) for i in range(1, 13)]
    assert f'"{status} no such thing"' in (tmp_path / "replies.jsonl").read_text("utf-8")

    fake.requests = []
    assert compare(judge(fake, tmp_path), PROMPTS, *texts)[1] == [0.5] + [1.0] * 5
    assert fake.requests == []


def test_a_reply_without_a_choice_is_a_refusal(fake: Endpoint, tmp_path: Path) -> None:
    """As some content filters do it: a tie, and not asked again."""
    texts = ["x"] * 6, [f"yy{i}" for i in range(6)]
    fake.reply = lambda a, b: {"choices": []} if a == "yy0" else longer(a, b)
    assert compare(judge(fake, tmp_path), PROMPTS, *texts)[1] == [0.5] + [1.0] * 5
    fake.requests = []
    assert compare(judge(fake, tmp_path), PROMPTS, *texts)[1] == [0.5] + [1.0] * 5
    assert fake.requests == []


@pytest.mark.parametrize("reply", [{"object": "list"}, {"choices": None}, {"choices": [{}]}])
def test_a_reply_that_is_no_completion_is_told(
    fake: Endpoint, tmp_path: Path, reply: dict[str, Any]
) -> None:
    fake.reply = lambda a, b: reply
    with pytest.raises(ValueError, match="no chat completion.*name the base URL"):
        compare(judge(fake, tmp_path), PROMPTS, ["x"] * 6, ["yy"] * 6)


def test_refused_questions_count_as_the_unreadable_ones_do(fake: Endpoint, tmp_path: Path) -> None:
    """One of 12 each may be; both together are over a tenth, and the reason is told."""
    texts = ["x"] * 6, [f"yy{i}" for i in range(6)]
    fake.reply = lambda a, b: {"yy0": 400, "yy5": "who\nknows"}.get(a, longer(a, b))
    with pytest.raises(ValueError, match=r"2 of 12 .* the first is '400 no such thing'") as error:
        compare(judge(fake, tmp_path), PROMPTS, *texts)
    assert "\n" not in str(error.value)


def test_too_many_refused_questions_are_asked_again(fake: Endpoint, tmp_path: Path) -> None:
    texts = ["x"] * 6, [f"yy{i}" for i in range(6)]
    fake.reply = lambda a, b: 400 if b in ("yy4", "yy5") else longer(a, b)
    with pytest.raises(ValueError, match="2 of 6 questions are refused, the first with 400 no"):
        compare(judge(fake, tmp_path), PROMPTS, *texts)
    fake.reply = longer
    assert compare(judge(fake, tmp_path), PROMPTS, *texts)[1] == [1.0] * 6


def test_an_endpoint_that_refuses_from_the_start_is_given_up(
    fake: Endpoint, tmp_path: Path
) -> None:
    """Such as for a model that it does not have: at 17 of 600 questions, not at a tenth."""
    prompts = [PROMPTS[0].model_copy(update={"id": f"p{i}"}) for i in range(300)]
    texts = [f"x{i}" for i in range(300)], [f"yy{i}" for i in range(300)]
    fake.reply = lambda a, b: 400
    with pytest.raises(ValueError, match="17 of 17 .* with --judge-model") as error:
        compare(judge(fake, tmp_path), prompts, *texts)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "replies.jsonl").exists()


@pytest.mark.parametrize(
    ("status", "told", "waited"),
    [
        (429, "7", 7.0),
        (429, "2.5", 2.5),
        (429, "86400", 60.0),
        (429, "Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
        (503, "7", 0.0),
    ],
)
def test_an_endpoint_says_how_long_to_wait(
    fake: Endpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    told: str,
    waited: float,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(endpoint.time, "sleep", waits.append)
    fake.headers, failures = {"Retry-After": told}, iter([status])
    fake.reply = lambda a, b: next(failures, longer(a, b))
    assert compare(judge(fake, tmp_path), PROMPTS[:1], ["x"], ["yy"])[1] == [1.0]
    assert waits == [waited]


def test_a_wrong_address_or_key_is_said_in_one_line(fake: Endpoint, tmp_path: Path) -> None:
    fake.reply = lambda a, b: 401
    with pytest.raises(ValueError, match="API key"):
        compare(judge(fake, tmp_path), PROMPTS[:1], ["x"], ["y"])
    elsewhere = ChatJudge(f"{fake.url}/more", "m", None, Kept(tmp_path / "r.jsonl"))
    with pytest.raises(ValueError, match="base URL"):
        compare(elsewhere, PROMPTS[:1], ["x"], ["y"])
    nobody = ChatJudge("http://127.0.0.1:9/v1", "m", None, Kept(tmp_path / "r.jsonl"))
    with pytest.raises(ValueError, match="check the URL"):
        compare(nobody, PROMPTS[:1], ["x"], ["y"])
