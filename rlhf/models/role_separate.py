"""Roles with weights of their own: full fine-tuning, or any reward model of the vocabulary."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config.schema import TuningSection
from rlhf.models.adapter import Task, add_lora, cast_adapters, read_record
from rlhf.models.checkpoint import is_adapter
from rlhf.models.compiled import compile_training
from rlhf.models.export import fold_adapter, merge_adapter, unspread
from rlhf.models.from_main import from_main
from rlhf.models.load import load_causal_lm, load_reward_model
from rlhf.models.quantise import Quantization, quantization_of
from rlhf.models.role_base import Learner, Roles, Scorer, Speaker
from rlhf.models.spec import ModelSpec
from rlhf.models.spread import ZeroStage, apart, spread, whole_weights
from rlhf.ops.masking import positions

logger = logging.getLogger(__name__)


class SeparateRoles(Roles):
    """Four models: the SFT model as reference and as the actor's start, the reward model as itself
    and as the critic's start. With `lora` or `qlora` the two that learn do so through adapters.

    Spread over the processes are with ZeRO-2 the two that learn, with ZeRO-3 all four.
    """

    def __init__(
        self,
        spec: ModelSpec,
        tokenizer: PreTrainedTokenizerBase,
        actor_path: Path,
        reward_path: Path,
        tuning: TuningSection,
        dtype: torch.dtype,
        device: torch.device,
        zero: ZeroStage | None = None,
    ) -> None:
        super().__init__(spec, tokenizer)
        base: Quantization | None = "nf4" if tuning.method == "qlora" else None
        if base and (not is_adapter(reward_path) or read_record(reward_path).quantization != base):
            logger.warning(
                "%s: trained over other weights than the 4-bit ones that ppo.tuning.method: qlora "
                "loads; its scores are near those it was evaluated by, not the same",
                reward_path,
            )
        place: dict[str, Any] = {"dtype": dtype, "device": device, "quantization": base}
        mapped = {**place, "device": "cpu", "mapped": True}
        frozen = zero if zero == 3 else None

        def speaker(zero: ZeroStage | None) -> Any:
            if zero:
                return from_main(partial(load_causal_lm, actor_path, **mapped))
            return load_causal_lm(actor_path, **place)

        def scorer(zero: ZeroStage | None) -> Any:
            if zero:
                return from_main(partial(_whole_reward_model, reward_path, mapped))
            return _whole_reward_model(reward_path, place)

        def learner(model: Any, task: Task) -> Any:
            if tuning.method == "full":
                return model
            adapted = add_lora(model, tuning, task)
            cast_adapters(adapted, dtype)
            return adapted

        def spread_over(model: Any, zero: ZeroStage | None) -> Any:
            if zero:
                spread(_inner(model), zero, device)
            return model

        self._zero = zero
        self.reference = spread_over(speaker(frozen).requires_grad_(False), frozen)
        self.reward = spread_over(scorer(frozen).requires_grad_(False), frozen)
        self.actor = spread_over(learner(speaker(zero), "causal").eval(), zero)
        self.critic = spread_over(learner(scorer(zero), "reward").eval(), zero)

    def language_model(self, role: Speaker) -> AbstractContextManager[PreTrainedModel]:
        return nullcontext(_inner(self.actor) if role == "actor" else self.reference)

    def token_scores(
        self, role: Scorer, input_ids: Tensor, attention_mask: Tensor, states_to_keep: int = 0
    ) -> Tensor:
        model = _inner(self.critic) if role == "critic" else self.reward
        places = positions(attention_mask)
        scores: Tensor = model.token_scores(input_ids, attention_mask, places, states_to_keep)
        return scores

    def trainable(self, role: Learner) -> Mapping[str, nn.Parameter]:
        model = apart(self.actor if role == "actor" else self.critic)
        return {name: p for name, p in model.named_parameters() if p.requires_grad}

    def gathered(self, role: Learner) -> AbstractContextManager[None]:
        return whole_weights(self.actor if role == "actor" else self.critic, self._zero)

    def frozen(self) -> Iterable[tuple[str, Tensor]]:
        return chain(self.reference.named_parameters(), self.reward.named_parameters())

    def whole(self, role: Learner) -> PreTrainedModel:
        model: Any = self.actor if role == "actor" else self.critic
        if isinstance(model, PeftModel):
            return merge_adapter(model, original=role == "actor")
        return unspread(model) if self._zero else model

    def adapted_actor(self) -> tuple[PeftModel, str] | None:
        actor: Any = self.actor
        return (actor, str(actor.active_adapter)) if isinstance(actor, PeftModel) else None

    def compile(self) -> None:
        for model in (self.actor, self.critic, self.reference, self.reward):
            compile_training(model)

    def enable_gradient_checkpointing(self) -> None:
        for model in (self.actor, self.critic):
            # Layers recompute only in training mode; none of them has dropout.
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()


def _inner(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _whole_reward_model(path: Path, place: Any) -> Any:
    """With its adapter folded in, if it has one; the base's 4 bits are then plain weights."""
    model: Any = load_reward_model(path, **place)
    if not isinstance(model, PeftModel):
        return model
    if quantization_of(model.config):
        return merge_adapter(model).to(place["device"])
    return fold_adapter(model)
