"""Time of the stages of a config."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf.config.schema import Config, DPOSection, PPOSection, RMSection, SFTSection, TuningSection
from rlhf.data.jsonl import read_lines
from rlhf.models.flops import iteration_flops
from rlhf.models.spec import ModelSpec
from rlhf.planning.cost import Cost
from rlhf.planning.engines import Engine
from rlhf.planning.given import Given, given
from rlhf.planning.judging import watching_seconds
from rlhf.planning.memory import Rollout
from rlhf.planning.ppo_phases import microbatch, mixed_text, scoring_microbatch, spreads
from rlhf.planning.ppo_phases import rollout as ppo_rollout
from rlhf.planning.setting import Setting

BYTES_A_TOKEN = 4
"""Of UTF-8 text in JSON, keys included; a rough mean of Chinese and English."""
UNTUNED = TuningSection(method="lora")
RM_WAIT = 0.001
"""Seconds a microbatch and block in which the GPU waits for the reward model's training over
bfloat16 weights (benchmarks/results/rm.json)."""
PPO_WAIT, PACKED_WAIT = 0.001, 0.003
"""The same of PPO's loop, over bfloat16 weights and over 4-bit ones (ppo_32.json, ppo_nf4.json)."""


@dataclass(frozen=True)
class Duration:
    """seconds: of one `unit`. count: how many the stage has; None where the data are not there."""

    unit: str
    seconds: float
    count: int | None

    @property
    def hours(self) -> float | None:
        """Of the whole stage."""
        return None if self.count is None else self.count * self.seconds / 3600


def sft_duration(setting: Setting, spec: ModelSpec) -> Duration:
    """A step has `batch_size` rows, full ones."""
    section = setting.config.sft
    rows = section.batch_size // setting.gpus
    cost = _cost(setting, section, spec)
    seconds = cost.training(
        rows * section.max_length, section.max_length, rows // section.microbatch_size
    )
    return Duration("step", seconds, section.max_steps or _sft_steps(setting.config))


def _sft_steps(config: Config) -> int | None:
    """Of all epochs over the user's file, nothing held out or curated; None where it is not there.

    Packed rows are full ones, of about as many tokens as the file's bytes hold; others are its
    records.
    """
    section, path = config.sft, Path(config.data.sft or "")
    if not path.is_file():
        return None
    if not section.packing:
        return _epochs(section, sum(1 for _ in read_lines(path)))
    tokens = section.epochs * path.stat().st_size / BYTES_A_TOKEN
    return max(1, round(tokens / (section.batch_size * section.max_length)))


def extra_sft_duration(setting: Setting) -> Duration:
    """The SFT model trained on for what the last PPO used, in SFT's steps (6N a token, whatever is
    tuned, as the run reckons it)."""
    section = setting.config.sft
    tokens = ppo_flops(setting.config.ppo) / 6
    steps = max(1, int(tokens / (section.batch_size * section.max_length)))
    return replace(sft_duration(setting, setting.main), count=steps)


def ppo_flops(section: PPOSection) -> float:
    """FLOPs a weight of one round, every answer as long as may be."""
    tokens = section.episodes * (section.max_prompt_tokens + section.sampling.max_new_tokens)
    warming = iteration_flops(1, tokens, section, train_actor=False)
    training = iteration_flops(1, tokens, section, train_actor=True)
    warmup = section.critic_warmup
    return warmup * warming + (section.iterations - warmup) * training


def rm_duration(setting: Setting, sizes: tuple[int, int]) -> Duration:
    """A step has `batch_size` prompts with all their responses, as long as may be; of rankings from
    a file, as many as they have in the mean."""
    section, config, own = setting.config.rm, setting.config, given(setting)
    prompts, count = section.batch_size // setting.gpus, float(config.collect.responses_per_prompt)
    if own and own.records:
        count = own.responses / own.records
    prompt, response = sizes
    each = prompt * (1 if section.shares_prompts else count) + count * response
    tokens = round(prompts * each)
    cost = _cost(setting, section, setting.main)
    seconds = cost.training(tokens, sum(sizes), prompts // section.microbatch_size, projected=0)
    return Duration("step", seconds, _rm_steps(config, own))


def _rm_steps(config: Config, own: Given | None) -> int | None:
    """Of all rounds: each trains anew, on what it and those before it have collected, or on the
    user's own rankings."""
    section, collected = config.rm, config.collect.prompts
    if section.max_steps is not None:
        return section.max_steps * config.rounds
    if config.annotation.source == "file":
        return own and config.rounds * _epochs(section, own.records)
    rounds = range(1, config.rounds + 1)
    return sum(_epochs(section, number * collected) for number in rounds)


def _epochs(section: SFTSection | DPOSection | RMSection, items: int) -> int:
    """Steps, as the Trainer counts them: the last of an epoch takes what is left."""
    return math.ceil(section.epochs * -(-items // section.batch_size))


def dpo_duration(setting: Setting) -> Duration:
    """A step has `batch_size` pairs, both responses as long as may be."""
    section, longest = setting.config.dpo, setting.config.rm.data.max_length
    assert section is not None
    pairs = section.batch_size // setting.gpus
    cost = _cost(setting, section, setting.main)
    tokens = 2 * pairs * longest
    seconds = cost.training(tokens, longest, pairs // section.microbatch_size)
    steps = section.max_steps  # of every round
    if steps is None and (own := given(setting)):
        steps = _epochs(section, own.pairs)
    return Duration("step", seconds, None if steps is None else steps * setting.config.rounds)


def ppo_duration(setting: Setting, slots: int) -> Duration:
    """An iteration. slots: sequences that are decoded together."""
    iterations = setting.config.ppo.iterations * setting.config.rounds
    return Duration("iteration", sum(ppo_parts(setting, slots)), iterations)


def ppo_parts(setting: Setting, slots: int) -> tuple[float, float, float]:
    """Seconds of sampling, of the passes without a gradient, and of the updates of both learners.

    Without a gradient pass reference, reward model and critic, and the actor where its
    log-probabilities are computed again; under ZeRO-3 every batch of each gathers the weights. So
    does a judge of PPO's, which is whole.
    """
    section = setting.config.ppo
    work = ppo_rollout(section, setting.gpus)
    length = work.prompt + work.response
    tokens, answered = work.sequences * length, work.sequences * work.response
    cost = Cost(
        setting.main,
        section.tuning,
        setting.again(section),
        setting.engine if spreads(setting) else Engine(setting.gpus),
        setting.rates,
        setting.dtype.itemsize,
        compiled=section.compile,
        wait=PACKED_WAIT if section.tuning.method == "qlora" else PPO_WAIT,
    )
    speaking = 1 + (section.old_logprobs == "recomputed")
    reading = speaking * cost.reading(tokens, length, answered) + 2 * cost.reading(
        tokens, length, 0
    )
    batches = -(-work.sequences // scoring_microbatch(section, setting.gpus))
    reading += (speaking + 2) * batches * cost.gathering(setting.gpus)
    reading += watching_seconds(setting, work)
    update = _update(setting, cost, work)
    sampling = cost.sampling(work, slots, adapted=section.tuning.method != "full")
    return sampling, reading, section.epochs * update


def _update(setting: Setting, cost: Cost, work: Rollout) -> float:
    """An epoch's steps of both learners; the actor's take text in, too, where some is mixed in."""
    section, gpus = setting.config.ppo, setting.gpus
    steps = max(1, section.episodes // section.minibatch)
    microbatches = max(1, section.minibatch // gpus // microbatch(section, gpus))
    texts, longest = mixed_text(setting)
    mixed = -(-texts // section.microbatch)
    seconds = cost.passes(steps * texts * longest, longest, steps * mixed)
    length = work.prompt + work.response
    learners = ((microbatches + mixed, work.response), (microbatches, 0))
    for passes, projected in learners:
        seconds += cost.passes(
            work.sequences * length, length, steps * microbatches, work.sequences * projected
        )
        seconds += steps * (cost.step() + cost.exchange(passes))
    return seconds + steps * cost.averaging() * (section.ema_decay is not None)


def sampling_seconds(setting: Setting, spec: ModelSpec, work: Rollout, slots: int) -> float:
    """All answers of one plain model, dealt over the GPUs."""
    mine = replace(work, sequences=-(-work.sequences // setting.gpus))
    cost = Cost(spec, UNTUNED, 0.0, Engine(), setting.rates, setting.dtype.itemsize)
    return cost.sampling(mine, min(slots, mine.sequences))


def _cost(setting: Setting, section: SFTSection | DPOSection | RMSection, spec: ModelSpec) -> Cost:
    method = section.tuning.method
    return Cost(
        spec,
        section.tuning,
        setting.again(section),
        setting.engine,
        setting.rates,
        setting.dtype.itemsize,
        compiled=getattr(section, "compile", False),
        in_8_bits=section.optimiser.kind == "adamw-8bit",
        wait=RM_WAIT if isinstance(section, RMSection) and method != "qlora" else None,
    )
