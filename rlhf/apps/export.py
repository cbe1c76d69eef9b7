"""Checkpoints into other layouts, and Llama checkpoints into Baichuan's."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import yaml
from transformers import PreTrainedModel

from rlhf.evaluation.card import CARD, card
from rlhf.models.checkpoint import quantised_on_disk, score_statistics
from rlhf.models.export import (
    save_checkpoint,
    save_reward_model,
    set_chat_template,
    share_weights,
)
from rlhf.models.llama import check_llama, check_rope, from_llama, to_llama
from rlhf.models.llama_files import import_tokenizer, name_rope_base, save_llama_tokenizer
from rlhf.models.llama_source import load_llama, read_llama_config
from rlhf.models.load import check_vocabulary, load_tokenizer
from rlhf.models.official import check_official, write_official
from rlhf.models.registry import read_config, spec_of
from rlhf.models.source import find_source
from rlhf.models.spec import ModelSpec
from rlhf.runtime.files import hash_section, write_text
from rlhf.runtime.manifest import MANIFEST, Artifact, StageManifest, outputs_of
from rlhf.runtime.quiet import quiet
from rlhf.runtime.usage import versions

Layout = Literal["native", "llama", "official"]


def export(model: Path, out: Path, layout: str = "native", adapter: Path | None = None) -> None:
    """Writes `model`, its adapter merged, into the new directory `out`.

    model: a checkpoint, or an adapter, which is merged into the base that it names.
    adapter: a PEFT LoRA adapter for `model`.
    Raises ValueError, before any weights are read, for what the layout cannot express.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"--to {layout}: no such layout; choose {', '.join(get_args(Layout))}")
    check_empty(out)
    source = find_source(model, adapter)
    config = read_config(source.base)
    if quantised_on_disk(source.base):
        raise ValueError(f"{source.base}: quantised weights; export what they come from")
    if layout == "llama":
        check_rope(config)
    elif layout == "official":
        check_official(config)
        if source.reward:
            raise ValueError(f"{model}: no official layout for a reward model; use --to native")
    tokenizer = load_tokenizer(source.base)
    with quiet(), torch.no_grad():
        whole = source.load()
        if layout == "llama":
            _save_llama(whole, tokenizer, out)
        elif source.reward:
            mean, std = score_statistics(source.described)
            save_reward_model(whole, tokenizer, out, score_mean=mean, score_std=std)
        else:
            save_checkpoint(whole, tokenizer, out)
            if layout == "official":
                write_official(out)
    inputs = {"model": source.base} | ({"adapter": source.adapter} if source.adapter else {})
    what = f"`{model}` in the layout {layout}; the card there says how it was trained."
    record("export", out, spec_of(source.base), inputs, {"layout": layout}, what, source.reward)


def import_llama(source: Path, out: Path) -> None:
    """Writes a LlamaForCausalLM in the layout of Baichuan-7B into the new directory `out`.

    source: a directory, or a GGUF file, which is dequantised to float32.
    Raises ValueError, before any weights are read, for what the layout cannot hold, and where the
    tokenizer has no means to tell roles apart.
    """
    check_empty(out)
    config = read_llama_config(source)
    check_llama(config)
    tokenizer, chat = import_tokenizer(source)
    check_vocabulary(source, tokenizer, config.vocab_size)
    with quiet(), torch.no_grad():
        model = from_llama(load_llama(source))
        model.config.update(chat)
        save_checkpoint(model, tokenizer, out)
    what = f"`{source}` in the layout of Baichuan-7B."
    record("import-llama", out, spec_of(out), {"model": source}, {}, what, False)


def record(
    stage: str,
    out: Path,
    spec: ModelSpec,
    inputs: dict[str, Path],
    settings: dict[str, str],
    what: str,
    scores: bool,
) -> None:
    """Leave a manifest, which lineage and doctor read, and a card."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = StageManifest(
        stage=stage,
        status="done",
        config_hash=hash_section(settings),
        inputs={name: Artifact.of(path.resolve()) for name, path in inputs.items()},
        outputs=outputs_of(out),
        versions=versions(),
        started=now,
        finished=now,
    )
    write_text(out / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    config = yaml.safe_dump(settings)
    text = card(out, spec, title=out.name, what=what, notes=(), config=config, scores=scores)
    write_text(out / CARD, text)


def _save_llama(model: Any, tokenizer: Any, out: Path) -> None:
    llama: PreTrainedModel = to_llama(model)
    llama.save_pretrained(str(out))
    share_weights(out)
    name_rope_base(out)
    set_chat_template(model.config, tokenizer)
    # A reward model reads nothing but a template's text, which has its BOS.
    turns = spec_of(model.config).turns if model.can_generate() else None
    save_llama_tokenizer(tokenizer, out, turns)


def check_empty(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out}: already there and not an empty directory; name a new one")
