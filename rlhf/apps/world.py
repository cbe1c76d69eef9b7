"""What has to be there before the first stage: the run directory, the demo world, the data."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from rlhf.config.load import dump_config
from rlhf.config.paths import resource
from rlhf.config.resolve import resolve_paths
from rlhf.config.schema import Config, DataSection
from rlhf.data.curation import Auditor
from rlhf.data.jsonl import read_all
from rlhf.data.prepare import prepare
from rlhf.data.records import RankingRecord
from rlhf.data.taxonomy import Taxonomy, keep_taxonomy
from rlhf.demo import annotators, build
from rlhf.models.checkpoint import Kind, check_checkpoint, check_kind
from rlhf.runtime.distributed import once
from rlhf.runtime.files import sweep_drafts, write_text
from rlhf.runtime.quiet import warnings_on
from rlhf.runtime.run_dir import STAGES, RunDir
from rlhf.training.rankings import check_given

DEMO = "demo"
"""Folder of the run directory for the demo world."""
READERS = {
    "sft": {"sft"},
    "prompts": {"collect", "ppo", "evaluate"},
    "rankings": {"collect"},
}
"""Kind of the user's data -> the stages that read it."""


@contextmanager
def prepared_run(
    config: Config, lenders: tuple[Path, ...] = (), stages: Collection[str] = STAGES
) -> Iterator[tuple[Config, RunDir]]:
    """The locked run directory with its data in it, and the config with every path resolved.

    lenders: other runs, whose finished stages are borrowed where this one would make the same.
    stages: those that will run; what the others read need not be there.

    Raises:
        ValueError: files that the config names are not there, or another process has the directory.
    """
    config, data, run_dir = located(config, lenders, stages)
    demo_dir = run_dir.root / DEMO

    def make_world() -> None:
        sweep_drafts(run_dir.root)
        if config.demo is not None:
            taxonomy = config.data.taxonomy or resource("data_schemas/taxonomy.yaml")
            build.build(config.demo, Taxonomy.load(taxonomy), demo_dir)
        keep_taxonomy(config.data.taxonomy, run_dir.data)
        write_text(run_dir.root / "config.yaml", dump_config(config))
        text = mixed_text(config)
        with warnings_on(Console()):
            prepare(data, config.sft.curation, auditor(config), run_dir.data, config.seed, text)

    with ExitStack() as stack:
        once(lambda: stack.enter_context(run_dir.lock()))
        once(make_world)
        yield config, run_dir


def located(
    config: Config, lenders: tuple[Path, ...] = (), stages: Collection[str] = STAGES
) -> tuple[Config, DataSection, RunDir]:
    """The config with every path resolved, what is to be read of its data, the run directory.

    Writes nothing; raises ValueError when files that the config names are not there.
    """
    run_dir = RunDir(config.run_dir, lenders)
    config = resolve_paths(config, {"run://": run_dir.root, "demo://": run_dir.root / DEMO})
    data = _without_unread(config.data, run_dir, stages)
    _check_named_files(config.model_copy(update={"data": data}), run_dir, stages)
    return config, data, run_dir


def auditor(config: Config) -> Auditor | None:
    """Of the demo's demonstrations; None: the verdicts are in a file."""
    return annotators.authoritative if config.demo and not config.data.audits else None


def mixed_text(config: Config) -> str | None:
    """The text that PPO mixes in, where it is there: a run of other stages does without it."""
    mix = config.ppo.pretraining
    return mix.data if mix and Path(mix.data).is_file() else None


def _without_unread(data: DataSection, run_dir: RunDir, stages: Collection[str]) -> DataSection:
    """Without kinds that are not there, nor were before, and that no stage to run reads."""
    unread = [
        kind
        for kind, readers in READERS.items()
        if not readers & set(stages)
        and not (run_dir.data / f"{kind}.jsonl").exists()
        and _absent(getattr(data, kind), run_dir)
    ]
    left_out = {name: None for kind in unread for name in (kind, f"{kind}_eval")}
    return data.model_copy(update=left_out)


def _absent(path: str | None, run_dir: RunDir) -> bool:
    """Whether the user has to bring it and has not; the run brings what lies in its directory."""
    return bool(path and not Path(path).is_relative_to(run_dir.root) and not Path(path).exists())


def _check_named_files(config: Config, run_dir: RunDir, stages: Collection[str]) -> None:
    """One line for all that the user has to bring and has not, or that is no checkpoint."""
    ppo = config.ppo
    given = {
        "collect": [*(entry.path for entry in config.collect.models), config.annotation.judge],
        "dpo": [config.dpo.model] if config.dpo else [],
        "rm": [config.rm.model],
        "ppo": [ppo.actor, ppo.reward_model, ppo.judge],
        "evaluate": [config.evaluate.judge],
    }
    models = [entry.path for entry in config.models.values()]
    models += [path for stage in given if stage in stages for path in given[stage] if path]
    models = [path for path in models if not Path(path).is_relative_to(run_dir.root)]
    files = [path for path in config.data.model_dump().values() if isinstance(path, str)]
    files += [ppo.pretraining.data] if ppo.pretraining and "ppo" in stages else []
    files += config.capabilities.include if config.capabilities else []
    held_out = config.rm.data.held_out if {"rm", "dpo"} & set(stages) else ()
    missing = [
        path for path in dict.fromkeys([*models, *files, *held_out]) if _absent(path, run_dir)
    ]
    if missing:
        raise ValueError(
            f"{config.name}: not there: {', '.join(missing)}; put them in place or correct the "
            "paths in the config (--rehearse runs it without any of them)"
        )
    for path, kind in wanted_kinds(config):
        if path in models:
            check_kind(path, kind)
    for path in models:
        check_checkpoint(path)
    # Read whole now, not after the stages before the reward model.
    for _ in read_all([file for file in map(Path, held_out) if file.is_file()], RankingRecord):
        pass
    check_given(config, stages)


def wanted_kinds(config: Config) -> list[tuple[str, Kind]]:
    """The checkpoints that the config names, and what each has to be; `rm.model` may be either."""
    ppo, dpo = config.ppo, config.dpo
    speaking = [entry.path for entry in config.models.values()]
    speaking += [entry.path for entry in config.collect.models]
    scoring = [config.annotation.judge, ppo.reward_model, ppo.judge, config.evaluate.judge]
    found: list[tuple[str, Kind]] = [(path, "reward model") for path in scoring if path]
    named = [*speaking, ppo.actor, dpo.model if dpo else None]
    return found + [(path, "language model") for path in named if path]
