"""The table of docs/scaling.md: 7B and 13B on 8, 64 and 1,024 GPUs, reckoned and not measured.

    python benchmarks/scaling_table.py

Every GPU has the same work whatever their number: ROWS rows of SFT a step, EPISODES of PPO an
iteration. Rates and what had to be assumed: rlhf/planning/rates.py.
"""

from __future__ import annotations

from dataclasses import replace

from rlhf.config.load import load_config
from rlhf.config.paths import resource
from rlhf.config.schema import Config
from rlhf.planning.deepspeed import decide
from rlhf.planning.schedule import sft_duration
from rlhf.planning.setting import Setting
from rlhf.planning.stages import stage_plans

MODELS = {"Baichuan2-7B": "baichuan2_7b", "Baichuan2-13B": "baichuan2_13b"}
METHODS = {
    "LoRA": [],
    "whole": [
        *("sft.tuning.method=full", "ppo.roles=separate", "ppo.tuning.method=full"),
        "ppo.rollout_microbatch=16",
    ],
}
GPUS = (8, 64, 1024)
ROWS, EPISODES = 16, 16
TOKENS = 1e8
"""Of SFT: what 100 thousand conversations of 1,000 tokens come to."""
COLUMNS = (
    *("model", "tuned", "GPUs", "SFT: engine", "GiB", "tokens/s", "10^8 tokens"),
    *("PPO: engine", "GiB", "iteration", "episodes/s"),
)


def main() -> None:
    print(f"| {' | '.join(COLUMNS)} |")
    print("| --- " * len(COLUMNS) + "|")
    for model, name in MODELS.items():
        for method, changes in METHODS.items():
            for gpus in GPUS:
                print(row(model, method, config_for(f"configs/{name}.yaml", gpus, changes), gpus))


def config_for(name: str, gpus: int, changes: list[str]) -> Config:
    """The published config with as much work a GPU as the others have."""
    ppo = EPISODES * gpus
    return load_config(
        resource(name),
        [
            f"sft.batch_size={ROWS * gpus}",
            "sft.microbatch_size=1",
            "sft.loss_chunk=null",
            f"ppo.rollout_batch={ppo}",
            f"ppo.minibatch={ppo}",
            "ppo.microbatch=4",
            *changes,
        ],
    )


def row(model: str, method: str, config: Config, gpus: int) -> str:
    sft_alone = config.model_copy(update={"stages": ("sft",)})
    decided = decide(sft_alone, gpus=gpus)
    setting = replace(Setting(config, gpus), chosen=decided.engine)
    seconds = sft_duration(setting, setting.main).seconds
    tokens = config.sft.batch_size * config.sft.max_length / seconds
    cells = [model, method, f"{gpus:,}", decided.engine.name, f"{decided.peak_gib:.0f}"]
    cells += [f"{tokens:,.0f}", span(TOKENS / tokens)]
    engines = [replace(decided.engine, stage=stage) for stage in (2, 3)]
    plans = [stage_plans(replace(setting, chosen=engine), "ppo")[0] for engine in engines]
    ppo = next((plan for plan in plans if plan.fits), plans[-1])
    rate = config.ppo.episodes / ppo.duration.seconds
    cells += [ppo.engine, f"{ppo.peak_gib:.0f}" + " (too much)" * (not ppo.fits)]
    cells += [f"{ppo.duration.seconds:.0f} s", f"{rate:,.0f}"]
    return f"| {' | '.join(cells)} |"


def span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main()
