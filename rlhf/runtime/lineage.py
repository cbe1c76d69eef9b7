"""From a model back to the weights and the data that it comes from, by the stages' manifests."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rlhf.runtime.files import hash_path
from rlhf.runtime.manifest import MANIFEST, Artifact, StageManifest, maker_of

BASE_INPUTS = ("model", "actor")
"""Names of the input whose weights a stage trains on."""
State = Literal["there", "changed", "gone"]


@dataclass(frozen=True)
class Origin:
    """A file or folder, and what it was made from.

    name: what it is to that which was made from it. hash: as it was read then; None for the one
    that was asked about, where no stage has made it. directory, manifest: of the stage that
    made it, if one did. records: lines, of a JSONL file that is there.
    """

    name: str
    path: Path
    hash: str | None
    state: State
    records: int | None
    directory: Path | None
    manifest: StageManifest | None
    inputs: tuple[Origin, ...]

    @property
    def base(self) -> Origin:
        """The weights at the end of the chain, which no stage has made."""
        found = next((each for each in self.inputs if each.name in BASE_INPUTS), None)
        return self if found is None else found.base


Traced = dict[tuple[str, Path, str], Origin]
"""What has been followed already: later rounds come from earlier ones by many ways."""


def trace(path: Path) -> Origin:
    """The origin of a model directory, or of any result of a stage.

    Raises ValueError when nothing is there.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file or directory; name a model directory")
    made = maker_of(path.resolve())
    hash = recorded_hash(path.resolve(), *made) if made else None
    return _origin(path.name, path, Artifact(path=str(path), hash=hash or ""), "there", {})


def recorded_hash(path: Path, directory: Path, manifest: StageManifest) -> str | None:
    """What `hash_path` was for a stage's directory or result in it, without reading those again.

    None where that does not follow from the hashes that the manifest has.
    """
    if path != directory:
        result = manifest.outputs.get(path.relative_to(directory).as_posix())
        return result.hash if result else None
    if any((directory / name).is_dir() for name in manifest.outputs):
        return None
    digest = hashlib.sha256()
    for name, result in sorted(manifest.outputs.items()):
        digest.update(f"{name}\0{result.hash}\n".encode())
    return digest.hexdigest()


def _origin(name: str, path: Path, read: Artifact, state: State, traced: Traced) -> Origin:
    key = (name, path, read.hash)
    if key in traced:
        return traced[key]
    made = maker_of(path.resolve()) if state != "gone" else None
    directory, manifest = made if made is not None else (None, None)
    lines = path.is_file() and path.suffix == ".jsonl"
    records = sum(1 for line in path.open("rb") if line.strip()) if lines else None
    origin = Origin(name, path, read.hash or None, state, records, directory, manifest, ())
    # Nothing is made from itself: what leads back here, a judge say, was replaced by its result.
    traced[key] = replace(origin, state="changed")
    if made is not None:
        inputs = (_input(each, of, made[0], traced) for each, of in made[1].inputs.items())
        origin = replace(origin, inputs=tuple(inputs))
    traced[key] = origin
    return origin


def _input(name: str, read: Artifact, directory: Path, traced: Traced) -> Origin:
    """What a stage in `directory` has read."""
    path = now_at(read, directory)
    if path is None:
        return _origin(name, Path(read.path), read, "gone", traced)
    made = maker_of(path.resolve())
    # Weights that no stage has made are not read for this: they are large.
    now = hash_path(path) if path.is_file() else None
    if made is not None and path.is_dir():
        now = recorded_hash(path.resolve(), *made)
    state: State = "there" if now in (None, read.hash) else "changed"
    return _origin(name, path, read, state, traced)


def now_at(read: Artifact, directory: Path) -> Path | None:
    """Where it lies now that the stage in `directory` has read: in the run directory, which may
    have been moved, or where it lay then. None where it is gone."""
    recorded = Path(read.path)
    for root in directory.parents:
        if recorded.parts.count(root.name) and _is_run(root):
            last = len(recorded.parts) - recorded.parts[::-1].index(root.name)
            inside = root.joinpath(*recorded.parts[last:])
            if inside.exists():
                return inside
    return recorded if recorded.exists() else None


def run_of(place: Path) -> Path | None:
    """The run directory that a file or folder lies in; None outside of any."""
    return next(filter(_is_run, place.resolve().parents), None)


def _is_run(directory: Path) -> bool:
    """Whether its manifest is a run's, which lists stages."""
    try:
        return "stages" in json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
