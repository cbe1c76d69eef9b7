from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlhf.config.schema import SamplingSection
from rlhf.data.records import Message, PromptRecord
from rlhf.evaluation import answers
from rlhf.evaluation.answers import Answer, Answerer, Scorer
from rlhf.generation import Completion

SPEC: Any = SimpleNamespace(
    name="v2",
    chat_style="role-tokens",
    turns=None,
    user_token_id=195,
    assistant_token_id=196,
    eos_after_answer=False,
    system_style="raw",
    context=64,
)


class Letters:
    """One id a character. EOS is 2."""

    eos_token_id, pad_token_id = 2, 0

    def encode(self, text: str, **options: bool) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(chr(number) for number in ids if number != self.eos_token_id)


@pytest.fixture
def answerer() -> Answerer:
    model: Any = object()
    tokenizer: Any = Letters()
    return Answerer(model, tokenizer, SPEC)


def prompt(text: str) -> PromptRecord:
    return PromptRecord(id=text, messages=(Message(role="user", content=text),))


def test_prompts_go_out_in_the_chat_format_and_come_back_in_order(answerer, monkeypatch):
    seen: dict[str, Any] = {}

    def generate(model, prompts, sampling, **options):
        seen.update(model=model, prompts=prompts, sampling=sampling, **options)
        return [Completion((*ids, 2), (0.0,) * (len(ids) + 1), "eos") for ids in prompts]

    monkeypatch.setattr(answers, "generate", generate)
    sampling, generator = SamplingSection(max_new_tokens=3), torch.Generator()
    completions = answerer.complete([prompt("ab"), prompt("c")], sampling, generator, 7)
    assert seen["prompts"] == [[195, 97, 98, 196], [195, 99, 196]]
    assert seen["model"] is answerer.model and seen["generator"] is generator
    assert (seen["pad_id"], seen["eos_id"], seen["batch_size"]) == (0, 2, 7)
    assert list(seen["stop_ids"]) == [195]  # the user's next turn is the user's, as in chat
    assert [completion.token_ids[1] for completion in completions] == [97, 99]


def test_a_prompt_that_is_too_long_beside_the_answer_loses_its_beginning(answerer, monkeypatch):
    """As where people chat; beyond its context MOSS has no positions, and others were not taught
    any."""
    seen: list[list[int]] = []

    def generate(model, prompts, sampling, **options):
        seen.extend(prompts)
        return []

    monkeypatch.setattr(answers, "generate", generate)
    sampling, generator = SamplingSection(max_new_tokens=59), torch.Generator()
    answerer.complete([prompt("abcdefgh"), prompt("a")], sampling, generator, 7)
    assert seen == [[*map(ord, "efgh"), 196], [195, 97, 196]]
    sampling = SamplingSection(max_new_tokens=64)
    with pytest.raises(ValueError, match="max_new_tokens 64 leaves no room for a prompt"):
        answerer.complete([prompt("a")], sampling, generator, 7)


def test_people_do_not_read_the_end_token(answerer):
    assert answerer.text(Completion((72, 105, 2), (0.0, 0.0, 0.0), "eos")) == "Hi"
    assert answerer.text(Completion((72,), (0.0,), "length")) == "H"
    assert answerer.text(Completion((72, 105, 195), (0.0, 0.0, 0.0), "stop")) == "Hi"


def test_a_reward_model_reads_no_end_where_an_answer_was_cut_off(answerer, monkeypatch):
    """As in its training, and in PPO, which scores the ids themselves."""
    seen: list[list[int]] = []

    def score_responses(model, sequences, pad_id, batch_size):
        seen.extend(sequences)
        return [float(len(ids)) for ids in sequences]

    monkeypatch.setattr(answers, "score_responses", score_responses)
    model: Any = object()
    scorer = Scorer(model, answerer.tokenizer, SPEC)
    ends = [((72, 105, 2), "eos"), ((72, 105), "length"), ((72, 105, 35), "stop")]
    said = [
        answerer.answer(Completion(ids, (0.0,) * len(ids), end, "#" if end == "stop" else None))
        for ids, end in ends
    ]
    said.append(Answer("Hi"))  # of a file, say: nobody knows
    assert [(each.text, each.ended) for each in said] == [
        ("Hi", True),
        ("Hi", False),
        ("Hi", True),
        ("Hi", True),
    ]
    assert scorer.scores([prompt("q")] * 4, said, 7) == [6.0, 5.0, 6.0, 6.0]
    asked = [195, ord("q"), 196, 72, 105]
    assert seen == [[*asked, 2], asked, [*asked, 2], [*asked, 2]]


def test_a_reward_model_reads_no_more_than_its_context(answerer, monkeypatch):
    """Beyond it MOSS has no positions, and others were not taught any."""
    seen: list[list[int]] = []

    def score_responses(model, sequences, pad_id, batch_size):
        seen.extend(sequences)
        return [0.0] * len(sequences)

    monkeypatch.setattr(answers, "score_responses", score_responses)
    model: Any = object()
    scorer = Scorer(model, answerer.tokenizer, SPEC)
    scorer.scores([prompt("abcdefgh"), prompt("a")], [Answer("x" * 58), Answer("x")], 7)
    assert [len(ids) for ids in seen] == [64, 5]
    assert seen[0][:6] == [*map(ord, "efgh"), 196, ord("x")]
    for text in ("x" * 63, "x" * 99):  # with EOS 64: not one id of the prompt would be left
        with pytest.raises(ValueError, match=f"{len(text) + 1} tokens, .* reads 64 in all") as said:
            scorer.scores([prompt("a")], [Answer(text)], 7)
        assert "\n" not in str(said.value)
    scorer.scores([prompt("a")], [Answer("x" * 63, ended=False)], 7)
    assert len(seen[-1]) == 64
