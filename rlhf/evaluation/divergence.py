"""How far a policy's answers are from another model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rlhf.generation import Completion
from rlhf.models.scoring import scoring
from rlhf.ops.kl import estimate
from rlhf.ops.logprobs import token_logprobs


def divergences(
    reference: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Completion]
) -> list[float]:
    """[N] nats: k3 against the reference, summed over each answer's tokens.

    Its mean estimates the policy's KL when answers are sampled at temperature 1 and no filter.

    One sequence at a time, so that the logits of no more than one answer exist.

    Args:
        reference: a causal LM.
        prompts: [N] token ids that the completions follow.
    """
    found = []
    with scoring(reference):
        for prompt, completion in zip(prompts, completions, strict=True):
            ids = torch.tensor([[*prompt, *completion.token_ids]], device=reference.device)
            predicting = torch.arange(len(prompt) - 1, ids.shape[1] - 1, device=ids.device)
            logits = reference(input_ids=ids, use_cache=False, logits_to_keep=predicting).logits
            theirs = token_logprobs(logits, ids[:, len(prompt) :])
            mine = torch.tensor([completion.logprobs], device=ids.device)
            found.append(float(estimate(mine, theirs, "k3").sum()))
    return found
