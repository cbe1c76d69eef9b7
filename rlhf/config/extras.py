"""Which extras of the package a config needs; run_all.sh asks by `python -m`."""

from __future__ import annotations

import argparse

from rlhf.config.load import load_config
from rlhf.config.schema import Config


def needed_extras(config: Config, rehearsal: bool = False) -> list[str]:
    """Names from pyproject.toml's optional dependencies. A rehearsal on a CPU has no 4 bits."""
    always = ["deepspeed"] if config.runtime.deepspeed else []
    always += ["capabilities"] if config.capabilities else []
    return always if rehearsal else [*always, *_gpu(config)]


def _gpu(config: Config) -> list[str]:
    tunings = [config.sft.tuning, config.rm.tuning, config.ppo.tuning]
    optimisers = [
        config.sft.optimiser,
        config.rm.optimiser,
        config.ppo.actor_optimiser,
        config.ppo.critic_optimiser,
    ]
    if config.dpo:
        tunings.append(config.dpo.tuning)
        optimisers.append(config.dpo.optimiser)
    quantised = any(tuning.method == "qlora" for tuning in tunings)
    in_8_bit = any(optimiser.kind == "adamw-8bit" for optimiser in optimisers)
    return ["gpu"] if quantised or in_8_bit else []


def main() -> None:
    """Prints the extras. Takes the arguments of `rlhf run`, and leaves it to that to find fault."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("config", nargs="?")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--rehearse", action="store_true")
    for flag in ("--from", "--only", "--redo", "--nproc"):
        parser.add_argument(flag)
    try:
        arguments, _ = parser.parse_known_args()
        config = load_config(arguments.config or "", arguments.overrides)
    except (ValueError, argparse.ArgumentError):
        return
    print(*needed_extras(config, arguments.rehearse))


if __name__ == "__main__":
    main()
