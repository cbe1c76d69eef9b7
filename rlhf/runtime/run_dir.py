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
from itertools import count
from pathlib import Path

from rlhf.runtime.aside import BETWEEN, between, holds_work, made_by_hand, newest
from rlhf.runtime.files import make_folder, write_text
from rlhf.runtime.holder import this_process
from rlhf.runtime.manifest import (
    MANIFEST,
    Artifact,
    StageManifest,
    is_finished,
    is_usable,
    read_manifest,
)

STAGES = ("sft", "collect", "dpo", "rm", "ppo", "evaluate")
EACH_ROUND = ("collect", "dpo", "rm", "ppo")
"""Stages that every round has for itself."""


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
        self.enlist(directory, manifest)

    def enlist(self, directory: Path, manifest: StageManifest) -> None:
        """Have the run's list say of a stage what its directory says."""
        key, listed = directory.relative_to(self.root).as_posix(), self.manifests()
        if listed.get(key) != manifest:
            self._write_list(listed | {key: manifest})

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
                    self.enlist(directory, manifest)
                    return manifest
        return None

    def set_aside(self, directory: Path) -> None:
        """Move a stage's results to aside/, in place of those there, so that it starts afresh.

        What people may have ranked is not replaced: it moves on to aside/2/, aside/3/, ... Of a
        borrowed stage only the link moves. An attempt that has come to nothing, such as one that
        was refused its input, replaces none: it is removed.
        """
        if not directory.exists() and not directory.is_symlink():
            return
        key = directory.relative_to(self.root).as_posix()
        target = self._aside(directory)
        if directory.is_symlink() or holds_work(directory) or not target.exists():
            if target.is_symlink():
                target.unlink()
            elif target.exists() and made_by_hand(target):
                further = self._further_aside(directory)
                further.parent.mkdir(parents=True, exist_ok=True)
                target.rename(further)
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

    def found_aside(
        self, directory: Path, config_hash: str, resume_hash: str, inputs: Mapping[str, Artifact]
    ) -> Path | None:
        """What was set aside of a stage and is of this config and these inputs: finished, or else
        to go on from; of several, what was begun last. None where there is no such."""
        key = directory.relative_to(self.root)
        places = [self._aside(directory), *(self.root / "aside").glob(f"[0-9]*/{key}")]
        fitting = [place for place in places if is_usable(place, config_hash, resume_hash, inputs)]
        return newest(fitting, self.root / "aside")

    def to_earlier_round(
        self, directory: Path, config_hash: str, resume_hash: str, inputs: Mapping[str, Artifact]
    ) -> StageManifest | None:
        """Move a stage here from the run's own folder, where it lies as the last round's, now that
        a round comes behind it.

        Returns its manifest; None where none lies there that is of this config and these inputs.
        """
        last = self.last_round(directory)
        if last is None or not is_usable(last, config_hash, resume_hash, inputs):
            return None
        manifest = read_manifest(last)
        assert manifest is not None, "it is usable by it"
        listed = self.manifests()
        listed.pop(last.relative_to(self.root).as_posix(), None)
        self._write_list(listed | {directory.relative_to(self.root).as_posix(): manifest})
        directory.parent.mkdir(parents=True, exist_ok=True)
        last.rename(directory)
        return manifest

    def last_round(self, directory: Path) -> Path | None:
        """Where an earlier round's stage lies that is not in its own folder; None for the last
        round's and for those that are. A borrowed one stays: its link leads from there."""
        key = directory.relative_to(self.root).parts
        if key[0] != "rounds" or directory.exists() or directory.is_symlink():
            return None
        last = self.root.joinpath(*key[2:])
        return None if last.is_symlink() else last

    def take_back(self, directory: Path, kept: Path) -> StageManifest:
        """Change places: `kept`, set aside of a stage, for what is there now. Its manifest."""
        moving = between(kept)
        kept.rename(moving)
        self.set_aside(directory)
        return self._put_back(moving, directory)

    def _put_back(self, moving: Path, directory: Path) -> StageManifest:
        manifest = read_manifest(moving)
        assert manifest is not None, "it was found by it"
        self.enlist(directory, manifest)
        moving.rename(directory)
        return manifest

    def _end_exchanges(self) -> None:
        """Of a process that was killed in `take_back`: ended if the place is free, else undone."""
        for moving in sorted((self.root / "aside").glob(f"**/.*{BETWEEN}")):
            kept = moving.with_name(moving.name.removesuffix(BETWEEN)[1:])
            key = kept.relative_to(self.root / "aside").parts
            directory = self.root.joinpath(*(key[1:] if key[0].isdigit() else key))
            if directory.exists() or directory.is_symlink():
                moving.rename(kept)
            else:
                self._put_back(moving, directory)

    def _aside(self, directory: Path) -> Path:
        return self.root / "aside" / directory.relative_to(self.root)

    def _further_aside(self, directory: Path) -> Path:
        """The first free place beside `_aside`, none that an exchange may end in. No key begins
        with a number."""
        key = directory.relative_to(self.root)
        places = (self.root / "aside" / str(number) / key for number in count(2))
        return next(p for p in places if not (p.exists() or between(p).exists()))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out of this run directory; the lock of a dead process is void.

        Raises ValueError when another process is running it.
        """
        make_folder(self.root)
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
            except OSError as error:
                raise ValueError(
                    f"{self.root}: this file system has no locks ({error.strerror}); mount it with "
                    "them (Lustre: -o flock), or set output_dir to another one"
                ) from None
            file.truncate(0)
            file.write(this_process())
            file.flush()
            self._end_exchanges()
            yield

    def _write_list(self, stages: Mapping[str, StageManifest]) -> None:
        content = {"stages": {key: stage.model_dump() for key, stage in stages.items()}}
        write_text(self.root / MANIFEST, json.dumps(content, indent=2) + "\n")
