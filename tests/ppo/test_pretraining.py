from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlhf.config.schema import PretrainingSection
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import TextRecord
from rlhf.models.load import load_tokenizer
from rlhf.ppo import pretraining
from rlhf.ppo.batching import passes
from rlhf.ppo.learner import Learner
from rlhf.ppo.pretraining import PretrainingMix, pretraining_mix, read_texts
from tests.ppo.conftest import ppo_section
from tests.ppo.fakes import FakeRoles

TEXTS = [[3, 4, 5, 6], [7, 8], [9, 10, 11, 12, 13, 14, 3], [5, 5, 5]]
SECTION = {"data": "texts.jsonl", "weight": 2.5, "rows": 3, "max_length": 5}


def _mix(microbatch: int) -> PretrainingMix:
    return PretrainingMix(TEXTS, PretrainingSection(**SECTION), microbatch, seed=1)


def _actor(roles: FakeRoles, steps: int) -> Learner:
    actor = Learner(roles.actor_parameters(), ppo_section().actor_optimiser, 10)
    actor.taken = steps
    return actor


@pytest.mark.parametrize("microbatch", [1, 2, 3])
def test_loss_and_gradient_are_the_mean_over_predicted_tokens(
    roles: FakeRoles, microbatch: int
) -> None:
    """Each text by itself, token by token; the long one is cut to five tokens."""
    negative = []
    for index in passes(len(TEXTS), 3, 1, 4, "pretraining"):
        ids = torch.tensor([TEXTS[index][:5]])
        logprobs = roles.actor(input_ids=ids).logits[0, :-1].log_softmax(-1)
        negative += [-logprobs[r, token] for r, token in enumerate(ids[0, 1:])]
    loss = torch.stack(negative).mean()
    expected = torch.autograd.grad(2.5 * loss, roles.actor_parameters())
    found = _mix(microbatch).backward(roles, _actor(roles, 4))
    assert found == pytest.approx(loss.item(), rel=1e-5)
    for parameter, one in zip(roles.actor_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, one, rtol=1e-4, atol=1e-6)


def test_passes_add_up_in_float32(roles: FakeRoles, monkeypatch: pytest.MonkeyPatch) -> None:
    roles.actor.bfloat16()
    actor = _actor(roles, 0)
    collected = []
    collect = actor.collect_gradient
    monkeypatch.setattr(actor, "collect_gradient", lambda: collected.append(collect()))
    _mix(1).backward(roles, actor)
    assert len(collected) == 3  # after every pass, none of which has left a gradient
    assert all(parameter.grad is None for parameter in roles.actor_parameters())


def test_the_step_says_where_it_reads(roles: FakeRoles) -> None:
    losses = [_mix(3).backward(roles, _actor(roles, step)) for step in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def test_texts_without_a_token_to_predict_are_refused() -> None:
    section = ppo_section(pretraining={"data": "texts.jsonl"})
    with pytest.raises(ValueError, match="ppo.pretraining.data = texts.jsonl has no text"):
        pretraining_mix([[3], []], section, seed=0)
    assert pretraining_mix([[3]], ppo_section(), seed=0) is None
    mix = pretraining_mix([[3], [4, 5]], section, seed=0)
    assert mix is not None and mix.texts == [[4, 5]]


@pytest.mark.parametrize("context", [6, 4096])
@pytest.mark.parametrize("architecture", ["baichuan2-7b", "baichuan-13b"])
def test_texts_are_encoded_as_one_by_one_and_held_in_4_bytes_a_token(
    architecture: str,
    context: int,
    checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = load_tokenizer(checkpoint(architecture))
    said = ["x", "hello world " * 9, "天地玄黄", " a\u2581b </s> c\n", "é🙂", "four"]
    write_jsonl(tmp_path / "t", [TextRecord(id=str(i), text=text) for i, text in enumerate(said)])
    roles: Any = SimpleNamespace(tokenizer=tokenizer, spec=SimpleNamespace(context=context))
    monkeypatch.setattr(pretraining, "ENCODED", 4)  # of six: a part is left over
    mix = PretrainingSection(data=str(tmp_path / "t"), max_length=10)
    found = read_texts(roles, mix)
    whole = [[*tokenizer.encode(t, add_special_tokens=False), tokenizer.eos_token_id] for t in said]
    assert [list(ids) for ids in found] == [ids[: min(10, context)] for ids in whole]
    assert max(map(len, whole)) > 10 and {ids.itemsize for ids in found} == {4}
    assert read_texts(roles, None) == []
