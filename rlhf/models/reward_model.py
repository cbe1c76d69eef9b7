"""What the reward models of all families share: a score at every token."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.utils.generic import can_return_tuple

from rlhf.models.adapter import ADAPTER_RECORD, read_record
from rlhf.models.quantise import bitsandbytes_config, exact_products
from rlhf.models.registry import read_config
from rlhf.ops.masking import last_index


class ScoreHead(nn.Linear):
    """Scores in float32, whatever its weight and the states are in.

    Rewards are differences of scores, and bfloat16 knows a score of 4 to one in 64 only.
    """

    def __init__(self, in_features: int, out_features: int, **kwargs: Any) -> None:
        super().__init__(in_features, out_features, bias=False, **kwargs)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [..., H] -> [..., labels] float32."""
        kind = hidden.device.type
        has = torch.amp.is_autocast_available(kind)  # a plan's tensors without storage have none
        with torch.autocast(kind, enabled=False) if has else nullcontext():
            return functional.linear(hidden.float(), self.weight.float())


class RewardModel(PreTrainedModel):
    """A trunk, found as `base_model`, and a linear head `score` over its hidden states."""

    score: ScoreHead

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers' own; of an adapter that was saved here, its base with adapter and head
        in place, in as many bits as it was trained over unless others are asked for."""
        from rlhf.models.checkpoint import unchanged_base  # they know of this class
        from rlhf.models.load import quietly

        path = Path(str(pretrained_model_name_or_path))
        if not (path / ADAPTER_RECORD).is_file():
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        kwargs.pop("adapter_kwargs", None)  # transformers would round adapters to the trunk's type
        config = kwargs.pop("config", None) or read_config(path)
        bits = read_record(path).quantization
        if bits is not None and kwargs.get("quantization_config") is None:
            kwargs["quantization_config"] = bitsandbytes_config(bits, _dtype(kwargs, config))
        with quietly():  # of the head, which the base has not
            loaded = super().from_pretrained(unchanged_base(path), *args, config=config, **kwargs)
            model, *told = loaded if isinstance(loaded, tuple) else (loaded,)
            PeftModel.from_pretrained(model, str(path))
        if bits is not None:
            exact_products(model)
        model._hf_peft_config_loaded = True  # `save_pretrained` saves the adapter then
        model.eval()
        return (model, *told) if told else model

    def token_scores(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        states_to_keep: int = 0,
    ) -> torch.Tensor:
        """input_ids, attention_mask, position_ids: [B, T] -> the score at every token, [B, T], or
        at the last `states_to_keep` of T."""
        hidden = self.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
            states_to_keep=states_to_keep,
        ).last_hidden_state
        scores: torch.Tensor = self.score(hidden[:, -states_to_keep:])
        return scores.squeeze(-1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        """attention_mask: [B, S], padding on either side; without one all tokens are real. S is T,
        or more by the length of what past_key_values hold.

        A padding id inside the text is no reason to stop reading, so ids are not looked at. Where
        sequences lie end to end in one row (cu_seq_lens_q [S + 1]), each has a score: [S, labels].
        """
        outputs = self.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        states, boundaries = outputs.last_hidden_state, kwargs.get("cu_seq_lens_q")
        if boundaries is None:
            last = _last_real(states, attention_mask)
        else:
            last = states[0, boundaries[1:].long() - 1]
        logits = self.score(last)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, pooled_logits=logits, config=self.config
            )
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _dtype(asked: Mapping[str, Any], config: PreTrainedConfig) -> torch.dtype:
    """What `from_pretrained` will load in, whichever of its two names it was told by."""
    found = asked.get("dtype") or asked.get("torch_dtype") or "auto"
    found = config.dtype or torch.float32 if found == "auto" else found
    dtype: torch.dtype = getattr(torch, found) if isinstance(found, str) else found
    return dtype


def _last_real(hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """hidden: [B, T, H], attention_mask: [B, S] -> [B, H] at the last position that is kept.

    S exceeds T when a cache holds what came before: the mask covers that too, and ends with hidden.
    """
    if attention_mask is None:
        return hidden[:, -1]
    rows = torch.arange(len(hidden), device=hidden.device)
    kept = attention_mask[:, -hidden.shape[1] :].to(hidden.device).bool()
    return hidden[rows, last_index(kept)]
