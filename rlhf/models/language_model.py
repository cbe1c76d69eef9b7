"""What the language models of all families share: logits, and a loss that can do without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from rlhf.models.baichuan.head import NormHead
from rlhf.models.chat import Conversational
from rlhf.models.head_loss import IGNORED, computing_type, head_loss
from rlhf.models.max_z import max_z_of_microbatch, predicting


class LanguageModel(Conversational):
    """A trunk, found as `base_model`, and a head `lm_head` over its hidden states."""

    lm_head: nn.Linear
    compiled_loss = False
    """Whether the chunks' loss is compiled (rlhf.models.compiled)."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | slice | Tensor = 0,
        loss_chunk: int | None = None,
        z_loss_weight: float | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """labels: [B, T], -100 where there is no loss
        logits_to_keep: how many last positions (0: all), a slice of the positions, or their indices
        loss_chunk: give the loss without the logits, which exist for this many tokens at a time
        z_loss_weight: instead of the configuration's

        The loss is the mean cross-entropy over the labels, plus z_loss_weight times Max-z.
        """
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        outputs = self.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            states_to_keep=0 if labels is not None else self._states_to_keep(keep, kwargs),
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        weight = self.config.z_loss_weight if z_loss_weight is None else z_loss_weight
        loss = logits = None
        if labels is None or loss_chunk is None:
            logits = self.lm_head(hidden[:, keep])
            if labels is not None:
                loss = self._loss(logits, labels, attention_mask, position_ids, weight, **kwargs)
        else:
            items = kwargs.get("num_items_in_batch")
            loss = chunked_loss(
                self.lm_head,
                hidden,
                labels,
                attention_mask,
                position_ids,
                items,
                weight,
                loss_chunk,
                self.compiled_loss,
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _states_to_keep(self, logits_to_keep: slice | Tensor, asked: Mapping[str, Any]) -> int:
        """How many last states the trunk has to give, 0 for all: a caller that asks for what is
        inside the blocks wants it of every position.

        From a trunk that gives all in any case, the same ones are read, being counted from the end.
        """
        inside = ("output_hidden_states", "output_attentions")
        if isinstance(logits_to_keep, Tensor) or any(
            asked.get(name, getattr(self.config, name)) for name in inside
        ):
            return 0
        return max(0, -(logits_to_keep.start or 0))

    def _loss(
        self,
        logits: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        z_loss_weight: float,
        **kwargs: Any,
    ) -> Tensor:
        size = self.config.vocab_size
        loss: Tensor = self.loss_function(logits=logits, labels=labels, vocab_size=size, **kwargs)
        if z_loss_weight:
            items = kwargs.get("num_items_in_batch")
            real = attention_mask, position_ids
            loss = loss + z_loss_weight * max_z_of_microbatch(logits, labels, *real, items)
        return loss


def chunked_loss(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    labels: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    items: Tensor | int | None,
    z_loss_weight: float,
    chunk: int,
    compiled: bool = False,
) -> Tensor:
    """The loss of `LanguageModel.forward`, with no more than [chunk, V] of the logits at a time.

    Gradients are made along with the loss (rlhf.models.head_loss); under a head that is more than
    its weight, such as one with an adapter, the backward pass computes a chunk's logits again.
    Positions that count neither for the labels nor for Max-z are not projected at all.

    Args:
        head: hidden states [N, H] -> logits [N, V].
        hidden: [B, T, H] states after the final norm.
        labels: [B, T], -100 where there is no loss.
        attention_mask: [B, T], 1 on real tokens; None: all are, but for what position_ids [B, T]
            say of packed rows.
        items: labelled tokens of the whole accumulated batch; None: those of this one.
        compiled: fuse what lies between the matrix products (torch.compile).

    Returns:
        A scalar, float32.
    """
    targets = labels[:, 1:]
    learnt = targets != IGNORED
    counted = torch.zeros_like(learnt)
    if z_loss_weight:
        counted = predicting(learnt, attention_mask, position_ids)
    z_shares = counted * learnt.sum() / counted.sum().clamp(min=1)
    wanted = learnt | counted
    rows = (hidden[:, :-1][wanted], targets[wanted], z_shares[wanted])
    weight = _bare_weight(head) if torch.is_grad_enabled() else None
    if weight is not None:
        scales = head.inverse_lengths().detach() if isinstance(head, NormHead) else None
        options: dict[str, Any] = {
            "z_loss_weight": z_loss_weight,
            "chunk": chunk,
            "compiled": compiled,
        }
        summed = head_loss(rows[0], weight, scales, *rows[1:], **options)
    else:
        pieces = zip(*(each.split(chunk) for each in rows), strict=True)
        losses = [checkpoint(_summed, head, *p, z_loss_weight, use_reentrant=False) for p in pieces]
        summed = torch.stack(losses).sum()
    return summed / (learnt.sum() if items is None else items)


def _bare_weight(head: Any) -> Tensor | None:
    """The weight [V, H] of a head that is nothing but it; None for any other.

    Nor in float16, where gradients come to nothing unless the loss is scaled before they are made.
    """
    if type(head) not in (nn.Linear, NormHead) or head.bias is not None:
        return None
    weight: Tensor = head.weight
    return None if computing_type(weight) == torch.float16 else weight


def _summed(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    targets: Tensor,
    z_shares: Tensor,
    z_loss_weight: float,
) -> Tensor:
    """states: [N, H]; targets, z_shares: [N]."""
    logits = head(states).float()
    loss = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    if z_loss_weight:
        loss = loss + z_loss_weight * (z_shares @ logits.amax(-1).square())
    return loss
