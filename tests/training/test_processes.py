"""Several processes give the numbers of one, and go on from each other's checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.training.loaded import READS
from tests.training.processes import run

pytestmark = pytest.mark.slow

HALF = ("half-zero2", "half-zero3", "split-ddp")
IN_TWO = (
    *("sft-ddp", "packed-zero2", "rm-zero2", "dpo-zero2", "uneven-ddp"),
    *("sft-zero3", "rm-zero3", "lora-zero3", "sft-zero3_offload"),
)
BIG = "big-zero3"
CLOSE = 1e-5
"""Relative: of losses, gradient norms and weights in float32."""


def launch(processes: int, folder: Path, names: Sequence[str]) -> None:
    torchrun = ["torch.distributed.run", "--standalone", "--local-addr=localhost"]
    work = ["-m", "tests.training.processes", str(folder), *names]
    result = subprocess.run(
        [sys.executable, "-m", *torchrun, f"--nproc-per-node={processes}", *work],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case in this very process, without DeepSpeed."""
    folder = tmp_path_factory.mktemp("alone")
    for case in dict.fromkeys(name.split("-")[0] for name in (*IN_TWO, *HALF)):
        run(f"{case}-ddp", folder)
    return folder


@pytest.fixture(scope="module")
def in_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in_two")
    launch(2, folder, [*IN_TWO, *HALF, BIG])
    return folder


@pytest.fixture(scope="module")
def resumed_in_one(in_two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes began, from step 16 on, and one training that two can go on with."""
    folder = tmp_path_factory.mktemp("in_one")
    names = ("sft-ddp", "rm-zero2", "rm-zero3")
    for name in names:
        begun(in_two / name, folder / name)
    launch(1, folder, [*names, "sft-zero3"])
    return folder


def begun(finished: Path, copy: Path) -> None:
    """A training that was stopped after step 16."""
    shutil.copytree(finished / "checkpoints", copy / "checkpoints")
    shutil.rmtree(copy / "checkpoints/checkpoint-20")


def found(folder: Path, name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / name / "found.json").read_text())
    return values


def assert_same(folder: Path, name: str, alone: Path, start: int = 0) -> None:
    """Every row from step `start` on, the summary and the model are those of one process."""
    case = f"{name.split('-')[0]}-ddp"
    expected, got = found(alone, case), found(folder, name)
    rows = [row for row in expected["rows"] if row["step"] >= start]
    assert [list(row) for row in got["rows"]] == [list(row) for row in rows]
    for row, right in zip(got["rows"], rows, strict=True):
        assert row == pytest.approx(right, rel=CLOSE)
    assert got["summary"] == pytest.approx(expected["summary"], rel=1e-4)
    model = load_file(folder / name / "model.safetensors")
    for key, weight in load_file(alone / case / "model.safetensors").items():
        assert (model[key] - weight).abs().max() <= 1e-4 * weight.abs().max(), key


@pytest.mark.parametrize("name", IN_TWO)
def test_two_processes_are_as_good_as_one(name: str, alone: Path, in_two: Path) -> None:
    assert_same(in_two, name, alone)


@pytest.mark.parametrize("name", HALF)
def test_in_bfloat16_they_are_as_good_up_to_its_noise(name: str, alone: Path, in_two: Path) -> None:
    """Beside weights kept in float32 by the Trainer: DeepSpeed has such ones of its own."""
    one, two = (
        [row["loss"] for row in found(*at)["rows"] if "loss" in row]
        for at in ((alone, f"{name.split('-')[0]}-ddp"), (in_two, name))
    )
    assert two == pytest.approx(one, rel=0.01)
    assert min(two[-4:]) < 0.97 * two[0]


@pytest.mark.parametrize("name", [*IN_TWO, *HALF])
def test_no_model_stays_in_memory_for_the_next_stage(name: str, in_two: Path) -> None:
    """DeepSpeed would keep it."""
    assert found(in_two, name)["left"] == [[], []]


@pytest.mark.parametrize("name", ["sft-zero3", "rm-zero3", "lora-zero3"])
def test_one_process_alone_reads_the_weights_and_once(name: str, in_two: Path) -> None:
    first, second = json.loads((in_two / name / READS).read_text())
    assert first.keys() == load_file(in_two / name / "base/model.safetensors").keys()
    assert set(first.values()) == {1} and not second


def test_no_process_has_a_whole_model_while_it_loads(in_two: Path) -> None:
    """Half of it, and the largest of 12 layers; one that loaded it whole would have 1.5."""
    everyone = found(in_two, BIG)["summary"]
    for height in (*everyone["deepspeed"], *everyone["torch"]):
        assert height["kept"] == pytest.approx(0.5, abs=0.01)
        assert height["most"] < 0.9


@pytest.mark.parametrize("name", ["sft-ddp", "rm-zero2", "rm-zero3"])
def test_one_process_goes_on_from_two(name: str, alone: Path, resumed_in_one: Path) -> None:
    assert_same(resumed_in_one, name, alone, start=17)


def test_four_processes_share_weights_by_twos_and_go_on_from_one(
    alone: Path, resumed_in_one: Path, tmp_path: Path
) -> None:
    """ZeRO++ hpZ, as with two hosts of two."""
    hpz = {"stage": 3, "zero_hpz_partition_size": 2, "stage3_param_persistence_threshold": 0}
    (tmp_path / "hpz.json").write_text(json.dumps({"zero_optimization": hpz}))
    begun(resumed_in_one / "sft-zero3", tmp_path / "sft-zero3")
    launch(4, tmp_path, ["sft-hpz", "sft-zero3"])
    assert_same(tmp_path, "sft-hpz", alone)
    assert_same(tmp_path, "sft-zero3", alone, start=17)
