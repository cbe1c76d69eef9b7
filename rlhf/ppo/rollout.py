"""Prompts to responses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain

import torch

from rlhf.config.schema import PPOSection, SamplingSection
from rlhf.generation import Completion, generate
from rlhf.models.roles import Roles
from rlhf.ops.padding import pad_left, pad_right
from rlhf.ppo.types import Rollout, Sequences
from rlhf.runtime.distributed import gather, own_part

logger = logging.getLogger(__name__)


def fitting(prompts: Sequence[Sequence[int]], limit: int) -> list[int]:
    """The numbers of the prompts that have at most `limit` tokens.

    Raises:
        ValueError: there are none.
    """
    kept = [number for number, prompt in enumerate(prompts) if len(prompt) <= limit]
    if not kept:
        raise ValueError(
            f"ppo.max_prompt_tokens = {limit} leaves none of the {len(prompts)} prompts: raise it, "
            "or give shorter prompts"
        )
    return kept


def warn_of_another_policy(sampling: SamplingSection) -> None:
    """Say so when the sampled tokens do not come from the policy that the update takes them for.

    Logprobs, ratio and KL are those of the plain softmax: PPO's estimate is biased by any filter.
    """
    plain = {"temperature": 1, "top_k": 0, "top_p": 1, "repetition_penalty": 1}
    odd = [
        f"{key} {getattr(sampling, key):g}"
        for key, value in plain.items()
        if getattr(sampling, key) != value
    ]
    if odd:
        logger.warning(
            "ppo.sampling has %s: responses come from another policy than the one that learns; "
            "temperature 1 without filters is exact",
            ", ".join(odd),
        )


def sample(
    roles: Roles,
    prompts: Sequence[Sequence[int]],
    section: PPOSection,
    generator: torch.Generator,
) -> Rollout:
    """Let the actor answer every prompt `responses_per_prompt` times.

    Answers to one prompt do not stand side by side, so that a minibatch mixes prompts. Each process
    answers its part, without a word to the others, and then has all answers.
    """
    repeated = [*prompts] * section.responses_per_prompt
    own = own_part(len(repeated))
    pad_id = roles.tokenizer.pad_token_id
    with roles.generating() as model:
        completions = generate(
            model,
            repeated[own],
            section.sampling,
            pad_id=pad_id,
            eos_id=roles.tokenizer.eos_token_id,
            generator=generator,
            batch_size=section.rollout_microbatch,
            engine=section.engine,
            before=own.start,
        )
        device = model.device
    return assemble(repeated, list(chain.from_iterable(gather(completions))), pad_id, device)


def assemble(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Completion],
    pad_id: int,
    device: torch.device,
) -> Rollout:
    """Put prompts and their completions side by side, as `rlhf.ppo.types` says."""
    prompt_ids, prompt_mask = pad_left(prompts, pad_id, device=device)
    response_ids, response_mask = pad_right(
        [completion.token_ids for completion in completions], pad_id, device=device
    )
    engine_logprobs, _ = pad_right(
        [completion.logprobs for completion in completions], 0.0, dtype=torch.float32, device=device
    )
    return Rollout(
        sequences=Sequences(
            input_ids=torch.cat([prompt_ids, response_ids], dim=1),
            attention_mask=torch.cat([prompt_mask, response_mask], dim=1),
            response_mask=response_mask,
        ),
        engine_logprobs=engine_logprobs,
        ended=torch.tensor([c.stop_reason != "length" for c in completions], device=device),
        completions=tuple(completions),
    )
