"""What `rlhf doctor` does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlhf.apps.doctor import packages
from rlhf.apps.doctor.finding import Finding, judged


def doctor(target: Path | None, overrides: Sequence[str] = ()) -> Iterator[Finding]:
    """Check the installation, the machine, and a config with all it names, or a model directory.

    target: None, a config or a directory. overrides: KEY=VALUE, of a config. Where a package that
    every run needs is missing, that is all that is said: nothing else could be looked at.

    Raises ValueError for overrides of something that is no config.
    """
    if overrides and (target is None or target.is_dir()):
        raise ValueError("--set changes keys of a config: name one")
    wanted = packages.wanted()
    yield from packages.check(wanted, packages.tested())
    if packages.lacking(wanted.always):
        return
    from rlhf.apps.doctor import checkpoint, config_files, machine
    from rlhf.config.extras import needed_extras
    from rlhf.config.load import load_config
    from rlhf.runtime.devices import choose_device
    from rlhf.runtime.usage import GIB

    if target is None or target.is_dir():
        yield from machine.check(machine.look())
        if target is not None:
            yield from checkpoint.check(target)
        free = shutil.disk_usage(target or Path.cwd()).free / GIB
        yield Finding("ok", "disk", f"{free:.3g} GiB free here; name a config to have it reckoned")
        return
    try:
        config = load_config(target, overrides)
        choose_device(config.runtime)
    except ValueError as error:
        yield Finding("fault", "config", str(error))
        return
    yield Finding("ok", "config", f"{target}: every key and value is valid")
    yield from packages.needed(needed_extras(config), wanted)
    yield from machine.check(machine.look())
    yield from config_files.check(config)
    if config.capabilities is not None and not packages.lacking(wanted.extras["capabilities"]):
        section = config.capabilities
        yield judged("benchmarks", lambda: config_files.benchmarks(section))
