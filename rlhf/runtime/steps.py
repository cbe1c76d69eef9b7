"""One step of a run: reused when it is finished, resumed when it is not, and written down.

A step is what one directory comes from: its config sections, its inputs, and the work. A stage has
one step, SFT one for each model.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhf.runtime.distributed import (
    Runtime,
    StageResult,
    Summary,
    barrier,
    once,
    seed_everything,
)
from rlhf.runtime.files import CHECKPOINTS, hash_section, sync_results, write_text
from rlhf.runtime.manifest import (
    MANIFEST,
    Artifact,
    StageManifest,
    is_finished,
    maker_of,
    outputs_of,
    read_manifest,
)
from rlhf.runtime.metrics import stage_table
from rlhf.runtime.quiet import warnings_on
from rlhf.runtime.usage import Meter, Usage, versions

__all__ = ["StageResult", "Step", "Summary", "Waiting", "execute"]

_KEPT = ("started", "seconds", "cpu_seconds", "peak_memory_gib", "resumed")
"""What a manifest keeps of the attempts before, as far as these could still write it down."""


class Waiting(Exception):
    """Raised by work that cannot go on before somebody does something; the message says what."""


@dataclass(frozen=True)
class Step:
    """A unit of work with its own directory.

    key: its name in the run's manifest. sections: the config values that it depends on. inputs: the
    files and folders that it reads, by name. work: writes into `directory`, returns a summary.
    lasting: those of the values that a change of makes unfinished work start afresh; None: all.
    """

    key: str
    stage: str
    directory: Path
    sections: tuple[Any, ...]
    inputs: dict[str, Path]
    work: Callable[[Step], Summary]
    lasting: tuple[Any, ...] | None = None

    @property
    def config_hash(self) -> str:
        return hash_section(*self.sections)

    @property
    def resume_hash(self) -> str:
        return hash_section(*(self.sections if self.lasting is None else self.lasting))


def execute(step: Step, runtime: Runtime) -> StageResult:
    """Do a step's work unless it is done, here or in a run that lends to this one.

    Results of the same config and inputs are reused when finished and resumed when not; results of
    others are set aside first, and taken back when config and inputs are theirs again. Once a step
    is done, its directory `checkpoints` is removed. Raises ValueError when an input is not there or
    comes from a stage that has not finished.
    """
    manifest = once(lambda: _begin(step, runtime))
    if manifest.status == "done":
        _discard_checkpoints(step, runtime)  # what a crash right after finishing has left
        place = f" in {step.directory.resolve()}" if step.directory.is_symlink() else ""
        runtime.console.print(f"{step.key}: finished before{place}, reused")
        return StageResult(step.directory, manifest.summary)
    # Here, so that a step gives the same numbers whatever ran before it in this process, and has
    # the memory to itself: trainers and models stand in cycles, and would stay for a while.
    gc.collect()
    seed_everything(runtime.seed)
    meter = Meter(Usage(manifest.seconds, manifest.cpu_seconds, manifest.peak_memory_gib))
    try:
        with warnings_on(runtime.console):
            summary = step.work(step)
    except Waiting as reason:
        _record(step, runtime, manifest, meter, status="waiting")
        return StageResult(step.directory, {}, waiting=str(reason))
    except BaseException:  # Ctrl-C too: what was used until here counts
        with suppress(OSError):  # a full disk would hide what happened
            _record(step, runtime, manifest, meter, status="running")
        raise
    barrier()
    _record(step, runtime, manifest, meter, status="done", summary=dict(summary))
    _discard_checkpoints(step, runtime)
    return StageResult(step.directory, summary)


def _begin(step: Step, runtime: Runtime) -> StageManifest:
    """The finished step's manifest, or a new one that says it is running."""
    inputs = {name: input_of(step, name, runtime) for name in step.inputs}
    config_hash, resume_hash = step.config_hash, step.resume_hash
    before = read_manifest(step.directory) or _of_earlier_round(step, runtime, inputs)
    if before is None and (step.directory / MANIFEST).is_file():
        runtime.console.print(f"{step.key}: its {MANIFEST} is damaged; what is there is in aside/")
        runtime.run_dir.set_aside(step.directory)
    if before is not None and is_finished(step.directory, config_hash, inputs):
        runtime.run_dir.enlist(step.directory, before)  # a crash may have come before that
        return before
    if before is not None and not before.is_of(config_hash, resume_hash, inputs):
        before = _exchange(step, runtime, inputs)
        if before is not None and before.status == "done":
            return before
    if step.directory.is_symlink():
        step.directory.unlink()  # borrowed, and its lender has begun it afresh
    lent = runtime.run_dir.borrow(step.directory, step.stage, config_hash, inputs)
    if lent is not None:
        return lent
    manifest = StageManifest(
        stage=step.stage,
        status="running",
        config_hash=config_hash,
        resume_hash=resume_hash,
        inputs=inputs,
        versions=versions(),
        started=_now(),
    )
    if before is not None and before.status != "done":
        manifest = manifest.model_copy(update={name: getattr(before, name) for name in _KEPT})
        if before.config_hash != config_hash:
            runtime.console.print(f"{step.key}: goes on under changed settings of what watches it")
            hashes = (*before.resumed, before.config_hash)
            manifest = manifest.model_copy(update={"resumed": hashes})
    runtime.run_dir.record(step.directory, manifest)
    return manifest


def _of_earlier_round(
    step: Step, runtime: Runtime, inputs: Mapping[str, Artifact]
) -> StageManifest | None:
    """Results that were the last round's until `rounds` was raised."""
    hashes = step.config_hash, step.resume_hash
    moved = runtime.run_dir.to_earlier_round(step.directory, *hashes, inputs)
    if moved is not None:
        runtime.console.print(f"{step.key}: was the last round's, now lies in {step.directory}")
    return moved


def _exchange(step: Step, runtime: Runtime, inputs: Mapping[str, Artifact]) -> StageManifest | None:
    """Set another config's results aside, for those of this one where they lie there: finished, or
    to go on from. The manifest of these."""
    hashes = step.config_hash, step.resume_hash
    found = runtime.run_dir.found_aside(step.directory, *hashes, inputs)
    if found is None:
        runtime.console.print(f"{step.key}: config or inputs changed; old results are in aside/")
        runtime.run_dir.set_aside(step.directory)
        return None
    runtime.console.print(f"{step.key}: taken back from aside/")
    return runtime.run_dir.take_back(step.directory, found)


def input_of(step: Step, name: str, runtime: Runtime) -> Artifact:
    """Raises ValueError when it is not there, or comes from a stage that has not finished."""
    _check_input(step, name, runtime)
    return Artifact.of(step.inputs[name])


def check_others(step: Step, runtime: Runtime, coming: Collection[Path]) -> list[str]:
    """The inputs that lie in `coming`, files and folders that are made before the step; raises
    ValueError for one of the others, as input_of does."""
    made = [
        name
        for name, path in step.inputs.items()
        if any(path.is_relative_to(folder) for folder in coming)
    ]
    for name in step.inputs:
        if name not in made:
            _check_input(step, name, runtime)
    return made


def _check_input(step: Step, name: str, runtime: Runtime) -> None:
    path = step.inputs[name]
    maker = maker_of(path)
    if maker is not None and maker[1].status != "done":
        maker_stage = maker[1].stage
        raise ValueError(
            f"{step.key} needs {path}, but stage {maker_stage} has not finished there; go on with "
            f"it first: --from {maker_stage}"
        )
    if not path.exists():
        stage = runtime.run_dir.stage_of(path)
        mend = f"run stage {stage} first: --from {stage}" if stage else "check the path"
        if stage and stage not in runtime.stages:
            mend = f"add {stage}, which makes it, to stages in the config"
        if path.parent == runtime.run_dir.data:
            mend = f"name its source in the config: data.{path.stem}"
        raise ValueError(f"{step.key} needs {path} ({name}), which is not there; {mend}")


def _record(
    step: Step,
    runtime: Runtime,
    manifest: StageManifest,
    meter: Meter,
    **changes: Any,
) -> None:
    """Bring the manifest up to date; of a finished step also write summary.json, print a table."""
    if not runtime.main_process:
        return
    done = changes["status"] == "done"
    if done:
        sync_results(step.directory)  # before it is called done, and its checkpoints go
        text = json.dumps(changes["summary"], indent=2, ensure_ascii=False)
        write_text(step.directory / "summary.json", text + "\n")
        changes |= {"outputs": outputs_of(step.directory)}
    usage = asdict(meter.read())
    finished = None if changes["status"] == "running" else _now()
    current = manifest.model_copy(update={**usage, **changes, "finished": finished})
    runtime.run_dir.record(step.directory, current)
    if done:
        rows = {**changes["summary"], **usage}
        runtime.console.print(stage_table(step.key, rows))


def _discard_checkpoints(step: Step, runtime: Runtime) -> None:
    """They are for resuming, and several times the size of the result."""
    if runtime.main_process:
        shutil.rmtree(step.directory / CHECKPOINTS, ignore_errors=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
