"""A model directory: whole, as it was made or published, and with the tokenizer that fits."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlhf.apps.doctor.finding import Finding, judged
from rlhf.models.checkpoint import Kind, check_checkpoint, check_kind, is_adapter
from rlhf.models.files import weight_files
from rlhf.models.load import load_tokenizer
from rlhf.models.registry import spec_of
from rlhf.runtime.files import hash_path
from rlhf.runtime.manifest import StageManifest, maker_of
from rlhf.runtime.run_dir import STAGES
from rlhf.runtime.usage import GIB

PUBLISHED = ".cache/huggingface/download"
"""Where `hf download --local-dir` notes of every file what it should be: commit, hash, time."""
TEXTS = (
    "你好，世界！北京的天气很好：２５℃。",
    "Hello world, it's 42% done.\n\n  def f(x):\n\treturn x ** 2\n",
    "一点 English 和 emoji 🙂，𠮷野家",
)
"""Characters outside a vocabulary too: they go through bytes, and have to come back."""


def check(
    directory: Path, architecture: str | None = None, kinds: Sequence[Kind] = ()
) -> Iterator[Finding]:
    """Files, hashes and tokenizer; after a fault in the files nothing more is looked at.

    architecture: the registry's name that a config gives it, if any. kinds: what it must be.
    """
    files = judged("model", lambda: _whole(directory, architecture, kinds))
    yield files
    if files.level == "ok":
        yield judged("hashes", lambda: _unchanged(directory))
        yield judged("tokenizer", lambda: round_trip(directory))


def _whole(directory: Path, architecture: str | None, kinds: Sequence[Kind]) -> str:
    for kind in kinds if directory.is_dir() else ():
        check_kind(directory, kind)
    check_checkpoint(directory, architecture)
    files = weight_files(directory)
    size = sum(file.stat().st_size for file in files) / GIB
    over = "adapter over " if is_adapter(directory) else ""
    count = len([file for file in files if file.suffix != ".json"])
    described = f"{over}{spec_of(directory).name}, {count} file{'s' * (count > 1)} of weights"
    return f"{directory}: {described}, {size:.3g} GiB, none truncated"


def _unchanged(directory: Path) -> str:
    """By what is known: the manifest of the stage that made it, the hub's records, checksums."""
    made = maker_of(directory)
    if made is not None:
        return _as_made(directory, *made)
    records = {file: _record(directory, file) for file in weight_files(directory)}
    known = {file: hash for file, hash in records.items() if hash}
    for file, expected in known.items():
        if hash_path(file) != expected:
            raise ValueError(f"{file}: not as it was published; download it again")
    if known:
        return f"{len(known)} of {len(records)} files as published (by the hub's own records)"
    archives = [file for file in records if file.suffix == ".bin"]
    for file in archives:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{file}: damaged ({damaged} fails its checksum); copy it again")
    if archives:
        return f"the checksums in {len(archives)} .bin files are right"
    return "nothing to compare with: no manifest, and no records of the hub's, lie beside them"


def _as_made(directory: Path, stage: Path, manifest: StageManifest) -> str:
    """Every output that `directory` is, has or lies in, as when the stage had finished."""
    if manifest.status != "done":
        raise ValueError(f"{stage}: stage {manifest.stage} has not finished; run it to its end")
    inside = directory.resolve().relative_to(stage.resolve()).parts
    names = [name for name in manifest.outputs if not inside or name == inside[0]]
    changed = [
        name
        for name in names
        if not (stage / name).exists() or hash_path(stage / name) != manifest.outputs[name].hash
    ]
    if changed:
        at = stage / changed[0]
        wrong = "not as it was made" if at.exists() else "missing"
        by = "--redo" if manifest.stage in STAGES else "rlhf"
        raise ValueError(f"{at}: {wrong}; restore it, or make it again with {by} {manifest.stage}")
    return f"as stage {manifest.stage} made them, by its manifest.json"


def _record(directory: Path, file: Path) -> str | None:
    """The published sha256 of a file, where the hub's client has written one down."""
    note = directory / PUBLISHED / f"{file.name}.metadata"
    lines = note.read_text(encoding="utf-8").splitlines() if note.is_file() else []
    hashes = [line for line in lines[1:2] if re.fullmatch("[0-9a-f]{64}", line)]
    return hashes[0] if hashes else None


def round_trip(directory: Path) -> str:
    """Text into ids and back; raises ValueError for a text that does not come back as it was."""
    tokenizer = load_tokenizer(directory)
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if back != text:
            raise ValueError(
                f"{directory}: its tokenizer turns {text!r} into {back!r}; copy the tokenizer's "
                "files from the original checkpoint"
            )
    return f"{len(tokenizer)} tokens; Chinese, English, code and emoji come back as they were"
