"""A run's state without whole weights, from a machine that may go away, and onto the next one.

    python benchmarks/smollm2/state.py pack WORK OUT [--files 7] [--mib 15.5]
    python benchmarks/smollm2/state.py restore WORK STATE

pack writes logs.tar.xz (everything of the runs but weights, checkpoints and tokenizers, which are
the base's), and adapters-N.tar, the adapters in order of what is dear to make again, as many as fit
into so many files of so many MiB. What has no room is made again. result.json of finished seeds is
in the logs.

restore unpacks them over WORK, where weights/ has been made anew, and merges every adapter into its
base, as the stage that saved it did. A model whose bits come out otherwise than its manifest says
is taken away, so that its stage runs again.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import PeftModel
from safetensors import safe_open

from rlhf.models.adapter import cast_adapters
from rlhf.models.export import ADAPTER, merge_adapter
from rlhf.models.load import load_causal_lm
from rlhf.runtime.files import CHECKPOINTS, hash_path
from rlhf.runtime.manifest import maker_of, read_manifest

MIB = 2**20
WEIGHTS = "adapter_model.safetensors"
WHOLE = "model.safetensors"
TOKENIZER = "tokenizer.json"
INDEX = "state.json"
PACKING = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 32 * MIB}]
"""Quick, and looking back far enough to see that rankings repeat their tasks."""
SKIPPED = (CHECKPOINTS, "tensorboard", "aside", "critic")
ORDER = ("smollm2_judge", "smollm2_100m", "sft/main", "sft/small", "rm", "ppo/actor", "dpo")
"""The judge first, without which nothing goes on as it was; then what most stages start from."""


@dataclass(frozen=True)
class Merged:
    """A whole model that an adapter makes: its place, its base's, and the hash of its weights."""

    path: str
    base: str
    dtype: str
    hash: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("pack", "restore"))
    parser.add_argument("work", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=7)
    parser.add_argument("--mib", type=float, default=15.5)
    arguments = parser.parse_args()
    if arguments.action == "pack":
        print(pack(arguments.work, arguments.folder, arguments.files, arguments.mib))
    else:
        print(restore(arguments.work, arguments.folder))


def pack(work: Path, out: Path, files: int = 7, mib: float = 15.5) -> str:
    """Writes the state of WORK's runs into `out`; says what it has and what it left."""
    out.mkdir(parents=True, exist_ok=True)
    runs = work / "runs"
    merged = [asdict(each) for each in _merged(work)]
    base = hash_path(work / "weights/smollm2_135m" / TOKENIZER)
    tokenizers = [
        _name(path, work)
        for path in _kept(runs)
        if path.name == TOKENIZER and hash_path(path) == base
    ]
    index = work / INDEX
    index.write_text(json.dumps({"merged": merged, "tokenizers": tokenizers}, indent=1) + "\n")
    with (
        lzma.open(out / "logs.tar.xz", "wb", filters=PACKING) as packed,
        tarfile.open(fileobj=packed, mode="w") as logs,
    ):
        for path in (index, work / "hardware.json", *sorted((work / "logs").glob("*.log"))):
            if path.is_file():
                logs.add(path, _name(path, work))
        for path in _kept(runs):
            if path.suffix != ".safetensors" and _name(path, work) not in tokenizers:
                logs.add(path, _name(path, work))
    bins: list[list[Path]] = []
    left = []
    for adapter in sorted(runs.rglob(WEIGHTS), key=_rank):
        if set(adapter.relative_to(runs).parts) & set(SKIPPED) or _spent(adapter):
            continue
        room = next((each for each in bins if _size([*each, adapter]) <= mib * MIB), None)
        if room is None and len(bins) < files and _size([adapter]) <= mib * MIB:
            bins.append(room := [])
        if room is None:
            left.append(_name(adapter.parent, work))
        else:
            room.append(adapter)
    for number, adapters in enumerate(bins):
        with tarfile.open(out / f"adapters-{number}.tar", "w") as archive:
            for adapter in adapters:
                archive.add(adapter, _name(adapter, work))
    size = sum(path.stat().st_size for path in out.iterdir()) / MIB
    count, without = sum(map(len, bins)), ", ".join(left) or "none"
    return f"state: {count} adapters, {size:.1f} MiB; without {without}"


def restore(work: Path, state: Path) -> str:
    """Unpacks the state over `work` and merges what it can; says what will be made again."""
    for archive in sorted(state.glob("*.tar*")):
        with tarfile.open(archive) as opened:
            opened.extractall(work, filter="data")
    index = json.loads((work / INDEX).read_text())
    for name in index["tokenizers"]:
        shutil.copyfile(work / "weights/smollm2_135m" / TOKENIZER, work / name)
    again = []
    before = Path.cwd()
    os.chdir(work)  # the runs' own paths are relative to it
    try:
        for entry in index["merged"]:
            merged = Merged(**entry)
            if not _made_again(merged):
                (Path(merged.path) / WHOLE).unlink(missing_ok=True)
                again.append(merged.path)
    finally:
        os.chdir(before)
    return (
        f"state: {len(index['merged']) - len(again)} models as they were; again: {again or 'none'}"
    )


def _made_again(merged: Merged) -> bool:
    """Whether the merged weights lie there now, with the bits that they had."""
    path, adapter = Path(merged.path), Path(merged.path) / ADAPTER
    if not (adapter / WEIGHTS).is_file() or not (Path(merged.base) / WHOLE).is_file():
        return False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, merged.dtype)
    model = load_causal_lm(merged.base, dtype=dtype, device=device)
    adapted = PeftModel.from_pretrained(model, str(adapter))
    # PEFT has them in float32 now; they are folded in the type that they were saved in.
    with safe_open(adapter / WEIGHTS, "pt") as file:
        cast_adapters(adapted, file.get_tensor(next(iter(file.keys()))).dtype)
    whole = merge_adapter(adapted)
    # The configuration stays as its stage saved it: reward models know their trunk by it too.
    with TemporaryDirectory(dir=path) as made:
        whole.save_pretrained(made)
        (Path(made) / WHOLE).replace(path / WHOLE)
    return hash_path(path / WHOLE) == merged.hash


def _merged(work: Path) -> Iterator[Merged]:
    """Every finished model with an adapter beside it, bases before what stands on them."""
    found = sorted((work / "runs").rglob(f"{ADAPTER}/{WEIGHTS}"), key=_rank)
    for adapter in found:
        folder = adapter.parent.parent
        if set(folder.relative_to(work / "runs").parts) & set(SKIPPED):
            continue
        made = maker_of(folder)
        manifest = read_manifest(made[0]) if made else None
        if manifest is None or manifest.status != "done" or not (folder / WHOLE).is_file():
            continue
        base = manifest.inputs["actor" if folder.name == "actor" else "model"].path
        dtype = json.loads((folder / "config.json").read_text())["dtype"]
        yield Merged(_name(folder, work), base, dtype, hash_path(folder / WHOLE))


def _kept(runs: Path) -> Iterator[Path]:
    """What is brought home; `data/` of a run is prepared again, to the same bytes."""
    for path in sorted(runs.rglob("*")):
        parts = path.relative_to(runs).parts
        skipped = set(parts) & {*SKIPPED, "parts"} or parts[1:2] == ("data",)
        if path.is_file() and not path.is_symlink() and not skipped and path.name[0] != ".":
            yield path


def _spent(adapter: Path) -> bool:
    """Whether nothing will read it again: the small size's, once responses are collected."""
    run = next((p for p in adapter.parents if p.parent.name == "runs"), adapter)
    collected = read_manifest(run / "collect")
    finished = (run / "result.json").is_file()
    small = "small" in adapter.parts and collected is not None and collected.status == "done"
    return small or finished


def _rank(path: Path) -> tuple[int, str]:
    name = path.as_posix()
    places = [place for place, part in enumerate(ORDER) if f"/{part}" in name]
    return (min(places) if places else len(ORDER), name)


def _size(paths: list[Path]) -> int:
    return sum(path.stat().st_size + 1024 for path in paths) + 10240


def _name(path: Path, work: Path) -> str:
    return path.relative_to(work).as_posix()


if __name__ == "__main__":
    main()
