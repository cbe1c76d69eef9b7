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
from rlhf.runtime.files import write_text
from rlhf.runtime.run_dir import RunDir


@contextmanager
def prepared_run(config: Config) -> Iterator[tuple[Config, RunDir]]:
    """The locked run directory with its data in it, and the config with every path resolved.

    Raises:
        ValueError: files that the config names are not there, or another process has the directory.
    """
    run_dir = RunDir(config.run_dir)
    demo_dir = run_dir.root / "demo"
    config = resolve_paths(config, {"run://": run_dir.root, "demo://": demo_dir})
    _check_named_files(config, run_dir, demo_dir)
    with run_dir.lock():
        if config.demo is not None:
            taxonomy = config.data.taxonomy or resource("data_schemas/taxonomy.yaml")
            build.build(config.demo, Taxonomy.load(taxonomy), demo_dir)
        write_text(run_dir.root / "config.yaml", dump_config(config))
        auditor = annotators.authoritative if config.demo and not config.data.audits else None
        prepare(config.data, config.sft.curation, auditor, run_dir.data, config.seed)
        yield config, run_dir


def _check_named_files(config: Config, run_dir: RunDir, demo_dir: Path) -> None:
    """One line for everything that the user has to bring and that is not there."""
    named = [entry.path for entry in config.models.values()]
    named += [entry.path for entry in config.collect.models]
    named += [path for path in config.data.model_dump().values() if isinstance(path, str)]
    given = (config.rm.model, config.ppo.actor, config.ppo.reward_model, config.evaluate.judge)
    named += [path for path in (*given, config.annotation.judge) if path]
    outside = (path for path in named if not Path(path).is_relative_to(run_dir.root))
    missing = [path for path in dict.fromkeys(outside) if not Path(path).exists()]
    if missing:
        raise ValueError(
            f"{config.name}: not there: {', '.join(missing)}; put them in place or correct the "
            "paths in the config (--rehearse runs it without any of them)"
        )
