"""The compilers that torch.compile and Triton call, where they look for them."""

from __future__ import annotations

import os
import shutil

from rlhf.config.schema import Config


def c_compiler() -> str | None:
    """For what runs on a GPU."""
    return _first(os.environ.get("CC"), "gcc", "clang")


def cxx_compiler() -> str | None:
    """For what runs on a CPU."""
    return _first(os.environ.get("CXX"), "g++", "clang++")


def check_compilers(config: Config, stages: set[str], device: str) -> None:
    """Whether what these stages compile can be compiled here.

    device: `cpu` or `cuda`.

    Raises:
        ValueError: there is no compiler for it.
    """
    asked = {"sft": config.sft.compile, "rm": config.rm.compile, "ppo": config.ppo.compile}
    keys = [f"{name}.compile" for name in asked if name in stages and asked[name]]
    there = cxx_compiler() if device == "cpu" else c_compiler()
    if keys and there is None:
        makes, wanted = ("C++", "g++") if device == "cpu" else ("GPU kernels in C", "gcc")
        raise ValueError(
            f"{keys[0]} makes {makes} and there is no compiler here; install {wanted}, or set "
            f"{' and '.join(keys)} to false"
        )


def own_caches(process: int) -> None:
    """What is compiled is kept in a folder of this process's own: two that write the same file at
    the same time make one of them read half of it, and end.

    process: its number on this host; number 0 has the folders that a process alone has.
    """
    if not process:
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for name, kind in {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}.items():
        folder = os.environ.get(name) or os.path.join(home, "rlhf", kind)
        os.environ[name] = f"{folder}-{process}"


def _first(*names: str | None) -> str | None:
    return next((path for name in names if name and (path := shutil.which(name))), None)
