"""From YAML files and `--set key=value` to a Config.

Layers are merged in this order: the files that `base:` names (each after its own bases), the file
itself, the one of the files' `presets:` that `preset` names, the overrides. Mappings are merged key
by key; anything else, lists too, replaces what was there. Types are strict: "3" is not a number.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rlhf.config.errors import Layer, one_line
from rlhf.config.paths import resource
from rlhf.config.schema import Config, Section

_EXPONENT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
MOST = 100_000
"""Values in a file."""
DEEPEST = 100
"""Lists and mappings in one another."""
_NO_VALUES = ("binary", "set", "omap", "pairs")  # YAML has them, a config has not


class _Loader(yaml.SafeLoader):
    """Safe YAML: each key once and as text; 5e-6, which YAML 1.1 takes for text, is a float."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and seen.setdefault(key.value, line) != line:
                problem = f"key '{key.value}' was given on line {seen[key.value]} already"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


class _Dumper(yaml.SafeDumper):
    """Quotes the text that _Loader would read as a float."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
_Loader.add_constructor(_TIMESTAMP, lambda _, node: str(node.value))


def _refuse(_: yaml.SafeLoader, node: yaml.Node) -> None:
    problem = f"!!{node.tag.rpartition(':')[2]} is no value of a config; write text, or a list"
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


for _name in _NO_VALUES:
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _refuse)


def safe_yaml(text: str | bytes) -> Any:
    """What is in a YAML text that is no config; by libyaml, several times as fast, where that is
    there.

    Raises yaml.YAMLError.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    for event in yaml.parse(text, Loader=loader):  # deep texts would end the process in libyaml
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise yaml.YAMLError("nested too deeply")
    return yaml.load(text, Loader=loader)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a config.

    path: a YAML file, or the name of a packaged one ("tiny", "configs/tiny.yaml"). overrides:
    "a.b=value" each, the value in YAML. Raises ValueError, one line, for a file that cannot be
    read, a key that is unknown, missing or given twice, and a value that does not fit.
    """
    layers = _file_layers(_find(path), ())
    layers += [_override(text) for text in overrides]
    config = _validated(_with_preset(layers))
    for name in config.ablation.variants if config.ablation else ():
        variant(config, name)  # finds its mistakes before the first variant has run
    return config


def variant(config: Config, name: str) -> Config:
    """One variant of the config's ablation, as a run of its own in the ablation's directory.

    Raises ValueError, one line, for a key that is unknown and a value that does not fit.
    """
    assert config.ablation is not None and name in config.ablation.variants
    whole = config.model_dump(mode="json", exclude={"ablation"})
    place = {"name": name, "output_dir": str(config.run_dir)}
    source = f"ablation.variants.{name}"
    changes = [_nested(key, value) for key, value in config.ablation.variants[name].items()]
    return _validated([Layer(source, values) for values in (whole | place, *changes)])


def dump_config(config: Section) -> str:
    """A config, or a section of one, as YAML, defaults included; `load_config` reads a whole one
    back to an equal one."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _find(path: str | Path) -> Path:
    """The file itself, or the packaged config of that name."""
    if Path(path).exists():
        return Path(path)
    folder = resource("configs")
    name = str(path).removeprefix("configs/").removesuffix(".yaml")
    files = [*folder.glob("*.yaml"), *folder.glob("ablations/*.yaml")]
    known = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    mend = f"did you mean {near[0]}?" if near else f"packaged configs: {', '.join(sorted(known))}"
    raise ValueError(f"{path}: no such config; {mend}")


def _file_layers(path: Path, seen: tuple[Path, ...]) -> list[Layer]:
    """The layers of `path`: those of its bases first. seen: the files that led here."""
    if path.resolve() in seen:
        chain = " -> ".join(str(file) for file in (*seen, path.resolve()))
        raise ValueError(f"{path}: base leads back to itself ({chain}); remove one")
    values = _read(path)
    named = values.pop("base", None) or []
    bases = [named] if isinstance(named, str) else named
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f"{path}: base = {named!r}; expected the path of a YAML file, or a list")
    layers: list[Layer] = []
    for base in bases:
        if not (path.parent / base).is_file():
            raise ValueError(
                f"{path}: base = {base}: no such file (the path is relative to {path})"
            )
        layers += _file_layers(path.parent / base, (*seen, path.resolve()))
    return [*layers, Layer(str(path), values)]


def _with_preset(layers: Sequence[Layer]) -> list[Layer]:
    """The layers without `presets` and `preset`, and the chosen preset's values after the files."""
    presets: dict[str, Any] = {}
    chosen = None
    for layer in layers:
        named = layer.values.get("presets", {})
        if not isinstance(named, dict) or not all(isinstance(v, dict) for v in named.values()):
            raise ValueError(f"{layer.source}: presets: expected a name and, under it, keys each")
        presets = _merge(presets, named)
        chosen = layer.values.get("preset", chosen)
    kept = [Layer(each.source, _without(each.values)) for each in layers]
    if chosen is None:
        return kept
    if not isinstance(chosen, str) or chosen not in presets:
        mend = f"choose {', '.join(presets)}" if presets else "this config has none; leave it out"
        raise ValueError(f"preset = {chosen}: no such preset; {mend}")
    files = [layer for layer in kept if layer.source != "--set"]
    return [
        *files,
        Layer(f"{files[-1].source}: preset {chosen}", presets[chosen]),
        *kept[len(files) :],
    ]


def _without(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in ("preset", "presets")}


def _read(path: Path) -> dict[str, Any]:
    try:
        values = _parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; name a YAML file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; name a YAML file") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected 'key: value' lines at the top level")
    return values


def _parse(text: str, where: str) -> Any:
    try:
        value = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{where}{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{where}: not valid YAML: nested too deeply") from None
    if not _is_countable(value):
        raise ValueError(f"{where}: more than {MOST:,} values; an alias repeats or contains itself")
    return value


def _is_countable(value: Any) -> bool:
    """Whether it has an end: a few lines of aliases can stand for billions of values."""
    waiting, seen = [value], 0
    while waiting and seen + len(waiting) <= MOST:
        one = waiting.pop()
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        seen += 1
    return not waiting


def _override(text: str) -> Layer:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--set {text}: expected key=value, such as --set ppo.kl.initial=0.1")
    return Layer("--set", _nested(key, _parse(value, f"--set {text}")))


def _nested(key: str, value: Any) -> dict[str, Any]:
    """ "a.b" and 1 -> {"a": {"b": 1}}."""
    parts = key.split(".")
    for part in reversed(parts[1:]):
        value = {part: value}
    return {parts[0]: value}


def _validated(layers: Sequence[Layer]) -> Config:
    """The layers merged, later ones over earlier ones."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer.values)
    try:
        # JSON, because pydantic's strict mode takes a list for a tuple only there.
        return Config.model_validate_json(json.dumps(merged), strict=True)
    except ValidationError as error:
        raise ValueError(one_line(error, merged, layers)) from None


def _merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = _merge(old, value)
        merged[key] = value
    return merged
