"""What `execute` would do with a step, without doing it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal, NamedTuple

from rlhf.runtime.distributed import Runtime
from rlhf.runtime.manifest import Artifact, StageManifest, is_finished, is_usable, read_manifest
from rlhf.runtime.steps import Step, check_others, input_of


class Outlook(NamedTuple):
    action: Literal["reuse", "resume", "run"]
    reason: str


def outlook(step: Step, runtime: Runtime, coming: Collection[Path]) -> Outlook:
    """What would become of a step, and why.

    coming: files and folders that are made before it, and may differ from what is there now.

    Raises:
        ValueError: an input is not there, and nothing makes it.
    """
    place = runtime.run_dir.last_round(step.directory) or step.directory
    before = read_manifest(place)
    if made := check_others(step, runtime, coming):
        text = f"{_listed(made)} made anew first"
        if before is not None and before.status == "done":
            text += "; reused if equal to before"
        return Outlook("run", text)
    inputs = {name: input_of(step, name, runtime) for name in step.inputs}
    config_hash = step.config_hash
    if place != step.directory and not is_usable(place, config_hash, step.resume_hash, inputs):
        before = None
    if before is None:
        return Outlook("run", "not begun")
    if is_finished(place, config_hash, inputs):
        return Outlook("reuse", f"config and inputs are those of {before.finished}")
    if before.resumes(step.resume_hash, inputs) and before.config_hash != config_hash:
        text = f"{before.status} since {before.started}; only what watches it has changed"
        return Outlook("resume", text)
    if not before.matches(config_hash, inputs):
        hashes = config_hash, step.resume_hash
        found = runtime.run_dir.found_aside(step.directory, *hashes, inputs)
        kept = read_manifest(found) if found else None
        if kept is not None:
            action: Literal["reuse", "resume"] = "reuse" if kept.status == "done" else "resume"
            return Outlook(action, "taken back from aside/")
        return Outlook("run", f"{_changes(before, config_hash, inputs)}; old results go to aside/")
    if before.status == "done":
        gone = [name for name in before.outputs if not (place / name).exists()]
        return Outlook("run", f"{_listed(gone)} is no longer there")
    return Outlook("resume", f"{before.status} since {before.started}")


def _changes(before: StageManifest, config_hash: str, inputs: dict[str, Artifact]) -> str:
    """What is not as it was when the step began."""
    names = sorted(before.inputs.keys() | inputs.keys())
    hashes = [(before.inputs.get(name), inputs.get(name)) for name in names]
    changed = [
        name
        for name, (old, new) in zip(names, hashes, strict=True)
        if old is None or new is None or old.hash != new.hash
    ]
    parts = ["its config changed"] if before.config_hash != config_hash else []
    return " and ".join(parts + ([f"{_listed(changed)} changed"] if changed else []))


def _listed(names: list[str]) -> str:
    return ", ".join(names)
