from __future__ import annotations

import io
import logging
import warnings

import pytest
from rich.console import Console
from transformers.utils import logging as library_logging

from rlhf.runtime.quiet import quiet, warnings_on


def test_quiet_gives_back_what_it_found() -> None:
    before, accelerate = library_logging.get_verbosity(), logging.getLogger("accelerate").level
    with pytest.raises(KeyError), quiet():
        assert library_logging.get_verbosity() == logging.ERROR
        assert not logging.getLogger("accelerate.accelerator").isEnabledFor(logging.WARNING)
        assert not library_logging.is_progress_bar_enabled()
        raise KeyError
    assert library_logging.get_verbosity() == before
    assert logging.getLogger("accelerate").level == accelerate
    assert library_logging.is_progress_bar_enabled()


def test_quiet_leaves_out_what_will_change_one_day_only() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet():
            warnings.warn("old name", FutureWarning, stacklevel=1)
            warnings.warn("\nOnline softmax is disabled on the fly", UserWarning, stacklevel=1)
            warnings.warn("look out", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["look out"]


def test_our_warnings_reach_the_console_also_when_the_libraries_are_quiet() -> None:
    console = Console(file=io.StringIO(), width=80)
    logger = logging.getLogger("rlhf.ppo.monitors")
    with quiet(), warnings_on(console):
        logger.warning("ppo iteration 3: kl 60 is past its bound [50]")
    logger.warning("said too late")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "WARNING" in shown and "ppo iteration 3: kl 60 is past its bound [50]" in shown
    assert "too late" not in shown
