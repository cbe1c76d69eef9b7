"""The phases of every stage, with the memory of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import torch

from rlhf.config.schema import DPOSection, RMSection, SFTSection
from rlhf.models.adapter import Task
from rlhf.models.spec import ModelSpec
from rlhf.planning import traces
from rlhf.planning.allocations import Kinds
from rlhf.planning.engines import HALF
from rlhf.planning.judging import plain
from rlhf.planning.loading import loading
from rlhf.planning.memory import Part, Phase, Rollout, Tuned, passing
from rlhf.planning.setting import Setting
from rlhf.planning.traces import Learning

MODEL = "model"
FLOAT32 = 4


def sft_phases(setting: Setting, spec: ModelSpec) -> list[Phase]:
    """Loading, training, and the optimiser's step."""
    section = setting.config.sft
    steps = setting.microbatches("sft.batch_size", section.batch_size, section.microbatch_size)
    kinds = _sft_step(setting, spec, _learning(setting, section, spec, "causal", steps > 1))
    tuned = _tuned(setting, section, spec, "causal")
    if _splits(setting, section):  # the lower halves of the weights
        lower = tuned.held.optimiser + HALF * tuned.counts.learning
        tuned = replace(tuned, held=replace(tuned.held, optimiser=lower))
    loaded = loading(setting, spec, "causal", section.tuning)
    return [loaded, *_supervised(tuned, passing(MODEL, kinds), steps > 1)]


def _sft_step(setting: Setting, spec: ModelSpec, learning: Learning) -> Kinds:
    """Where some blocks are computed again, a mean of all and none, by their number. Packed rows
    are one long one, without a mask, for attention that reads where texts begin."""
    section = setting.config.sft
    rows, length = section.microbatch_size, section.max_length
    masked = section.packing and not (
        section.packed_attention == "varlen" and spec.position == "rope"
    )
    if section.packing and not masked:
        rows, length = 1, rows * length
    part = setting.again(section)
    found: Counter[str] = Counter()
    for checkpointing, share in ((True, part), (False, 1 - part)):
        if share:
            kinds = traces.sft_step(
                replace(learning, checkpointing=checkpointing),
                rows,
                length,
                masked,
                section.loss_chunk,
                section.max_z_weight or 0.0,
            )
            found.update({kind: round(share * size) for kind, size in kinds.items()})
    return found


def dpo_phases(setting: Setting) -> list[Phase]:
    """As SFT's, on both responses of every pair."""
    section, spec = setting.config.dpo, setting.main
    assert section is not None
    steps = setting.microbatches("dpo.batch_size", section.batch_size, section.microbatch_size)
    learning = _learning(setting, section, spec, "causal", steps > 1)
    rows, sizes = 2 * section.microbatch_size, rm_sizes(setting)
    if section.tuning.method != "full" and "lm_head" in section.tuning.targets:
        kinds = traces.adapted_head_step(learning, rows, sizes)
    else:
        kinds = traces.trunk_step(learning, rows, sum(sizes))
    head = spec.vocab_size * spec.hidden_size * setting.dtype.itemsize if spec.norm_head else 0
    parts = (*passing(MODEL, kinds), Part("head, normalised", "weights", head))
    loaded = loading(setting, spec, "causal", section.tuning)
    return [loaded, *_supervised(_tuned(setting, section, spec, "causal"), parts, steps > 1)]


def rm_phases(setting: Setting) -> list[Phase]:
    """Loading, training, the step, evaluation, and the held-out pairs, which the model as it was
    saved scores alone: over a trunk in 4 bits where it was trained over one."""
    section, spec = setting.config.rm, setting.main
    steps = setting.microbatches("rm.batch_size", section.batch_size, section.microbatch_size)
    prompts, count = section.microbatch_size, setting.config.collect.responses_per_prompt
    sizes = rm_sizes(setting)
    learning = _learning(setting, section, spec, "reward", steps > 1)
    kinds = traces.rm_step(learning, prompts, count, sizes, section.shares_prompts)
    scored = traces.rm_scoring(learning, prompts, count, sizes, section.share_prompt)
    tuned = _tuned(setting, section, spec, "reward")
    again = plain("saved model", spec, "reward", setting, section.tuning.method == "qlora")
    resident = tuned.resident(MODEL, gradients=False)
    evaluated = Phase("evaluation", (*resident, *passing(MODEL, scored)), tuned.held.host)
    pairs = Phase("held-out pairs", (again, *passing("saved model", scored)))
    loaded = loading(setting, spec, "reward", section.tuning)
    return [loaded, *_supervised(tuned, passing(MODEL, kinds), steps > 1), evaluated, pairs]


def rm_sizes(setting: Setting) -> tuple[int, int]:
    """Tokens of the longest prompt and of the longest response."""
    longest = setting.config.rm.data.max_length
    response = min(setting.config.collect.sampling.max_new_tokens, longest - 1)
    return longest - response, response


@dataclass(frozen=True)
class Answering:
    """A plain model that answers prompts."""

    name: str
    spec: ModelSpec
    rollout: Rollout

    def slots(self, setting: Setting) -> int:
        """Sequences that are decoded together."""
        return self.rollout.slots(self.spec, setting.dtype.itemsize, self._free(setting))

    def phase(self, setting: Setting) -> Phase:
        held = self.rollout.held(self.spec, setting.dtype.itemsize, self._free(setting))
        return Phase(self.name, (self._weights(setting), *passing(MODEL, held)))

    def _weights(self, setting: Setting) -> Part:
        return plain(MODEL, self.spec, "causal", setting)

    def _free(self, setting: Setting) -> float:
        return setting.usable - self._weights(setting).size


def collecting(setting: Setting, number: int = 1) -> list[Answering]:
    """The sources of a round's responses, one after another: rounds after the first have the PPO
    model of the one before, too. None where rankings are given."""
    section, config = setting.config.collect, setting.config
    if config.annotation.source == "file":
        return []
    sources = [
        (f"{entry.size} {entry.stage}", setting.source(entry.path, entry.size))
        for entry in section.models
    ] or [
        (f"{entry.size} sft", setting.spec(entry.path, entry.architecture))
        for entry in config.models.values()
    ]
    if number > 1:
        sources.append((f"{config.main.size} ppo of this run", setting.main))
    rollout = Rollout(
        (section.prompts + section.eval_prompts) * section.responses_per_prompt // len(sources),
        section.batch_size,
        config.ppo.max_prompt_tokens,
        section.sampling.max_new_tokens,
    )
    return [Answering(f"sampling {name}", spec, rollout) for name, spec in sources]


def answering(setting: Setting) -> list[Answering]:
    """The policies that are judged, one after another."""
    section, config = setting.config.evaluate, setting.config
    rollout = Rollout(
        section.prompts,
        section.batch_size,
        config.ppo.max_prompt_tokens,
        section.sampling.max_new_tokens,
    )
    policies = 1 + config.rounds + (config.dpo is not None) + section.extra_sft
    return [Answering("answers", setting.main, rollout)] * policies


def _learning(
    setting: Setting,
    section: SFTSection | DPOSection | RMSection,
    spec: ModelSpec,
    task: Task,
    accumulates: bool,
) -> Learning:
    setting.check_spread(section)
    return Learning(
        spec,
        task,
        section.tuning,
        setting.dtype,
        checkpointing=section.gradient_checkpointing is True,
        under="deepspeed" if setting.engine.stage or _splits(setting, section) else "autocast",
        accumulates=accumulates,
        compiled=_compiled(section),
        activation_budget=getattr(section, "activation_budget", 1.0),
    )


def _compiled(section: SFTSection | DPOSection | RMSection) -> Literal["blocks", "parts"] | None:
    if not getattr(section, "compile", False):
        return None
    return "blocks" if isinstance(section, SFTSection) else "parts"


def _tuned(
    setting: Setting, section: SFTSection | DPOSection | RMSection, spec: ModelSpec, task: Task
) -> Tuned:
    return Tuned.of(
        spec,
        task,
        section.tuning,
        section.optimiser,
        setting.engine,
        width=setting.dtype.itemsize,
        master=HALF if _splits(setting, section) else FLOAT32,
    )


def _splits(setting: Setting, section: SFTSection | DPOSection | RMSection) -> bool:
    """Whether weights and gradients are in 16 bits, and the optimiser has the lower 16."""
    return getattr(section, "split_weights", False) and setting.dtype == torch.bfloat16


def _supervised(tuned: Tuned, added: tuple[Part, ...], accumulates: bool) -> list[Phase]:
    """Forward and backward, then the step. Gradients of a single microbatch are in the pass."""
    training = (*tuned.resident(MODEL, gradients=accumulates), *added)
    host = tuned.held.host
    return [
        Phase("training", training, host),
        Phase("optimiser step", tuned.stepping(MODEL), host),
    ]
