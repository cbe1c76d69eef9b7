"""`rlhf chat`: a checkpoint opened for a conversation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from rich.console import Console
from transformers import GenerationConfig, PreTrainedTokenizerBase

from rlhf.apps.chat import plugins
from rlhf.apps.chat.conversation import Conversation, MossConversation
from rlhf.apps.chat.plugins import Plugin
from rlhf.apps.chat.terminal import Terminal
from rlhf.config.schema import RuntimeSection
from rlhf.models.chat import Conversational, answer_config
from rlhf.models.checkpoint import check_checkpoint
from rlhf.models.load import load_causal_lm, load_tokenizer
from rlhf.models.moss.meta import META_INSTRUCTION
from rlhf.models.quantise import Quantization, fast_products
from rlhf.models.registry import spec_of
from rlhf.models.source import Source, find_source
from rlhf.models.spec import ModelSpec
from rlhf.runtime.devices import choose_device, choose_dtype
from rlhf.runtime.quiet import quiet

SEEDS = range(-(2**63), 2**63)  # as torch takes them
LOAD_IN: dict[str, Quantization] = {"4bit": "nf4", "8bit": "int8"}


@dataclass(frozen=True)
class Sampling:
    """What overrides the checkpoint's generation_config.json; None leaves it as it is there.

    temperature 0 takes the most likely token.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None

    def over(self, config: GenerationConfig) -> GenerationConfig:
        """A configuration with these changes."""
        changed = copy.deepcopy(config)
        for name, value in vars(self).items():
            if value is not None:
                setattr(changed, name, value)
        if (self.temperature, self.top_k, self.top_p) != (None, None, None):
            changed.do_sample = changed.temperature != 0
        if not changed.do_sample:
            # What only matters to sampling would be warned of.
            changed.temperature, changed.top_k, changed.top_p = 1.0, 50, 1.0
        return changed


def chat(
    model: Path,
    *,
    load_in: str | None = None,
    adapter: Path | None = None,
    system: str | None = None,
    plugin_names: Sequence[str] = (),
    sampling: Sampling,
    seed: int | None = None,
) -> None:
    """Talks until the input ends.

    Raises ValueError as `open_conversation` does, and for a seed that torch does not take.
    """
    if seed is not None and seed not in SEEDS:
        raise ValueError(f"--seed {seed}: choose one from {SEEDS[0]} to {SEEDS[-1]}")
    console = Console()
    options: dict[str, Any] = {
        "load_in": load_in,
        "system": system,
        "plugin_names": plugin_names,
        "sampling": sampling,
    }

    def open_one(path: Path, adapter: Path | None = None) -> Conversation:
        with console.status(f"loading {path}"):
            return open_conversation(path, adapter=adapter, **options)

    with quiet():
        conversation = open_one(model, adapter)
        if seed is not None:
            torch.manual_seed(seed)
        Terminal(conversation, console, open_one, check_model).run()


def open_conversation(
    model: Path,
    *,
    load_in: str | None = None,
    adapter: Path | None = None,
    system: str | None = None,
    plugin_names: Sequence[str] = (),
    sampling: Sampling,
) -> Conversation:
    """Loads a language model, or an adapter over its base, with its way to talk.

    Args:
        load_in: 4bit or 8bit, by bitsandbytes; None for plain weights.
        system: None is the one that the model was tuned with, if any; "" is none, or what an
            imported chat format writes without one.
        plugin_names: of plugins that MOSS may call.

    Raises:
        ValueError: a directory that is no whole language model, a reward model, plugins for a
            model that calls none, a system message for one that has no place for it.
    """
    enabled = [plugins.find(name) for name in plugin_names]
    source = find_source(model, adapter)
    spec = spec_of(source.base)
    if enabled and spec.chat_style != "moss":
        raise ValueError(f"--plugin: {spec.name} calls no plugins; only MOSS does")
    conversation = load_speaker(source, load_in).conversation(sampling, system, enabled)
    conversation.name = str(adapter or model)
    conversation.check()
    return conversation


def check_model(model: Path) -> None:
    """Raises ValueError unless a whole language model, or an adapter of one, is there."""
    source = find_source(model)
    _refuse_reward(source)
    check_checkpoint(source.base)


@dataclass(frozen=True)
class Speaker:
    """A language model that is loaded, with all that talking to it needs."""

    model: Conversational
    tokenizer: PreTrainedTokenizerBase

    @property
    def spec(self) -> ModelSpec:
        return spec_of(self.model.config)

    def conversation(
        self, sampling: Sampling, system: str | None = None, enabled: Sequence[Plugin] = ()
    ) -> Conversation:
        """One that begins. system: None is the message that the model was tuned with, if any."""
        config = sampling.over(answer_config(self.model))
        if self.spec.chat_style == "moss":
            text = META_INSTRUCTION if system is None else system
            return MossConversation(self.model, self.tokenizer, config, text, enabled=enabled)
        return Conversation(self.model, self.tokenizer, config, system or "")


def load_speaker(source: Source, load_in: str | None = None) -> Speaker:
    """On the accelerator where there is one; ValueError for a reward model."""
    if load_in is not None and load_in not in LOAD_IN:
        raise ValueError(f"--load-in {load_in}: choose {' or '.join(LOAD_IN)}")
    _refuse_reward(source)
    runtime = RuntimeSection()
    device = choose_device(runtime)
    whole: Any = load_causal_lm(
        source.base,
        dtype=choose_dtype(runtime, device),
        device=device,
        quantization=None if load_in is None else LOAD_IN[load_in],
    )
    if getattr(whole, "is_quantized", False):
        fast_products(whole)
    if source.adapter is not None:
        whole = PeftModel.from_pretrained(whole, str(source.adapter)).get_base_model()
    return Speaker(whole.eval(), load_tokenizer(source.base))


def _refuse_reward(source: Source) -> None:
    if source.reward:
        told = "a reward model, which scores answers; name a language model"
        raise ValueError(f"{source.described}: {told}")
