"""Strings that end a response, through every engine, wherever token borders fall."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from rlhf.config.schema import SamplingSection
from rlhf.generation import Completion, generate
from rlhf.generation.stops import Stops
from rlhf.models.load import load_tokenizer

PAD, EOS = 0, 2
PROMPTS = [[5, 9, 11], [4], [30, 31, 32, 33, 34, 35], [8, 8], [40, 41, 6, 12]] * 4
STOP = ("bc", "dae")


def _say(token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
    return "".join("" if token == EOS else "abcde"[token % 5] for token in token_ids)


TOKENIZER: Any = SimpleNamespace(decode=_say)
"""A letter a token: every stop string is split over tokens."""


def _generate(model: PreTrainedModel, engine: str, stop: tuple[str, ...]) -> list[Completion]:
    return generate(
        model,
        PROMPTS,
        SamplingSection(max_new_tokens=23, stop=stop),
        pad_id=PAD,
        eos_id=EOS,
        generator=torch.Generator().manual_seed(0),
        batch_size=7,
        engine=engine,  # type: ignore[arg-type]
        tokenizer=TOKENIZER,
    )


def _end(token_ids: Sequence[int]) -> int | None:
    """By hand: the fewest tokens that say one of the strings."""
    counts = range(1, len(token_ids) + 1)
    return next((n for n in counts if any(s in _say(token_ids[:n]) for s in STOP)), None)


@pytest.mark.parametrize("engine", ["fast", "slots"])
def test_a_string_cuts_what_would_have_been_said(model: PreTrainedModel, engine: str) -> None:
    reasons = set()
    without = _generate(model, engine, ())
    for whole, cut in zip(without, _generate(model, engine, STOP), strict=True):
        end = _end(whole.token_ids)
        assert cut.token_ids == whole.token_ids[:end]
        assert cut.logprobs == pytest.approx(whole.logprobs[:end], abs=1e-5)
        assert cut.stop_reason == ("stop" if end else whole.stop_reason)
        reasons.add(cut.stop_reason)
        if cut.stop is not None:
            assert cut.text(TOKENIZER) + cut.stop == _say(cut.token_ids)
    assert {"eos", "stop"} <= reasons and max(len(c.token_ids) for c in without) == 23


@pytest.mark.parametrize("engine", ["fast", "slots", "plain"])
def test_no_engine_says_more_than_the_string(model: PreTrainedModel, engine: str) -> None:
    completions = _generate(model, engine, STOP)
    assert sum(c.stop_reason == "stop" for c in completions) > 5
    for completion in completions:
        end = _end(completion.token_ids)
        assert (completion.stop_reason == "stop") == (end is not None)
        assert len(completion.token_ids) == len(completion.logprobs)
        if end is not None:
            assert end == len(completion.token_ids)


@pytest.mark.parametrize("engine", ["fast", "slots", "plain"])
def test_decoding_ends_early(
    model: PreTrainedModel, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only cut afterwards: once every response has said the string, the engine is done."""
    seen: list[int] = []
    reached = Stops.reached

    def noted(self: Stops, tokens: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        seen.append(max(lengths))
        return reached(self, tokens, lengths)

    monkeypatch.setattr(Stops, "reached", noted)
    completions = _generate(model, engine, tuple("abcde"))
    assert {len(completion.token_ids) for completion in completions} == {1}
    assert max(seen) <= 5  # the slot engine has chosen a token before its first step


def test_of_several_strings_the_one_that_begins_first_ends_it() -> None:
    stops = Stops(TOKENIZER, ("b", "bc", "cde", "abcd"))
    assert stops.find([4, 4, 0, 1, 7]) == (4, "b")
    stops = Stops(TOKENIZER, ("cd", "d", "bcd"))
    assert stops.find([4, 1, 7, 3]) == (4, "bcd")
    assert stops.find([4, 1, 7]) is None and stops.find([]) is None


@pytest.mark.parametrize("architecture", ["baichuan-7b", "baichuan2-7b"])
def test_characters_that_are_split_into_bytes(
    checkpoint: Callable[..., Path], architecture: str
) -> None:
    tokenizer = load_tokenizer(checkpoint(architecture))
    before, stop = "Hello 你好。", "\n\n问："
    ids = tokenizer.encode(f"{before}{stop} again", add_special_tokens=False)
    stops = Stops(tokenizer, (stop,))
    found = stops.find(ids)
    assert found is not None and found[1] == stop
    tokens = [tokenizer.decode(ids[: found[0] - missing]) for missing in (0, 1)]
    assert stop in tokens[0] and stop not in tokens[1]
    assert "\N{REPLACEMENT CHARACTER}" in tokens[1], "the string's end is a byte of a character"
    completion = Completion(tuple(ids[: found[0]]), (0.0,) * found[0], "stop", stop)
    assert completion.text(tokenizer) == before
    long = torch.tensor([[*ids[: found[0]], *[EOS] * 3], [*ids[:3], *ids[: found[0]]]])
    assert stops.reached(long, [found[0] + 3, found[0]]).tolist() == [True, False]
