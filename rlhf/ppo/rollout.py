"""Prompts to responses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain

import torch

from rlhf.config.schema import PPOSection, SamplingSection
from rlhf.data.chat_format import encode_response
from rlhf.generation import Completion, generate
from rlhf.models.chat import context_length, prompt_room
from rlhf.models.roles import Roles
from rlhf.ops.padding import pad_left, pad_right
from rlhf.ppo.types import Rollout, Sequences
from rlhf.runtime.distributed import gather, own_part

logger = logging.getLogger(__name__)


def prompt_limit(roles: Roles, section: PPOSection) -> int:
    """The most tokens of a prompt: `max_prompt_tokens`, or what the actor's context leaves beside a
    response, where that is less."""
    with roles.language_model("actor") as model:
        room = prompt_room(context_length(model), section.sampling.max_new_tokens)
    return min(section.max_prompt_tokens, room)


def fitting(prompts: Sequence[Sequence[int]], limit: int) -> list[int]:
    """The numbers of the prompts that have at most `limit` tokens.

    Raises:
        ValueError: there are none.
    """
    kept = [number for number, prompt in enumerate(prompts) if len(prompt) <= limit]
    if not kept:
        raise ValueError(
            f"none of the {len(prompts)} prompts has at most {limit} tokens: raise "
            "ppo.max_prompt_tokens, give shorter prompts, or lower ppo.sampling.max_new_tokens "
            "where the model's context leaves no more"
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
            tokenizer=roles.tokenizer,
            before=own.start,
        )
        device = model.device
    completions = list(chain.from_iterable(gather(completions)))
    answers = [_answer(roles, each) for each in completions] if section.sampling.stop else None
    return assemble(repeated, completions, pad_id, device, answers)


def _answer(roles: Roles, completion: Completion) -> Sequence[int]:
    """What the reward model reads of a completion: up to a stop string, then EOS, as the answers
    were that it has learnt from."""
    if completion.stop is None:
        return completion.token_ids
    return encode_response(roles.spec, roles.tokenizer, completion.text(roles.tokenizer))


def assemble(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Completion],
    pad_id: int,
    device: torch.device,
    answers: Sequence[Sequence[int]] | None = None,
) -> Rollout:
    """Put prompts and their completions side by side, as `rlhf.ppo.types` says.

    answers: what the reward model reads in the completions' place; None: the completions.
    """
    sequences = _beside(prompts, [each.token_ids for each in completions], pad_id, device)
    engine_logprobs, _ = pad_right(
        [completion.logprobs for completion in completions], 0.0, dtype=torch.float32, device=device
    )
    return Rollout(
        sequences=sequences,
        scored=sequences if answers is None else _beside(prompts, answers, pad_id, device),
        engine_logprobs=engine_logprobs,
        ended=torch.tensor([c.ended for c in completions], device=device),
        completions=tuple(completions),
    )


def _beside(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device,
) -> Sequences:
    prompt_ids, prompt_mask = pad_left(prompts, pad_id, device=device)
    response_ids, response_mask = pad_right(responses, pad_id, device=device)
    return Sequences(
        input_ids=torch.cat([prompt_ids, response_ids], dim=1),
        attention_mask=torch.cat([prompt_mask, response_mask], dim=1),
        response_mask=response_mask,
    )
