from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlhf.apps.chat.command import Sampling, open_conversation
from rlhf.apps.chat.conversation import Conversation, Piece
from rlhf.apps.chat.terminal import Terminal
from tests.apps.chat.conftest import Script

Opened = Callable[..., Conversation]


def pipe(monkeypatch: pytest.MonkeyPatch, conversation: Conversation, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    Terminal(conversation, Console(), no_other).run()


class Keyboard(io.StringIO):
    """A terminal, as far as anybody asks."""

    def isatty(self) -> bool:
        return True


def no_other(path: Path) -> Conversation:
    raise ValueError(f"{path}: no config.json")


def typed(
    monkeypatch: pytest.MonkeyPatch,
    conversation: Conversation,
    *lines: Any,
    open_other: Callable[[Path], Conversation] = no_other,
) -> str:
    """What a terminal shows. Of the lines, an exception is what the keyboard raises."""
    left = list(lines)

    def read(prompt: str) -> str:
        line = left.pop(0) if left else EOFError()
        if isinstance(line, BaseException):
            raise line
        return str(line)

    monkeypatch.setattr(sys, "stdin", Keyboard())
    monkeypatch.setattr("builtins.input", read)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=100)
    Terminal(conversation, console, open_other).run()
    return screen.getvalue()


def test_a_line_a_turn_and_plain_text(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation = opened()
    Script(conversation, ["[bold]你好[/bold]</s>", "天气\x1b[2J</s>"])
    pipe(monkeypatch, conversation, "世界\n\n天气\n")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("[bold]你好[/bold]\n天气\x1b[2J\n", "")


def test_only_the_answer_of_a_plugin_round_is_printed(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation = opened("moss", plugin_names=["calculator"])
    called = '<|Inner Thoughts|>: A sum.<eot>\n<|Commands|>: Calculate("6*7")<eoc>'
    Script(conversation, [called, " 42.<eom>", called, " 42.<eom>"])
    pipe(monkeypatch, conversation, "6*7\n")
    assert capsys.readouterr().out == "42.\n"
    shown = typed(monkeypatch, conversation, "6*7")
    assert "Calculate(\"6*7\") => '42'" in shown and shown.endswith("\n42.\n\n")


def test_commands(
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    conversation = opened()
    script = Script(conversation, ["A</s>"] * 4)
    file = tmp_path / "said.jsonl"
    lines = [
        "/save x",
        "你好",
        "/system 天气",
        "世界",
        f"/save {file}",
        "/reset",
        "/system",
        "今天",
    ]
    pipe(monkeypatch, conversation, "\n".join([*lines, "/what", "/help", "/exit", "你好"]))
    user, assistant = conversation.tokenizer.convert_ids_to_tokens([195, 196])
    assert script.prompts == [
        f"{user}你好{assistant}",
        f"天气{user}你好{assistant}A{user}世界{assistant}",
        f"{user}今天{assistant}",
    ]
    printed = capsys.readouterr()
    assert printed.out == "A\nA\nA\n" and len(file.read_text().splitlines()) == 1
    for notice in ("something said", f"saved: {file}", "/what: no such command", "/save FILE"):
        assert notice in printed.err.replace("\n", "") or notice in printed.err


def test_a_question_may_begin_with_a_slash(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = opened()
    Script(conversation, ["A</s>"])
    typed(monkeypatch, conversation, "/usr/bin is what?")
    assert conversation.rounds[0].content == "/usr/bin is what?"


def test_a_system_message_without_a_place_is_told_and_left_out(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = opened("baichuan-13b")
    Script(conversation, ["A</s>"])
    shown = typed(monkeypatch, conversation, "/system B", "C")
    assert "no place for a system message" in shown and conversation.system == ""
    assert len(conversation.rounds) == 2


def test_a_model_does_not_steer_the_terminal(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = opened()
    Script(conversation, ["[red]A[/red]\x1b[2JB\x07</s>"])
    shown = typed(monkeypatch, conversation, "你好")
    assert "[red]A[/red]\N{REPLACEMENT CHARACTER}[2JB\N{REPLACEMENT CHARACTER}" in shown


def test_a_file_that_cannot_be_written_is_told(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = opened()
    Script(conversation, ["A</s>"])
    saves = "/save /no/such/folder", "/save ~nobody-of-that-name/x", "/save a\0b"
    shown = typed(monkeypatch, conversation, "你好", *saves)
    assert "/no/such/folder: No such file or directory" in shown
    assert "~nobody-of-that-name/x: no such user's home" in shown and "null" in shown


def test_questions_in_another_encoding(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = opened()
    Script(conversation, ["A</s>", "B</s>"])
    text = "一\n二\n".encode() + "三\n".encode("gb18030")
    with pytest.raises(ValueError, match="line 3 of the questions is not UTF-8"):
        pipe(monkeypatch, conversation, text.decode(errors="surrogateescape"))


def test_a_pipe_is_utf_8_whatever_the_environment_says(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = opened()
    script = Script(conversation, ["今天</s>"])
    asked = io.TextIOWrapper(io.BytesIO("你好\n".encode()), encoding="ascii")
    answered = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", asked)
    monkeypatch.setattr(sys, "stdout", answered)
    Terminal(conversation, Console(), no_other).run()
    assert "你好" in script.prompts[0]
    assert answered.buffer.getvalue().decode() == "今天\n"  # type: ignore[attr-defined]


def test_ctrl_c_cuts_an_answer_short_and_leaves_at_the_prompt(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = opened()
    said = conversation.ask

    def interrupted(question: str) -> Any:
        yield next(pieces := said(question))
        pieces.close()  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    Script(conversation, ["今天天气很好</s>"])
    monkeypatch.setattr(conversation, "ask", interrupted)
    shown = typed(monkeypatch, conversation, "你好", KeyboardInterrupt(), "not read")
    assert "cut short" in shown and len(conversation.rounds) == 2


def test_two_models_side_by_side(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sft, ppo = (
        open_conversation(checkpoint(name=name), sampling=Sampling()) for name in ("sft", "ppo")
    )
    sft.name, ppo.name = "sft", "ppo"
    first = Script(sft, ["A1</s>", "A2</s>", "A3</s>"])
    second = Script(ppo, ["B2</s>"])
    file = tmp_path / "said.jsonl"
    lines = ["你好", "/system 天气", "/compare ppo", "世界", f"/save {file}", "/compare", "今天"]
    opened_paths: list[Path] = []

    def open_ppo(path: Path) -> Conversation:
        opened_paths.append(path)
        return ppo

    shown = typed(monkeypatch, sft, *lines, open_other=open_ppo)
    assert opened_paths == [Path("ppo")]
    assert any(line.split() == ["A2", "B2"] for line in shown.splitlines())
    assert any("sft" in line and "ppo" in line for line in shown.splitlines())
    # The other heard what was said before, under the same system message, and no more afterwards.
    assert second.prompts == [first.prompts[1]] and "A1" in first.prompts[1]
    assert len(first.prompts) == 3
    saved = [json.loads(line)["messages"][-1]["content"] for line in file.read_text().splitlines()]
    assert saved == ["A2", "B2"]


def test_chinese_side_by_side_is_folded_and_not_cut_off(
    opened: Opened, checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = opened()
    other = open_conversation(checkpoint(name="other"), sampling=Sampling())
    for each in (conversation, other):
        monkeypatch.setattr(each, "ask", lambda _: iter([Piece("你好世界" * 40)]))
    shown = typed(monkeypatch, conversation, "/compare o", "问", open_other=lambda _: other)
    assert "…" not in shown and shown.count("好") >= 80


def test_a_model_that_cannot_be_compared_with_is_told(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = opened()
    Script(conversation, ["A</s>"])
    assert "nowhere: no config.json" in typed(monkeypatch, conversation, "/compare nowhere", "你好")
    assert len(conversation.rounds) == 2


def test_ctrl_c_cuts_one_of_two_answers(
    opened: Opened, checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = opened()
    other = open_conversation(checkpoint(name="other"), sampling=Sampling())
    Script(other, ["B</s>"])

    def interrupted(question: str) -> Any:
        yield Piece("A")
        raise KeyboardInterrupt

    monkeypatch.setattr(conversation, "ask", interrupted)
    shown = typed(monkeypatch, conversation, "/compare o", "你好", open_other=lambda _: other)
    assert "cut short" in shown and other.rounds[-1].content == "B"
