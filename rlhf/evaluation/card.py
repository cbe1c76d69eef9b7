"""README.md beside every model that a stage saves: what it is, from what, and how well it did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlhf.config.load import dump_config
from rlhf.config.schema import Config, Section
from rlhf.evaluation.contest import learnt_from_simulated
from rlhf.models.checkpoint import is_adapter
from rlhf.models.registry import spec_of
from rlhf.models.spec import ModelSpec
from rlhf.runtime.distributed import Runtime, StageResult
from rlhf.runtime.files import write_text
from rlhf.runtime.lineage import Origin, trace
from rlhf.runtime.manifest import maker_of

CARD = "README.md"
WHAT = {
    "sft": "A language model, fine-tuned on demonstrations (SFT).",
    "dpo": "A language model, trained on ranked responses (DPO) from the SFT model.",
    "rm": "A reward model: one score for a whole response, higher is better.",
    "actor": "A language model, trained with PPO from the SFT model against the reward model.",
    "actor_ema": "The moving average of the weights that PPO's actor had.",
    "critic": "PPO's critic: an estimate of the score to come, for each token.",
    "sft_extra": "The SFT model trained on for as much compute as PPO used, to judge PPO by.",
}
PREFERENCES = {"dpo", "rm", "ppo"}
"""Stages that learn from rankings, by way of a reward model or directly."""
LICENCES = {
    "baichuan": "Made from Baichuan's weights, which come under the Baichuan community licence: it "
    "holds for this model too. Read it before you use it or pass it on; commercial use has "
    "conditions of its own.",
    "moss": "Made from MOSS's weights: their licence holds for this model too. Read it before you "
    "use it or pass it on.",
}
IMPORTED = (
    "Made from weights that were imported from another family: the licence of those holds for this "
    "model too. Read it before you use it or pass it on."
)
RANDOM = "The base's weights are random, made by the demo; there is no licence on them."


def with_cards(result: StageResult, config: Config, runtime: Runtime) -> StageResult:
    """Write a card into each model of a finished stage, and hand its result on.

    A stage that waits has none yet; one that was borrowed has its lender's.
    """
    borrowed = result.directory.is_symlink()
    if runtime.main_process and result.waiting is None and not borrowed:
        for model in models(result.directory):
            write_text(model / CARD, stage_card(model, config, runtime))
    return result


def models(directory: Path) -> Iterator[Path]:
    """The model directories that a stage's is or has."""
    for folder in (directory, *sorted(directory.iterdir())):
        if (folder / "config.json").is_file():
            yield folder


def stage_card(model: Path, config: Config, runtime: Runtime) -> str:
    """The text of the card of a model that a stage has made."""
    made = maker_of(model)
    assert made is not None, "a stage has made it"
    stage = made[1].stage
    kind = model.name if model.name in WHAT else stage
    return card(
        model,
        spec_of(model),
        title=f"{config.name}: {model.relative_to(runtime.run_dir.root)}",
        what=WHAT[kind],
        notes=notes(config, stage, learnt_from_simulated(model)),
        config=dump_config(section(config, kind, stage)),
        scores=kind in ("rm", "critic"),
    )


def card(
    model: Path,
    spec: ModelSpec,
    *,
    title: str,
    what: str,
    notes: Sequence[str],
    config: str,
    scores: bool,
) -> str:
    """The text of a card, from this and from the manifests behind the model.

    what: a sentence. notes: what has to be known before a number is believed. config: YAML.
    scores: whether it is a model that gives scores, not text.
    """
    origin = trace(model)
    made = origin.manifest
    assert made is not None, "only what has a manifest has a card"
    text: str = _template().render(
        title=title,
        what=what,
        notes=notes,
        stage=made.stage,
        architecture=spec.name,
        base=origin.base,
        inputs=origin.inputs,
        metrics={name: _short(value) for name, value in made.summary.items()},
        manifest=made,
        config=config,
        auto_class="AutoModelForSequenceClassification" if scores else "AutoModelForCausalLM",
        adapter=is_adapter(model),
        licence=licence(spec, origin.base),
    )
    return text


def notes(config: Config, stage: str, simulated: bool = False) -> list[str]:
    """What has to be known before a number is believed.

    simulated: the model learnt from simulated rankings, whatever this config says.
    """
    found = []
    if config.demo is not None:
        found.append("Trained on the demo's generated data.")
    ranked = config.annotation.source == "simulated" or config.annotation.grading is not None
    if simulated or (ranked and stage in PREFERENCES):
        text = "The rankings are of SIMULATED annotators: nothing here says how people would judge."
        found.append(text)
    return found


def section(config: Config, kind: str, stage: str) -> Section:
    """The part of the config that the model was trained by."""
    found = getattr(config, "sft" if kind == "sft_extra" else stage)
    assert isinstance(found, Section)
    return found


def licence(spec: ModelSpec, base: Origin) -> str:
    """A reminder of what holds for models made from these weights."""
    if base.path.parts[-3:-1] == ("demo", "models"):  # of a run directory
        return RANDOM
    return IMPORTED if spec.turns is not None else LICENCES[spec.family]


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("rlhf.evaluation"),
        autoescape=False,  # Markdown
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    ).get_template("card.md.jinja")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
