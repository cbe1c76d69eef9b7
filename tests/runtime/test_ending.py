"""Every process ends with its exit code, one of several without the interpreter going down."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import atexit, os, sys
from rlhf.runtime.ending import end

class AbortsWhenFinalised:
    def __del__(self):
        os.abort()

if "RANK" in os.environ:
    kept = AbortsWhenFinalised()
atexit.register(print, "exit functions")
sys.stdout.write("not flushed ")
end(3)
"""


@pytest.mark.parametrize("several", [{}, {"RANK": "0"}])
def test_exit_code_output_and_exit_functions(several: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RANK"} | several
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (3, "not flushed exit functions\n"), ended.stderr
    assert not ended.stderr
