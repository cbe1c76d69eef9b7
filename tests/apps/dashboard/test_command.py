from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.apps.dashboard.command import ui
from tests.apps.dashboard.worlds import make_run


@pytest.mark.parametrize(
    ("host", "password", "told"),
    [
        ("0.0.0.0", None, "--host 0.0.0.0: others could look in"),
        ("runs.example", None, "set a password in RLHF_UI_PASSWORD"),
        ("0.0.0.0", "short", "--password: too short; use at least 8"),
        ("127.0.0.1", "", "--password: too short"),
        ("a..b", "long enough", "a..b: no name of a host; choose another with --host"),
        (
            "203.0.113.1",
            "long enough",
            "203.0.113.1: Cannot assign requested address; choose another",
        ),
    ],
)
def test_no_door_is_open_by_mistake(
    tmp_path: Path, host: str, password: str | None, told: str
) -> None:
    make_run(tmp_path / "a")
    with pytest.raises(ValueError, match=told):
        ui([tmp_path], host=host, port=None, password=password, say=print)
