"""What the reward models of all families share: a score at every token."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.utils.generic import can_return_tuple

from rlhf.ops.masking import last_index


class ScoreHead(nn.Linear):
    """Scores in float32, whatever its weight and the states are in.

    Rewards are differences of scores, and bfloat16 knows a score of 4 to one in 64 only.
    """

    def __init__(self, in_features: int, out_features: int, **kwargs: Any) -> None:
        super().__init__(in_features, out_features, bias=False, **kwargs)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [..., H] -> [..., labels] float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return functional.linear(hidden.float(), self.weight.float())


class RewardModel(PreTrainedModel):
    """A trunk, found as `base_model`, and a linear head `score` over its hidden states."""

    score: ScoreHead

    def token_scores(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids, attention_mask, position_ids: [B, T] -> the score at every token, [B, T]."""
        hidden = self.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
        )
        scores: torch.Tensor = self.score(hidden.last_hidden_state)
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

        A padding id inside the text is no reason to stop reading, so ids are not looked at.
        """
        outputs = self.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        logits = self.score(_last_real(outputs.last_hidden_state, attention_mask))
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


def _last_real(hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """hidden: [B, T, H], attention_mask: [B, S] -> [B, H] at the last position that is kept.

    S exceeds T when a cache holds what came before: the mask covers that too, and ends with hidden.
    """
    if attention_mask is None:
        return hidden[:, -1]
    rows = torch.arange(len(hidden), device=hidden.device)
    kept = attention_mask[:, -hidden.shape[1] :].to(hidden.device).bool()
    return hidden[rows, last_index(kept)]
