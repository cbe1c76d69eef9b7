from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf.config.load import load_config
from rlhf.runtime import trackers
from rlhf.runtime.metrics import MetricsLog, read_rows


class Recorder:
    """In the place of one of accelerate's trackers. fails: the methods that raise."""

    made: list[Recorder] = []
    fails: tuple[str, ...] = ()

    def __init__(self, **arguments: Any) -> None:
        self.arguments, self.heard = arguments, []
        self.made.append(self)

    def start(self) -> None:
        self._hear("start")

    def log(self, values: dict[str, float], step: int) -> None:
        self._hear("log", step, values)

    def finish(self) -> None:
        self._hear("finish")

    def _hear(self, *heard: Any) -> None:
        if heard[0] in self.fails:
            raise ConnectionError("no\nroute")
        self.heard.append(heard)


@pytest.fixture
def recorder(monkeypatch):
    """Every tracker records, and is installed; W&B has no account."""

    class Fresh(Recorder):
        made: list[Recorder] = []

    names = ("wandb", "mlflow", "trackio")
    monkeypatch.setattr(trackers, "LOGGER_TYPE_TO_CLASS", dict.fromkeys(names, Fresh))
    monkeypatch.setattr(trackers, "find_spec", lambda _: True)
    account = SimpleNamespace(api=SimpleNamespace(api_key=None))
    monkeypatch.setattr(trackers, "import_module", lambda _: account)
    return Fresh


def test_one_line_of_a_config_names_them():
    config = load_config("tiny", ["runtime.trackers=[tensorboard, wandb]"])
    assert config.runtime.trackers == ("tensorboard", "wandb")


def test_each_gets_every_number_and_the_stages_directory_as_name(tmp_path, recorder):
    directory = tmp_path / "runs/x/ppo"
    with MetricsLog(directory, ["wandb", "mlflow", "trackio"]) as log:
        log.log(4, {"score": 0.5})
        log.log(5, {"score": 0.75, "kl": 1.0})
    heard = [("start",), ("log", 4, {"score": 0.5}), ("log", 5, {"score": 0.75, "kl": 1.0})]
    assert [one.heard for one in recorder.made] == [[*heard, ("finish",)]] * 3
    wandb, mlflow, trackio = (one.arguments for one in recorder.made)
    assert wandb["name"] == mlflow["run_name"] == trackio["name"] == directory.as_posix()
    assert wandb["mode"] == "offline"  # without an account it would ask for one


@pytest.mark.parametrize("broken", ["start", "log", "finish"])
def test_one_that_fails_ends_no_run(tmp_path, recorder, monkeypatch, caplog, broken):
    monkeypatch.setattr(recorder, "fails", (broken,))
    with caplog.at_level(logging.WARNING), MetricsLog(tmp_path, ["trackio"]) as log:
        log.log(1, {"loss": 1.0})
        log.log(2, {"loss": 0.5})
    expected = "trackio is left out from here on (no route); metrics.jsonl goes on"
    assert [record.getMessage() for record in caplog.records] == [expected]
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2]


def test_one_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="wandb is not installed; pip install wandb"):
        MetricsLog(tmp_path, ["wandb"])


def test_trackio_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    with MetricsLog(tmp_path / "rm", ["trackio"]) as log:
        for step in (1, 2):
            log.log(step, {"loss": 1 / step})
    (run,) = trackio.Api().runs(trackers.PROJECT)
    assert run.name == (tmp_path / "rm").as_posix()
