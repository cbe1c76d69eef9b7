"""Text mixed into the actor's steps: PPO-ptx (Ouyang et al. 2022, section 3.5, equation 2)."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice

from torch import Tensor

from rlhf.config.schema import PPOSection, PretrainingSection
from rlhf.data.jsonl import read_jsonl
from rlhf.data.records import TextRecord
from rlhf.models.roles import Roles
from rlhf.ops.logprobs import token_logprobs
from rlhf.ops.masking import masked_sum
from rlhf.ops.padding import pad_right
from rlhf.ppo.batching import passes
from rlhf.ppo.learner import Learner
from rlhf.runtime.distributed import gather, own_part, rank, world_size

ENCODED = 1000
"""Texts that go through a process's tokenizer together."""


@dataclass(frozen=True)
class PretrainingMix:
    """Texts, as token ids of two at least, and how many of them a step takes in."""

    texts: Sequence[Sequence[int]]
    section: PretrainingSection
    microbatch: int
    seed: int

    def backward(self, roles: Roles, actor: Learner) -> float:
        """Add the weighted loss's gradient to the actor's.

        Args:
            roles: whose actor learns.
            actor: its optimiser steps so far say where in the texts this one reads.

        Returns:
            The mean loss of a predicted token, unweighted, in nats.
        """
        rows, step = self.section.rows, actor.taken
        chosen = passes(len(self.texts), rows, self.seed, step, "pretraining")
        texts = [self.texts[index][: self.section.max_length] for index in chosen]
        predicted = sum(len(text) - 1 for text in texts)
        texts = texts[rank() :: world_size()]
        total = 0.0
        for start in range(0, len(texts), self.microbatch):
            loss = _summed_loss(roles, texts[start : start + self.microbatch]) / predicted
            (self.section.weight * loss).backward()  # type: ignore[no-untyped-call]
            actor.collect_gradient()
            total += loss.item()
        return sum(gather(total))


def read_texts(roles: Roles, mix: PretrainingSection | None) -> list[array[int]]:
    """Each text's token ids with EOS at its end, as documents stand in pre-training, as far as they
    are learnt from. Each process encodes its part and holds them all, at 4 bytes a token."""
    if mix is None:
        return []
    tokenizer, length = roles.tokenizer, min(mix.max_length, roles.spec.context)
    found: list[array[int]] = []
    records = read_jsonl(mix.data, TextRecord)
    while texts := [record.text for record in islice(records, ENCODED * world_size())]:
        own = texts[own_part(len(texts))]
        encoded = tokenizer(own, add_special_tokens=False)["input_ids"] if own else []
        part = [array("i", [*ids, tokenizer.eos_token_id][:length]) for ids in encoded]
        found += chain.from_iterable(gather(part))
    return found


def pretraining_mix(
    texts: Sequence[Sequence[int]], section: PPOSection, seed: int
) -> PretrainingMix | None:
    """The mix that the config asks for, of the texts that have something to predict.

    Raises:
        ValueError: there are none.
    """
    if section.pretraining is None:
        return None
    kept = [text for text in texts if len(text) > 1]
    if not kept:
        raise ValueError(
            f"ppo.pretraining.data = {section.pretraining.data} has no text of two tokens: give "
            "text, or set ppo.pretraining to null"
        )
    return PretrainingMix(kept, section.pretraining, section.microbatch, seed)


def _summed_loss(roles: Roles, texts: Sequence[Sequence[int]]) -> Tensor:
    with roles.language_model("actor") as model:
        device = model.device
    ids, mask = pad_right(texts, roles.tokenizer.pad_token_id, device=device)
    logits = roles.actor_logits(ids, mask, ids.shape[1] - 1)
    return -masked_sum(token_logprobs(logits, ids[:, 1:]), mask[:, 1:])
