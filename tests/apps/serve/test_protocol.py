from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from rlhf.apps.serve.protocol import ChatRequest, CompletionRequest, Refused, read

ASKED = {"model": "m", "messages": [{"role": "user", "content": "?"}]}


def chat(**fields: Any) -> ChatRequest:
    return read(ChatRequest, json.dumps(ASKED | fields).encode())


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"logprobs": True}, "logprobs", "not served here"),
        ({"logprobs": 0}, "logprobs", "not served here"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not served here"),
        ({"tools": [{"type": "function"}]}, "tools", "not served here"),
        ({"made_up": 1}, "made_up", "not served here"),
        ({"logprobs": True, "top_logprobs": 0}, "logprobs", "not served here"),
        ({"top_logprobs": 1}, "top_logprobs", "not served here"),
        ({"functions": [{}], "function_call": "auto"}, "functions", "not served here"),
        ({"service_tier": "flex"}, "service_tier", "not served here"),
        ({"suffix": " "}, "suffix", "not served here"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"top_p": 1.5}, "top_p", "less than or equal to 1"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"seed": "x"}, "seed", "valid integer"),
        ({"stop": [""]}, "stop.0", "at least 1 character"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages.0.role", "'system', 'user'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "messages.0.content",
            "only parts of type text",
        ),
        ({"tools": [{"type": "function"}], "tool_choice": "auto"}, "tools", "not served here"),
        ({"tool_choice": "required"}, "tool_choice", "not served here"),
        ({"model": None}, "model", "required"),
        ({"stream_options": {"include_usage": True}}, None, "stream: true"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, None, "not both"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_named(
    fields: dict[str, Any], param: str | None, told: str
) -> None:
    with pytest.raises(Refused, match=told) as caught:
        chat(**fields)
    error = caught.value.content["error"]
    assert error["param"] == param and error["message"].startswith(param or "")
    assert "\n" not in error["message"]


def test_what_asks_for_nothing_is_taken() -> None:
    neutral = {"frequency_penalty": 0.0, "logprobs": False, "tools": [], "seed": None, "stop": None}
    assert chat(**neutral) == chat()
    assert chat(tools=[], tool_choice="auto") == chat(tool_choice="none") == chat()
    assert chat(functions=[], function_call="none", parallel_tool_calls=True) == chat()
    assert chat(parallel_tool_calls=False, metadata={}, modalities=["text"]) == chat()
    assert chat(logprobs=False, top_logprobs=0, service_tier="auto", suffix="") == chat()
    assert chat(messages=[SAID | {"tool_calls": []}]) == chat(messages=[SAID])
    assert read(CompletionRequest, b'{"model": "m", "prompt": ["A"]}').prompt == "A"
    assert chat(messages=[{"role": "developer", "content": "A"}]).messages[0].role == "system"
    parts = [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].content == "你好"
    assert chat(stop="end").stop == ("end",) and chat(temperature=1e-9).temperature == 0


@pytest.mark.parametrize("prompt", [["A", "B"], [], [1], [1, 2]])
def test_a_prompt_is_one_text(prompt: list[Any]) -> None:
    with pytest.raises(Refused, match="valid string") as caught:
        read(CompletionRequest, json.dumps({"model": "m", "prompt": prompt}).encode())
    assert caught.value.content["error"]["param"] == "prompt"


def test_a_body_that_is_no_json() -> None:
    with pytest.raises(Refused, match="Invalid JSON"):
        read(CompletionRequest, b"{")


SAID = {"role": "user", "content": ""}


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"messages": [SAID] * 2049}, "messages", "2049 messages; 2048 are read at most"),
        ({"messages": [1] * 2049}, "messages", "2049 messages; 2048 are read at most"),
        (
            {"messages": [{"role": "user", "content": [{}] * 2049}]},
            "messages.0.content",
            "2049 parts; 2048 are read at most",
        ),
        (
            {"messages": [SAID | dict.fromkeys(map(str, range(63)))]},
            "messages.0",
            "65 fields in one object; 64 are read at most",
        ),
        (dict.fromkeys(map(str, range(63))), None, "65 fields in one object; 64 are read at most"),
    ],
)
def test_what_would_hold_up_others_while_it_is_read_is_refused(
    fields: dict[str, Any], param: str | None, told: str
) -> None:
    with pytest.raises(Refused, match=told) as caught:
        chat(**fields)
    assert caught.value.content["error"]["param"] == param


@pytest.mark.parametrize("fields", [{"messages": [{}] * 2048}, {"stop": [""] * 2048}])
def test_a_list_is_read_to_its_first_fault(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate_json(json.dumps(ASKED | fields))
    assert caught.value.error_count() <= 2  # those of one item


def test_as_many_messages_as_are_read() -> None:
    assert len(chat(messages=[SAID] * 2048).messages) == 2048
