"""What a stage directory says of itself, in its `manifest.json`: what made it from what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rlhf.runtime.files import hash_path, result_names

MANIFEST = "manifest.json"
SIMULATED = "simulated_rankings"
"""Of a summary: how many of the rankings that a model learnt from are of simulated annotators."""


class Artifact(BaseModel):
    """A file or folder that a stage read or wrote."""

    model_config = ConfigDict(frozen=True)

    path: str
    hash: str

    @classmethod
    def of(cls, path: Path) -> Artifact:
        """Raises ValueError when nothing is there."""
        return cls(path=str(path), hash=hash_path(path))


class StageManifest(BaseModel):
    """What made a stage directory. Times are in UTC, ISO 8601.

    resume_hash: of the config values that unfinished work depends on. resumed: config hashes of the
    attempts that this one went on from, where they were others.
    started: the first attempt. seconds, cpu_seconds: summed over the attempts, those that were
    killed left out. peak_memory_gib: the largest of theirs.
    """

    model_config = ConfigDict(frozen=True)

    stage: str
    status: Literal["running", "waiting", "done"]
    config_hash: str
    resume_hash: str | None = None
    resumed: tuple[str, ...] = ()
    inputs: dict[str, Artifact]
    outputs: dict[str, Artifact] = {}
    versions: dict[str, str]
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_gib: float = 0.0
    started: str
    finished: str | None = None
    summary: dict[str, float | int | str | None] = {}

    def matches(self, config_hash: str, inputs: Mapping[str, Artifact]) -> bool:
        """Whether the directory comes from this config and these inputs, wherever they lie."""
        return self.config_hash == config_hash and self._reads(inputs)

    def resumes(self, resume_hash: str, inputs: Mapping[str, Artifact]) -> bool:
        """Whether unfinished work of such a config and of these inputs can go on from here."""
        return self.status != "done" and self.resume_hash == resume_hash and self._reads(inputs)

    def is_of(self, config_hash: str, resume_hash: str, inputs: Mapping[str, Artifact]) -> bool:
        """Whether a step of these goes on in this directory, rather than afresh in another."""
        return self.matches(config_hash, inputs) or self.resumes(resume_hash, inputs)

    def _reads(self, inputs: Mapping[str, Artifact]) -> bool:
        return {name: item.hash for name, item in self.inputs.items()} == {
            name: item.hash for name, item in inputs.items()
        }


def read_manifest(directory: Path) -> StageManifest | None:
    """The manifest of a stage directory; None when it is not one."""
    try:
        return StageManifest.model_validate_json((directory / MANIFEST).read_text("utf-8"))
    except (OSError, ValidationError):
        return None


def maker_of(path: Path) -> tuple[Path, StageManifest] | None:
    """The stage directory that `path` is or lies in, and its manifest; None outside of any."""
    found = ((folder, read_manifest(folder)) for folder in (path, *path.parents))
    return next(((folder, manifest) for folder, manifest in found if manifest is not None), None)


def is_finished(directory: Path, config_hash: str, inputs: Mapping[str, Artifact]) -> bool:
    """Whether the stage is done from this config and inputs, and its outputs are still there."""
    manifest = read_manifest(directory)
    return (
        manifest is not None
        and manifest.status == "done"
        and manifest.matches(config_hash, inputs)
        and all((directory / name).exists() for name in manifest.outputs)
    )


def is_usable(
    directory: Path, config_hash: str, resume_hash: str, inputs: Mapping[str, Artifact]
) -> bool:
    """Whether it is finished from this config and these inputs, or can go on to be."""
    manifest = read_manifest(directory)
    unfinished = manifest is not None and manifest.status != "done"
    if manifest is not None and unfinished:
        return manifest.is_of(config_hash, resume_hash, inputs)
    return is_finished(directory, config_hash, inputs)


def outputs_of(directory: Path) -> dict[str, Artifact]:
    """Every result in a stage directory, by name."""
    return {name: Artifact.of(directory / name) for name in result_names(directory)}
