"""Whether the processes of a run, on however many hosts, are of one kind."""

from __future__ import annotations

import platform

from rlhf.config.schema import Config
from rlhf.runtime.distributed import gather
from rlhf.runtime.files import hash_section
from rlhf.runtime.usage import versions


def check_alike(config: Config) -> None:
    """Raises ValueError, on every process, where one has other versions or another config."""
    mine = {**versions(), "config": hash_section(config)[:12]}
    mine.pop("commit", None)  # not every host has git
    (host, first), *others = gather((platform.node(), mine))
    for rank, (place, found) in enumerate(others, start=1):
        for name in sorted(first.keys() | found.keys()):
            one, other = first.get(name, "not there"), found.get(name, "not there")
            if one != other:
                raise ValueError(
                    f"processes differ: {name} is {one} in process 0 on {host} and {other} in "
                    f"process {rank} on {place}; give all of them the same versions and config"
                )
