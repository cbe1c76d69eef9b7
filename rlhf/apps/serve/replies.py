"""Answers in OpenAI's shapes, whole or as server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rlhf.apps.serve.engine import Piece

DONE = "data: [DONE]\n\n"


@dataclass(frozen=True)
class Shape:
    """What differs between the two kinds of completion.

    whole, part: the part of a choice that holds text, in one reply and in an event.
    opening: what an answer's first event holds beside its text.
    """

    prefix: str
    object: str
    event_object: str
    whole: Callable[[str], dict[str, Any]]
    part: Callable[[dict[str, str]], dict[str, Any]]
    key: str
    opening: dict[str, str]


CHAT = Shape(
    prefix="chatcmpl",
    object="chat.completion",
    event_object="chat.completion.chunk",
    whole=lambda text: {"message": {"role": "assistant", "content": text}},
    part=lambda delta: {"delta": delta},
    key="content",
    opening={"role": "assistant"},
)
TEXT = Shape(
    prefix="cmpl",
    object="text_completion",
    event_object="text_completion",
    whole=lambda text: {"text": text},
    part=lambda delta: {"text": ""} | delta,
    key="text",
    opening={},
)


@dataclass
class Reply:
    """Takes the pieces of all answers to one request.

    prompt_tokens: of the request, however many answers it has.
    """

    shape: Shape
    model: str
    prompt_tokens: int
    texts: dict[int, str] = field(default_factory=dict)
    ends: dict[int, Piece] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.id = f"{self.shape.prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def take(self, piece: Piece) -> None:
        """Adds what was written."""
        self.texts[piece.choice] = self.texts.get(piece.choice, "") + piece.text
        if piece.finish is not None:
            self.ends[piece.choice] = piece

    def event(self, piece: Piece) -> str:
        """Adds what was written, and tells of it; "" where there is nothing to tell."""
        first = piece.choice not in self.texts
        self.take(piece)
        delta = (self.shape.opening if first else {}) | (
            {self.shape.key: piece.text} if piece.text else {}
        )
        if not delta and piece.finish is None:
            return ""
        choice = {"index": piece.choice, **self.shape.part(delta), "logprobs": None}
        return event(
            self._head(self.shape.event_object, [choice | {"finish_reason": piece.finish}])
        )

    def usage_event(self) -> str:
        """The last event where the usage was asked for."""
        return event(self._head(self.shape.event_object, []) | {"usage": self.usage})

    @property
    def whole(self) -> dict[str, Any]:
        """All in one."""
        choices = [
            {"index": index, **self.shape.whole(text), "logprobs": None}
            | {"finish_reason": self.ends[index].finish}
            for index, text in self.texts.items()
        ]
        return self._head(self.shape.object, choices) | {"usage": self.usage}

    @property
    def usage(self) -> dict[str, int]:
        written = sum(piece.tokens for piece in self.ends.values())
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
        }

    def _head(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def event(content: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
