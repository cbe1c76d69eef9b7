from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from rlhf.config.schema import PPOSection, SFTSection
from rlhf.runtime.files import (
    LEFT,
    hash_path,
    hash_section,
    make_folder,
    result_names,
    sweep_drafts,
    write_text,
)


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_hash_of_a_file_is_that_of_its_content(tmp_path):
    fill(tmp_path, {"a": "x", "b": "x", "c": "y"})
    assert hash_path(tmp_path / "a") == hash_path(tmp_path / "b") != hash_path(tmp_path / "c")


def test_hash_of_a_folder_sees_names_and_contents(tmp_path):
    files = {"weights": "1", "deep/config": "2"}
    one = hash_path(fill(tmp_path / "one", files))
    assert one == hash_path(fill(tmp_path / "two", files))
    assert one != hash_path(fill(tmp_path / "three", {"weights": "1", "deep/other": "2"}))
    assert one != hash_path(fill(tmp_path / "four", {"weights": "1", "deep/config": "3"}))


def test_hash_leaves_records_and_checkpoints_out(tmp_path):
    results = fill(tmp_path / "one", {"weights": "1"})
    before = hash_path(results)
    records = ("manifest.json", "metrics.jsonl", "summary.json", "x.log", "x.png", ".hidden")
    records += (
        "annotation.sqlite",
        "more.annotation.sqlite-wal",
        "annotation.sqlite-shm",
        "x.withdrawn",
    )
    folders = ("checkpoints/a", "tensorboard/b", "report/c")
    fill(results, {name: "noise" for name in (*records, *folders)})
    assert hash_path(results) == before
    assert result_names(results) == ["weights"]


def test_hash_follows_a_change_in_this_process(tmp_path):
    fill(tmp_path, {"a": "x"})
    before = hash_path(tmp_path)
    fill(tmp_path, {"a": "y"})
    os.utime(tmp_path / "a", ns=(1, 1))
    assert hash_path(tmp_path) != before


def test_nothing_to_hash(tmp_path):
    with pytest.raises(ValueError, match="absent: no such file or directory"):
        hash_path(tmp_path / "absent")


def test_hash_of_sections():
    assert hash_section(PPOSection(clip=0.1), 0) == hash_section(PPOSection(), 0)
    others = [
        hash_section(PPOSection(clip=0.2), 0),
        hash_section(PPOSection(), 1),
        hash_section(PPOSection()),
        hash_section(SFTSection(), 0),
    ]
    assert len({hash_section(PPOSection(), 0), *others}) == 5


def test_a_write_that_fails_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    write_text(path, "old")

    def fails(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("rlhf.runtime.files.sync", fails)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ELOOP, errno.EROFS, errno.ENAMETOOLONG])
def test_a_folder_that_cannot_be_made_is_the_path_s_fault(number, monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "mkdir", raising(OSError(number, os.strerror(number))))
    with pytest.raises(ValueError, match=f"cannot be a folder: {os.strerror(number)}; name"):
        make_folder(tmp_path / "a")


def test_a_full_disk_is_not_the_path_s_fault(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "mkdir", raising(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        make_folder(tmp_path / "a")


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_a_full_disk_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch):
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    fill(tmp_path, {"a": "old"})
    monkeypatch.setattr("rlhf.runtime.files.sync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_drafts_that_were_left_are_swept_and_nothing_else(tmp_path):
    left = (".manifest.json.4711", "rm/deep/.metrics.jsonl.8")
    others = ("manifest.json", ".lock", ".4711", "step.4711", ".manifest.json.4711x", "rm/.a.b")
    others += (".notes.2023", ".env.2", "rm/.config.bak.1")  # somebody's own
    fill(tmp_path, dict.fromkeys((*left, *others), "old"))
    (tmp_path / ".folder.12").mkdir()
    long_ago = time.time() - LEFT - 60
    for path in tmp_path.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    young = fill(tmp_path / "rm", {".manifest.json.12": "of a process that may be there"})
    lender = fill(tmp_path.with_name("lender"), {left[0]: "another run's"})
    os.utime(lender / left[0], (long_ago, long_ago))
    (tmp_path / "borrowed").symlink_to(lender)
    sweep_drafts(tmp_path)
    assert not any((tmp_path / name).exists() for name in left)
    assert all((tmp_path / name).exists() for name in (*others, ".folder.12"))
    assert (young / ".manifest.json.12").exists() and (lender / left[0]).exists()
