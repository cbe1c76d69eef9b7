"""What becomes of a comparison where the next model cannot be talked to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.apps.chat.command import Sampling, check_model, open_conversation
from rlhf.apps.chat.conversation import Conversation
from rlhf.apps.chat.terminal import Terminal
from tests.apps.chat.conftest import Script


class Talk:
    """A terminal of which each line typed gives what was shown for it."""

    def __init__(self, first: Conversation, other: Conversation) -> None:
        self.told: list[str] = []
        self.other, self.broken = other, False
        self.terminal = Terminal(first, None, self.open, check_model)  # type: ignore[arg-type]
        self.terminal.notices = self  # type: ignore[assignment]

    def open(self, path: Path) -> Conversation:
        if self.broken:
            raise ValueError(f"{path}: damaged")
        return self.other

    def print(self, text: str, **style: object) -> None:
        self.told.append(text)

    def type(self, line: str) -> list[str]:
        self.told = []
        self.terminal._obey(line)
        return self.told


@pytest.fixture
def model(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint(name="other")


@pytest.fixture
def talk(opened: Callable[..., Conversation], model: Path) -> Talk:
    first = opened()
    first.name = "first"
    made = Talk(first, open_conversation(model, sampling=Sampling()))
    made.type(f"/compare {model}")
    return made


def test_a_model_that_is_not_there_leaves_the_comparison(talk: Talk, tmp_path: Path) -> None:
    (told,) = talk.type(f"/compare {tmp_path / 'nowhere'}")
    assert "nowhere" in told and len(talk.terminal.conversations) == 2
    (tmp_path / "rm").mkdir()
    (tmp_path / "rm/config.json").write_text(
        '{"model_type": "baichuan", "architectures": ["BaichuanForSequenceClassification"]}'
    )
    (told,) = talk.type(f"/compare {tmp_path / 'rm'}")
    assert "rm" in told and len(talk.terminal.conversations) == 2


def test_where_loading_fails_the_first_is_said_to_be_alone(talk: Talk, model: Path) -> None:
    talk.broken = True
    assert talk.type(f"/compare {model}") == [f"{model}: damaged", "first alone"]
    assert talk.type(f"/compare {model}") == [f"{model}: damaged"]
    assert len(talk.terminal.conversations) == 1


def test_a_command_in_capitals_is_one(talk: Talk) -> None:
    asked = Script(talk.terminal.conversations[0], [])
    (told,) = talk.type("/Help")
    assert told.startswith("/system TEXT")
    assert talk.type("/WHAT") == ["/WHAT: no such command; /help shows them"]
    assert asked.prompts == []
