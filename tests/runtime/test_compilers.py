from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlhf.config.load import load_config
from rlhf.runtime.compilers import check_compilers, own_caches

ALL = {"sft", "rm", "ppo"}


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)


def test_without_a_compiler_in_a_line_that_names_every_key() -> None:
    config = load_config("tiny", ["sft.compile=true", "ppo.compile=true"])
    mend = "or set sft.compile and ppo.compile to false"
    for device, compiler in (("cpu", r"g\+\+"), ("cuda", "gcc")):
        with pytest.raises(ValueError, match=f"^sft.compile makes .* install {compiler}, {mend}"):
            check_compilers(config, ALL, device)


def test_of_the_stages_that_are_coming() -> None:
    config = load_config("tiny", ["sft.compile=true"])
    check_compilers(config, {"rm", "ppo"}, "cuda")
    check_compilers(load_config("tiny", []), ALL, "cuda")


@pytest.mark.parametrize(("device", "name"), [("cpu", "g++"), ("cpu", "clang++"), ("cuda", "gcc")])
def test_where_torch_looks(device: str, name: str, tmp_path: Path) -> None:
    config = load_config("tiny", ["rm.compile=true"])
    (tmp_path / name).touch(0o755)
    check_compilers(config, ALL, device)


def test_what_the_environment_names_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mycc").touch(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "mycc"))
    check_compilers(load_config("tiny", ["sft.compile=true"]), ALL, "cuda")


CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def test_every_process_of_a_host_has_its_own_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set()
    for process in range(3):
        monkeypatch.setenv(CACHES[0], "/named")
        monkeypatch.delenv(CACHES[1], raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", "/home")
        own_caches(process)
        folders.add(os.environ[CACHES[0]])
        if process:
            folders.add(os.environ[CACHES[1]])
        else:
            assert CACHES[1] not in os.environ
    assert folders == {
        *("/named", "/named-1", "/named-2"),
        *("/home/rlhf/triton-1", "/home/rlhf/triton-2"),
    }
