"""Against which model a run's policies are judged, by which, and what is to be said of that one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rlhf.config.schema import Config
from rlhf.models.checkpoint import checkpoint_hash
from rlhf.runtime.distributed import Runtime
from rlhf.runtime.lineage import now_at
from rlhf.runtime.manifest import SIMULATED, maker_of

REWARD_MODEL = "reward_model"
"""The input of PPO that it trains against."""


def baseline(start: str | None, runtime: Runtime) -> Path:
    """The SFT model that a policy is compared with: `start`, from which it learnt, where that is
    an SFT model by its manifest, of another run or another size; else this run's main one."""
    own = runtime.run_dir.stage("sft/main")
    other = Path(start or own)
    made = maker_of(other)
    of_sft = made is not None and made[1].stage == "sft"
    return other if of_sft and other.resolve() != own.resolve() else own


def judge_path(config: Config, runtime: Runtime) -> Path | None:
    """The named reward model; else None, for the demo's rubric, where there is a demo; else the
    very reward model that PPO trained on."""
    if config.evaluate.judge is None and config.demo is not None:
        return None
    return Path(config.evaluate.judge or config.ppo.reward_model or runtime.stage_dir("rm"))


class Background(NamedTuple):
    """of_ppo: the PPO of some round trained against this judge. simulated: it learnt from rankings
    of simulated annotators, as far as is known."""

    of_ppo: bool
    simulated: bool

    @property
    def note(self) -> str:
        """What the report has to say behind its name."""
        notes = ["PPO trained on it: no independent judge"] * self.of_ppo
        notes += ["trained on simulated rankings"] * self.simulated
        return f" ({'; '.join(notes)})" if notes else ""


def background(judge: Path, config: Config, runtime: Runtime) -> Background:
    """Of a reward model that judges."""
    of_ppo = _of_ppo(judge, config, runtime)
    known = (judge, of_ppo) if of_ppo else (judge,)  # a copy of the weights knows nothing of itself
    return Background(of_ppo is not None, any(map(learnt_from_simulated, known)))


def learnt_from_simulated(model: Path) -> bool:
    """Whether a model, or what it was exported from, learnt from rankings of simulated annotators;
    PPO's by way of their reward model.

    False where nothing says so: of weights that no stage has made.
    """
    made = maker_of(_unexported(model))
    if made is None:
        return False
    directory, manifest = made
    if REWARD_MODEL in manifest.inputs:
        scorer = now_at(manifest.inputs[REWARD_MODEL], directory)
        return scorer is not None and learnt_from_simulated(scorer)
    return bool(manifest.summary.get(SIMULATED))


def _of_ppo(judge: Path, config: Config, runtime: Runtime) -> Path | None:
    """The reward model of some round's PPO that this judge is: the same directory, an export of it,
    or a copy of its weights."""
    rounds = range(1, runtime.rounds + 1)
    own = [runtime.run_dir.stage("rm", number, runtime.rounds) for number in rounds]
    named = config.ppo.reward_model
    judge = _unexported(judge)
    for model in map(_unexported, [Path(named)] if named else own):
        if model == judge or _same_weights(model, judge):
            return model
    return None


def _same_weights(model: Path, other: Path) -> bool:
    """Hashes are compared where sizes are equal: to take one is to read all weights."""
    sizes, others = (
        sorted((file.name, file.stat().st_size) for file in each.glob("*.safetensors"))
        for each in (model, other)
    )
    return bool(sizes) and sizes == others and checkpoint_hash(model) == checkpoint_hash(other)


def _unexported(model: Path) -> Path:
    """The model that `rlhf export` was given, where it made this one and that is still there."""
    made = maker_of(model.resolve())
    if made is None or made[1].stage != "export":
        return model.resolve()
    inputs = made[1].inputs
    source = now_at(inputs.get("adapter", inputs["model"]), made[0])
    return model.resolve() if source is None else _unexported(source)
