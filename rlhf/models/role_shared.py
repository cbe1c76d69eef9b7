"""Roles on one frozen trunk: an adapter each, the reference none."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.config.schema import TuningSection
from rlhf.models.adapter import cast_adapters, lora_config, read_record
from rlhf.models.checkpoint import checkpoint_hash, is_adapter
from rlhf.models.compiled import compile_training
from rlhf.models.export import assemble, merged_weights
from rlhf.models.from_main import by_main
from rlhf.models.load import HEAD, load_causal_lm
from rlhf.models.quantise import Quantization
from rlhf.models.reward_model import ScoreHead
from rlhf.models.role_base import Learner, Roles, Scorer, Speaker
from rlhf.models.spec import ModelSpec
from rlhf.ops.masking import positions

Role = Speaker | Scorer


class SharedRoles(Roles):
    """One trunk in memory for all four.

    The reward model's adapter and head are those it was trained with, the critic's are copies that
    learn, and the actor's adapter starts at zero, so that the actor starts as the reference.

    Raises ValueError when the reward model is not an adapter of this very trunk.
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
    ) -> None:
        super().__init__(spec, tokenizer)
        base: Quantization | None = "nf4" if tuning.method == "qlora" else None
        _check_same_trunk(actor_path, reward_path, base)
        self._trunk: Any = load_causal_lm(actor_path, dtype=dtype, device=device, quantization=base)
        actor = lora_config(self._trunk, tuning, "causal")
        self._adapters: Any = get_peft_model(self._trunk, actor, adapter_name="actor")
        weights = load_peft_weights(str(reward_path), device=str(self._trunk.device))
        head = next(weights.pop(name) for name in list(weights) if name.endswith(HEAD))
        for role in ("reward", "critic"):
            self._adapters.add_adapter(role, _reward_config(reward_path))
            set_peft_model_state_dict(self._adapters, weights, adapter_name=role)
        cast_adapters(self._trunk, dtype)
        self._adapters.eval()
        self._heads: Any = nn.ModuleDict({role: _head(head) for role in ("reward", "critic")})
        self._layers = [part for part in self._trunk.modules() if isinstance(part, BaseTunerLayer)]
        self._learning = {"actor": self._own("actor"), "critic": self._own("critic")}
        for parameter in (*self._adapters.parameters(), *self._heads.parameters()):
            parameter.requires_grad_(False)
        for learner in self._learning.values():
            for parameter in learner.values():
                parameter.requires_grad_(True)
        self._active: Role = "reference"
        self._switch("actor")

    @contextmanager
    def language_model(self, role: Speaker) -> Iterator[PreTrainedModel]:
        with self._using(role):
            yield self._trunk

    def token_scores(
        self, role: Scorer, input_ids: Tensor, attention_mask: Tensor, states_to_keep: int = 0
    ) -> Tensor:
        with self._using(role):
            hidden = self._trunk.base_model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=positions(attention_mask),
                use_cache=False,
                states_to_keep=states_to_keep,
            ).last_hidden_state
        scores: Tensor = self._heads[role](hidden[:, -states_to_keep:])
        return scores.squeeze(-1)

    def trainable(self, role: Learner) -> Mapping[str, nn.Parameter]:
        return self._learning[role]

    def frozen(self) -> Iterable[tuple[str, Tensor]]:
        learning = {id(p) for role in self._learning.values() for p in role.values()}
        parts = {"trunk": self._trunk, "heads": self._heads}
        for part, module in parts.items():
            for name, parameter in module.named_parameters(prefix=part):
                if id(parameter) not in learning:
                    yield name, parameter

    def whole(self, role: Learner) -> PreTrainedModel:
        weights = merged_weights(self._adapters, role, original=role == "actor")
        if role == "actor":
            plain = assemble(type(self._trunk), self._trunk.config, weights)
            plain.generation_config = self._trunk.generation_config
            return plain
        inside = f"{self._trunk.base_model_prefix}."
        body = {name: weight for name, weight in weights.items() if name.startswith(inside)}
        body[HEAD] = self._heads[role].weight.detach().cpu()
        config = copy.deepcopy(self._trunk.config)
        kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
        return assemble(kind, config, body)

    def adapted_actor(self) -> tuple[PeftModel, str]:
        return self._adapters, "actor"

    def enable_gradient_checkpointing(self) -> None:
        # By the time of the backward pass another role may be switched on.
        again = {"use_reentrant": False, "context_fn": self._as_now}
        self._trunk.gradient_checkpointing_enable(again)
        # Layers recompute only in training mode; none of them has dropout.
        self._trunk.train()

    def compile(self) -> None:
        compile_training(self._trunk)

    def _as_now(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), self._using(self._active)

    @contextmanager
    def _using(self, role: Role) -> Iterator[None]:
        before = self._active
        self._switch(role)
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, role: Role) -> None:
        """What PEFT's `set_adapter` and `enable_adapters` come to, without their walk over every
        parameter: under gradient checkpointing this is called twice a block."""
        if role == self._active:
            return
        for layer in self._layers:
            layer._disable_adapters = role == "reference"
            if role != "reference":
                layer._active_adapter = [role]
        self._active = role

    def _own(self, role: Learner | Scorer) -> dict[str, nn.Parameter]:
        """The parameters of a role's adapter and head."""
        adapter = {n: p for n, p in self._trunk.named_parameters() if f".{role}." in n}
        return adapter | ({HEAD: self._heads[role].weight} if role in self._heads else {})


def _check_same_trunk(actor_path: Path, reward_path: Path, base: Quantization | None) -> None:
    mend = "set ppo.roles to separate"
    if not is_adapter(reward_path):
        raise ValueError(f"{reward_path}: a reward model with a trunk of its own; {mend}")
    found, record = by_main(partial(checkpoint_hash, actor_path)), read_record(reward_path)
    if record.base_checkpoint_hash != found:
        raise ValueError(f"{reward_path}: an adapter of another trunk than {actor_path}; {mend}")
    if record.quantization != base:
        own, ours = record.quantization or "plain", base or "plain"
        raise ValueError(
            f"{reward_path}: trained over {own} weights, and ppo.tuning.method has {ours} ones, "
            "over which it gives other scores; set it as rm.tuning.method was, or train it again"
        )


def _reward_config(path: Path) -> LoraConfig:
    """The adapter's own configuration, without its dropout and without the head."""
    config: LoraConfig = LoraConfig.from_pretrained(str(path))
    config.task_type, config.modules_to_save = "CAUSAL_LM", None
    config.inference_mode, config.lora_dropout = False, 0.0
    return config


def _head(weight: Tensor) -> ScoreHead:
    head = ScoreHead(weight.shape[1], weight.shape[0], device="meta")
    head.weight = nn.Parameter(weight.to(torch.float32, copy=True))
    return head
