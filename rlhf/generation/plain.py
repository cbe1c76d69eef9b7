"""The plain engine: transformers' own `generate`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from rlhf.config.schema import SamplingSection
from rlhf.generation.stops import Stops
from rlhf.ops.logprobs import token_logprobs


def complete(
    model: PreTrainedModel,
    input_ids: Tensor,
    mask: Tensor,
    sampling: SamplingSection,
    *,
    ends: Tensor,
    pad_id: int,
    uniforms: Tensor,
    stops: Stops | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode one batch; arguments and results as in `rlhf.generation.fast.complete`.

    transformers draws from the global generator, which is seeded from the first of the `uniforms`
    here and put back afterwards.
    """
    decode: Any = model.generate  # a mixin's method, which PreTrainedModel's type does not show
    choice: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        choice = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
        }
    criteria = [] if stops is None else [_Reached(stops, input_ids.shape[1])]
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(uniforms[0, 0].item() * 2**53))
        output = decode(
            input_ids=input_ids,
            attention_mask=mask.long(),
            max_new_tokens=sampling.max_new_tokens,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=ends.tolist(),
            pad_token_id=pad_id,
            stopping_criteria=StoppingCriteriaList(criteria),
            output_logits=True,
            return_dict_in_generate=True,
            **choice,
        )
    tokens = output.sequences[:, input_ids.shape[1] :]
    logprobs = [
        token_logprobs(logits, tokens[:, step]) for step, logits in enumerate(output.logits)
    ]
    return tokens, torch.stack(logprobs, dim=1)


class _Reached(StoppingCriteria):
    """Ends the rows whose response says a stop string. width: of the prompts."""

    def __init__(self, stops: Stops, width: int) -> None:
        self._stops, self._width = stops, width

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        tokens = input_ids[:, self._width :]
        return self._stops.reached(tokens, [tokens.shape[1]] * len(tokens))
