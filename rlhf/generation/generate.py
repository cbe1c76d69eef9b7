"""`generate`: prompts in, completions out, in the prompts' order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config.schema import SamplingSection
from rlhf.generation import fast, plain, room, slots
from rlhf.generation.stops import Stops
from rlhf.generation.types import Completion, StopReason
from rlhf.models.chat import context_length
from rlhf.ops.padding import pad_left

ENGINES = {"fast": fast.complete, "plain": plain.complete}


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingSection,
    *,
    pad_id: int,
    eos_id: int,
    generator: torch.Generator,
    batch_size: int,
    engine: Literal["fast", "slots", "plain"] = "fast",
    stop_ids: Sequence[int] = (),
    tokenizer: PreTrainedTokenizerBase | None = None,
    before: int = 0,
) -> list[Completion]:
    """Sample one response to every prompt.

    A seed of `generator` gives the same tokens again, and with the fast engines in float32 also
    whatever the batch size; in 16 bits, and at the edge of a nucleus (`top_p`), some answers change
    with it, by rounding. All engines give the same tokens under greedy decoding; `plain` is
    transformers' own `generate`, kept as the one to check against. `fast` is the slot engine on a
    GPU, for a model that has a slot decoder, and our own loop over transformers' cache otherwise.

    Args:
        model: a causal LM in eval mode.
        prompts: N lists of token ids.
        sampling: length, temperature and filters.
        pad_id: fills the left of shorter prompts; never attended to.
        eos_id: ends a response, and belongs to it.
        generator: all randomness comes from here.
        batch_size: prompts decoded together, at most; the slot engine takes fewer where the
            device's memory does not hold their keys and values.
        engine: `fast`, `slots` or `plain`.
        stop_ids: further tokens that end a response, such as the next user turn's.
        tokenizer: what the tokens say; needed where `sampling` has stop strings.
        before: prompts that stand before these in a list that several processes share: the random
            numbers of those are left out.

    Returns:
        N completions.

    Raises:
        ValueError: a prompt is empty, or longer than the model's context beside a response.
    """
    assert not model.training, "dropout would change the policy: generate with model.eval()"
    _check_lengths(prompts, sampling.max_new_tokens, context_length(model))
    stops = None
    if sampling.stop:
        assert tokenizer is not None, "stop strings are looked for in what the tokens say"
        stops = Stops(tokenizer, sampling.stop)
    ends = torch.tensor([eos_id, *stop_ids], device=model.device)
    uniforms = torch.rand(
        (before + len(prompts), sampling.max_new_tokens),
        generator=generator,
        device=generator.device,
        dtype=torch.float64,
    )[before:].to(model.device)
    if engine == "slots" or (engine == "fast" and model.device.type == "cuda" and _decodes(model)):
        decoder = room.decoder(model, prompts, sampling.max_new_tokens, batch_size)
        tokens, logprobs = slots.complete(
            decoder, prompts, sampling, ends=ends, pad_id=pad_id, uniforms=uniforms, stops=stops
        )
        return _completions(tokens, logprobs, eos_id, stop_ids, stops)
    # Prompts of like length go together, so that little of a batch is padding.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    completions: dict[int, Completion] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        input_ids, mask = pad_left([prompts[i] for i in rows], pad_id, device=model.device)
        # Compiled for training, with a cache every layer would be compiled for itself.
        with torch.compiler.set_stance("force_eager"):
            tokens, logprobs = ENGINES[engine](
                model,
                input_ids,
                mask,
                sampling,
                ends=ends,
                pad_id=pad_id,
                uniforms=uniforms[rows],
                stops=stops,
            )
        found = _completions(tokens, logprobs, eos_id, stop_ids, stops)
        completions.update(zip(rows, found, strict=True))
    return [completions[i] for i in range(len(prompts))]


def _check_lengths(prompts: Sequence[Sequence[int]], max_new_tokens: int, context: int) -> None:
    """Beyond its context a model answers from positions that it has never seen, or not at all."""
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {index} is empty: give it at least one token, such as BOS")
        if len(prompt) + max_new_tokens > context:
            raise ValueError(
                f"prompt {index} has {len(prompt)} tokens, which with max_new_tokens "
                f"{max_new_tokens} are more than the {context} that the model reads (its "
                "model_max_length): shorten it, or lower sampling.max_new_tokens"
            )


def _decodes(model: PreTrainedModel) -> bool:
    # The 8-bit product waits for the device in every layer, which no graph can hold.
    return hasattr(model, "slot_decoder") and not getattr(model, "is_loaded_in_8bit", False)


def _completions(
    tokens: Tensor, logprobs: Tensor, eos_id: int, stop_ids: Sequence[int], stops: Stops | None
) -> list[Completion]:
    """Cut every row [B, R] after its first ending token, or where a stop string is complete."""
    reasons: dict[int, StopReason] = {**dict.fromkeys(stop_ids, "stop"), eos_id: "eos"}
    completions = []
    for ids, row_logprobs in zip(tokens.tolist(), logprobs.tolist(), strict=True):
        length = next((r for r, token in enumerate(ids) if token in reasons), len(ids) - 1) + 1
        reason, string = reasons.get(ids[length - 1], "length"), None
        if stops is not None and (found := stops.find(ids[:length])):
            reason, (length, string) = "stop", found
        completions.append(
            Completion(tuple(ids[:length]), tuple(row_logprobs[:length]), reason, string)
        )
    return completions
