"""What a config names: models, data files, room for its run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from rlhf.apps.doctor import checkpoint, disk
from rlhf.apps.doctor.finding import Finding, judged
from rlhf.apps.world import wanted_kinds
from rlhf.config.capabilities import CapabilitySection
from rlhf.config.schema import Config
from rlhf.data.curation import Verdict
from rlhf.data.jsonl import Record, read_all
from rlhf.data.prepare import KINDS
from rlhf.data.records import RankingRecord, TextRecord
from rlhf.data.taxonomy import Taxonomy
from rlhf.evaluation.harness import count_questions, harness_version
from rlhf.runtime.run_dir import STAGES
from rlhf.training.rankings import check_given

OWN = ("run://", "demo://")
"""What the run makes for itself."""


def check(config: Config) -> Iterator[Finding]:
    """Every model and file that the user brings, then the disk."""
    wanted = wanted_kinds(config)
    for path, architecture in models(config).items():
        kinds = [kind for named, kind in wanted if named == path]
        yield from checkpoint.check(Path(path), architecture, kinds)
    files = [([path], kind) for path, kind in data_files(config).items()]
    if held_out := [path for path in config.rm.data.held_out if not path.startswith(OWN)]:
        files.append((held_out, RankingRecord))
    found = [judged("data", partial(count, paths, kind)) for paths, kind in files]
    yield from found
    if all(each.level == "ok" for each in found):
        yield from families(config)
    if config.data.taxonomy is not None:
        yield judged("taxonomy", partial(taxonomy, config.data.taxonomy))
    yield judged("disk", lambda: disk.check(config))


def models(config: Config) -> dict[str, str | None]:
    """Directory -> the architecture that the config gives it, if any."""
    given = [config.annotation.judge, config.rm.model, config.evaluate.judge]
    given += [config.ppo.actor, config.ppo.reward_model, config.ppo.judge]
    given += [entry.path for entry in config.collect.models]
    given += [config.dpo.model] if config.dpo else []
    found: dict[str, str | None] = {path: None for path in given if path}
    found |= {entry.path: entry.architecture for entry in config.models.values()}
    return {path: name for path, name in found.items() if not path.startswith(OWN)}


def data_files(config: Config) -> dict[str, type[Record]]:
    """File -> what its lines are; without `rm.data.held_out`, whose files count as one."""
    data, found = config.data, dict[str | None, type[Record]]()
    for kind, record in KINDS.items():
        found |= {getattr(data, kind): record, getattr(data, f"{kind}_eval"): record}
    found |= {data.audits: Verdict}
    if config.ppo.pretraining is not None:
        found[config.ppo.pretraining.data] = TextRecord
    return {path: kind for path, kind in found.items() if path and not path.startswith(OWN)}


def count(paths: Sequence[str], kind: type[Record]) -> str:
    """Reads files that count as one to their end; raises ValueError for the first line that is no
    such record, or has the id of an earlier one."""
    if missing := [path for path in paths if not Path(path).is_file()]:
        absent = ", ".join(missing)
        raise ValueError(f"{absent}: no such file; put it there, or correct the path in the config")
    number = sum(1 for _ in read_all([Path(path) for path in paths], kind))
    return f"{', '.join(paths)}: {number} records, all of them valid"


def families(config: Config) -> Iterator[Finding]:
    """A fault where rankings are of models that the reward model may not learn from."""
    try:
        check_given(config, config.stages or STAGES)
    except ValueError as error:
        yield Finding("fault", "data", str(error))


def taxonomy(path: str) -> str:
    """Raises ValueError when the file is no taxonomy."""
    categories = Taxonomy.load(path).levels[-1]
    return f"{path}: {len(categories)} tertiary categories"


def benchmarks(section: CapabilitySection) -> str:
    """Reads every question, from the hub or its cache; raises ValueError where that fails."""
    count, tasks = count_questions(section), ", ".join(section.tasks)
    return f"{tasks}: {count} questions can be read, by {harness_version()}"
