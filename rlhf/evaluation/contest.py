"""Against which model a run's policies are judged, by which, and what is to be said of that one."""

from __future__ import annotations

from pathlib import Path

from rlhf.config.schema import Config
from rlhf.data.jsonl import read_jsonl
from rlhf.data.records import RankingRecord
from rlhf.models.load import checkpoint_hash
from rlhf.runtime.distributed import Runtime
from rlhf.runtime.lineage import now_at
from rlhf.runtime.manifest import maker_of

REWARD_MODEL = "reward_model"
"""The input of PPO that it trains against."""
TRAIN = "train "
"""How the names of rankings begin that a stage has learnt from; the others are held out."""


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


def note_of(judge: Path, config: Config, runtime: Runtime) -> str:
    """What the report has to say behind the name of a reward model that judges."""
    notes = ["PPO trained on it: no independent judge"] * ppo_trained_on(judge, config, runtime)
    notes += ["trained on simulated rankings"] * learnt_from_simulated(judge)
    return f" ({'; '.join(notes)})" if notes else ""


def ppo_trained_on(judge: Path, config: Config, runtime: Runtime) -> bool:
    """Whether the PPO of some round trained against this very judge: the same directory, an export
    of it, or a copy of its weights."""
    rounds = range(1, runtime.rounds + 1)
    own = [runtime.run_dir.stage("rm", number, runtime.rounds) for number in rounds]
    named = config.ppo.reward_model
    models = [_unexported(model) for model in ([Path(named)] if named else own)]
    judge = _unexported(judge)
    if judge in models:
        return True
    there = {model for model in (judge, *models) if (model / "config.json").is_file()}
    return judge in there and checkpoint_hash(judge) in map(checkpoint_hash, there - {judge})


def learnt_from_simulated(model: Path) -> bool:
    """Whether a model, or what it was exported from, learnt from rankings of simulated annotators;
    PPO's by way of their reward model.

    False where nothing is known: of weights that no stage has made, or when the rankings are gone.
    """
    made = maker_of(_unexported(model))
    if made is None:
        return False
    directory, manifest = made
    if REWARD_MODEL in manifest.inputs:
        scorer = now_at(manifest.inputs[REWARD_MODEL], directory)
        return scorer is not None and learnt_from_simulated(scorer)
    read = [each for name, each in manifest.inputs.items() if name.startswith(TRAIN)]
    files = [path for each in read if (path := now_at(each, directory)) is not None]
    return any(record.simulated for path in files for record in read_jsonl(path, RankingRecord))


def _unexported(model: Path) -> Path:
    """The model that `rlhf export` was given, where it made this one and that is still there."""
    made = maker_of(model.resolve())
    if made is None or made[1].stage != "export":
        return model.resolve()
    inputs = made[1].inputs
    source = now_at(inputs.get("adapter", inputs["model"]), made[0])
    return model.resolve() if source is None else _unexported(source)
