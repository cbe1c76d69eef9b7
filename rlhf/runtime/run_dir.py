"""The run directory: where stages write, what they made from what, one process at a time.

A stage directory says of itself in `manifest.json` what made it; the run's own `manifest.json`
lists all of them under `stages`, by their path in the run directory.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rlhf.runtime.files import ANSWERS, CHECKPOINTS, hash_path, result_names, write_text
from rlhf.runtime.holder import this_process

MANIFEST = "manifest.json"
BETWEEN = ".exchanged"
STAGES = ("sft", "collect", "dpo", "rm", "ppo", "evaluate")
EACH_ROUND = ("collect", "dpo", "rm", "ppo")
"""Stages that every round has for itself."""


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

    def _reads(self, inputs: Mapping[str, Artifact]) -> bool:
        return {name: item.hash for name, item in self.inputs.items()} == {
            name: item.hash for name, item in inputs.items()
        }


@dataclass(frozen=True)
class RunDir:
    """A run's directory. Nothing is created before something is written.

    lenders: other runs' directories, whose finished stages are borrowed where this run would make
    the same ones.
    """

    root: Path
    lenders: tuple[Path, ...] = ()

    @property
    def data(self) -> Path:
        return self.root / "data"

    def stage(self, name: str, round: int | None = None, rounds: int = 1) -> Path:
        """Directory of a stage, such as "rm" or "sft/main"; earlier ones are in rounds/<round>/."""
        return self.root / self.key(name, round, rounds)

    def key(self, name: str, round: int | None = None, rounds: int = 1) -> str:
        """The stage's path in the run directory, which is its name in the run's manifest."""
        earlier = round is not None and round < rounds and name.split("/")[0] in EACH_ROUND
        return f"rounds/{round}/{name}" if earlier else name

    def stage_of(self, path: Path) -> str | None:
        """Name of the stage that makes `path`; None outside the stages' directories."""
        if not path.is_relative_to(self.root):
            return None
        return next((part for part in path.relative_to(self.root).parts if part in STAGES), None)

    def manifests(self) -> dict[str, StageManifest]:
        """Every stage that has begun, by key."""
        path = self.root / MANIFEST
        if not path.is_file():
            return {}
        try:
            stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
            return {key: StageManifest.model_validate(stage) for key, stage in stages.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{path}: damaged; remove it, and it is made again of the stages' own as they are "
                "reused"
            ) from None

    def record(self, directory: Path, manifest: StageManifest) -> None:
        """Write the manifest into the stage's directory and into the run's list."""
        write_text(directory / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        self._list(directory, manifest)

    def is_done(self, name: str, round: int | None = None, rounds: int = 1) -> bool:
        """Whether the stage has run to its end, in every directory that it has."""
        key = self.key(name, round, rounds)
        found = [
            manifest
            for other, manifest in self.manifests().items()
            if other == key or other.startswith(f"{key}/")
        ]
        return bool(found) and all(manifest.status == "done" for manifest in found)

    def borrow(
        self, directory: Path, stage: str, config_hash: str, inputs: Mapping[str, Artifact]
    ) -> StageManifest | None:
        """Link `directory` to a lender's finished stage of this config and these inputs.

        Returns its manifest; None where no lender has such a stage, or the directory is there.
        """
        for root in () if directory.exists() else self.lenders:
            for key, manifest in RunDir(root).manifests().items():
                if manifest.stage == stage and is_finished(root / key, config_hash, inputs):
                    parent = directory.parent
                    parent.mkdir(parents=True, exist_ok=True)
                    lent = os.path.relpath((root / key).resolve(), parent.resolve())
                    directory.symlink_to(lent, target_is_directory=True)
                    self._list(directory, manifest)
                    return manifest
        return None

    def set_aside(self, directory: Path) -> None:
        """Move a stage's results to aside/, in place of those there, so that it starts afresh.

        Of a borrowed stage only the link moves. An attempt that has come to nothing, such as one
        that was refused its input, replaces none: it is removed.
        """
        if not directory.exists() and not directory.is_symlink():
            return
        key = directory.relative_to(self.root).as_posix()
        target = self._aside(directory)
        if directory.is_symlink() or _holds_work(directory) or not target.exists():
            if target.is_symlink():
                target.unlink()
            elif target.exists():
                shutil.rmtree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            directory.rename(target)
        else:
            shutil.rmtree(directory)
        self._write_list(
            {
                other: manifest
                for other, manifest in self.manifests().items()
                if other != key and not other.startswith(f"{key}/")
            }
        )

    def has_aside(self, directory: Path, config_hash: str, inputs: Mapping[str, Artifact]) -> bool:
        """Whether what was set aside of a stage is finished, of this config and these inputs."""
        return is_finished(self._aside(directory), config_hash, inputs)

    def take_back(self, directory: Path) -> StageManifest:
        """Change places: what was set aside of a stage for what is there now. Its manifest."""
        kept = self._aside(directory)
        between = kept.with_name(f".{kept.name}{BETWEEN}")
        kept.rename(between)
        self.set_aside(directory)
        return self._put_back(between, directory)

    def _put_back(self, between: Path, directory: Path) -> StageManifest:
        manifest = read_manifest(between)
        assert manifest is not None, "it was found to be finished"
        self._list(directory, manifest)
        between.rename(directory)
        return manifest

    def _end_exchanges(self) -> None:
        """Of a process that was killed in `take_back`: ended if the place is free, else undone."""
        for between in sorted((self.root / "aside").glob(f"**/.*{BETWEEN}")):
            kept = between.with_name(between.name.removesuffix(BETWEEN)[1:])
            directory = self.root / kept.relative_to(self.root / "aside")
            if directory.exists() or directory.is_symlink():
                between.rename(kept)
            else:
                self._put_back(between, directory)

    def _aside(self, directory: Path) -> Path:
        return self.root / "aside" / directory.relative_to(self.root)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out of this run directory; the lock of a dead process is void.

        Raises ValueError when another process is running it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        # The system drops this lock with its process, so there is no stale one to take over.
        with (self.root / ".lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise ValueError(
                    f"{self.root}: in use by {file.read().strip() or 'another process'}; wait for "
                    "it, or give this run another directory with --set name=..."
                ) from None
            file.truncate(0)
            file.write(this_process())
            file.flush()
            self._end_exchanges()
            yield

    def _list(self, directory: Path, manifest: StageManifest) -> None:
        key = directory.relative_to(self.root).as_posix()
        self._write_list(self.manifests() | {key: manifest})

    def _write_list(self, stages: Mapping[str, StageManifest]) -> None:
        content = {"stages": {key: stage.model_dump() for key, stage in stages.items()}}
        write_text(self.root / MANIFEST, json.dumps(content, indent=2) + "\n")


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


def _holds_work(directory: Path) -> bool:
    """Whether a stage directory has results in it, people's answers, or a checkpoint to go on
    from."""
    kept = [*result_names(directory), *directory.glob(ANSWERS)]
    checkpoints = directory / CHECKPOINTS
    return bool(kept) or (checkpoints.is_dir() and any(checkpoints.iterdir()))


def outputs_of(directory: Path) -> dict[str, Artifact]:
    """Every result in a stage directory, by name."""
    return {name: Artifact.of(directory / name) for name in result_names(directory)}
