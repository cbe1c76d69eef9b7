"""What has to be there before the first stage: the run directory, the demo world, the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf.config.load import dump_config
from rlhf.config.paths import resource
from rlhf.config.resolve import resolve_paths
from rlhf.config.schema import Config
from rlhf.data.prepare import prepare
from rlhf.data.taxonomy import Taxonomy
from rlhf.demo import annotators, build
from rlhf.models.load import check_checkpoint
from rlhf.runtime.files import write_text
from rlhf.runtime.run_dir import RunDir


@contextmanager
def prepared_run(config: Config, lenders: tuple[Path, ...] = ()) -> Iterator[tuple[Config, RunDir]]:
    """The locked run directory with its data in it, and the config with every path resolved.

    lenders: other runs, whose finished stages are borrowed where this one would make the same.

    Raises:
        ValueError: files that the config names are not there, or another process has the directory.
    """
    run_dir = RunDir(config.run_dir, lenders)
    demo_dir = run_dir.root / "demo"
    config = resolve_paths(config, {"run://": run_dir.root, "demo://": demo_dir})
    _check_named_files(config, run_dir)
    with run_dir.lock():
        if config.demo is not None:
            taxonomy = config.data.taxonomy or resource("data_schemas/taxonomy.yaml")
            build.build(config.demo, Taxonomy.load(taxonomy), demo_dir)
        write_text(run_dir.root / "config.yaml", dump_config(config))
        auditor = annotators.authoritative if config.demo and not config.data.audits else None
        prepare(config.data, config.sft.curation, auditor, run_dir.data, config.seed)
        yield config, run_dir


def _check_named_files(config: Config, run_dir: RunDir) -> None:
    """One line for all that the user has to bring and has not, or that is no checkpoint."""
    models = [entry.path for entry in config.models.values()]
    models += [entry.path for entry in config.collect.models]
    given = [config.rm.model, config.ppo.actor, config.ppo.reward_model, config.evaluate.judge]
    given += [config.ppo.judge, *([config.dpo.model] if config.dpo else [])]
    models += [path for path in (*given, config.annotation.judge) if path]
    models = [path for path in models if not Path(path).is_relative_to(run_dir.root)]
    files = [path for path in config.data.model_dump().values() if isinstance(path, str)]
    files += [config.ppo.pretraining.data] if config.ppo.pretraining else []
    files = [path for path in files if not Path(path).is_relative_to(run_dir.root)]
    missing = [path for path in dict.fromkeys([*models, *files]) if not Path(path).exists()]
    if missing:
        raise ValueError(
            f"{config.name}: not there: {', '.join(missing)}; put them in place or correct the "
            "paths in the config (--rehearse runs it without any of them)"
        )
    for path in models:
        check_checkpoint(path)
