"""TOML files whose keys are flags without dashes (``per-round = 50``); a flag overrides a key.

Tables ``[variants.NAME]`` are strategies under names of their own: ``strategy`` and flags of
picking. A value must have the type of its flag as it stands: "3" is no number here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cyclopts import App, Argument, ArgumentCollection, Token

from fishermask_fast.files import read_file
from fishermask_fast.options.commands import Variant
from fishermask_fast.options.picking import STRATEGIES, QueryOptions
from fishermask_fast.options.recorded import recorded_flags
from fishermask_fast.options.told import meant

NOT_IN_FILES = ("config", "resume", "verbose", "traceback")


@dataclass
class OptionsFile:
    """Hands a file's values to the flags that were not given.

    Attributes:
        variants: The file's, once it has been read.
    """

    variants: dict[str, Variant] = field(default_factory=dict)

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Called by the parser between reading the command line and making sense of it."""
        self._read_file(arguments)
        self._read_record(arguments)

    def _read_record(self, arguments: ArgumentCollection) -> None:
        """What is not given anew, of a run that is to go on."""
        by_name = {each.field_info.name: each for each in arguments if not each.children}
        resume, out = by_name.get("resume"), by_name.get("out")
        if resume is None or out is None or not (resume.has_tokens and out.has_tokens):
            return
        folder = out.tokens[-1].value
        flags = _flags(arguments)
        values, variants = recorded_flags(Path(folder))
        self.variants = self.variants or variants
        for name, value in values.items():
            if name in flags and not flags[name].has_tokens:
                _give(flags[name], name, value, folder)

    def _read_file(self, arguments: ArgumentCollection) -> None:
        config = next((each for each in arguments if each.field_info.name == "config"), None)
        if config is None or not config.has_tokens:
            return
        path = config.tokens[0].value
        flags = _flags(arguments)
        content = _read(path)
        tables = content.pop("variants", {})
        if not isinstance(tables, dict):
            raise ValueError(f"{path}: variants must be tables [variants.NAME]; got {tables!r}")
        for key, value in content.items():
            if key not in flags:
                raise ValueError(
                    f"{path}: {key} is no key of a file; keys are {', '.join(flags)}"
                    f"{meant(key.replace('_', '-'), flags)}"
                )
            _check(f"{path}: {key}", value, flags[key].hint)
        self.variants = {
            name: _variant(f"{path}: variants.{name}", name, table, flags)
            for name, table in tables.items()
        }
        if self.variants and "strategy" not in content:
            content["strategy"] = list(self.variants)
        for key, value in content.items():
            if not flags[key].has_tokens:
                _give(flags[key], key, value, path)


def _read(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(read_file(path).decode("utf-8"))
    except RecursionError:
        raise ValueError(f"cannot read {path}: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def _flags(arguments: Iterable[Argument]) -> dict[str, Argument]:
    return {
        name.removeprefix("--"): each
        for each in arguments
        if each.parse and each.field_info.name not in NOT_IN_FILES and not each.children
        for name in each.names
        if name.startswith("--")
    }


def _variant(where: str, name: str, table: Any, flags: Mapping[str, Argument]) -> Variant:
    if name in STRATEGIES:
        raise ValueError(f"{where} must have a name of its own; {name} is a strategy's")
    if not isinstance(table, dict) or not isinstance(table.get("strategy"), str):
        raise ValueError(f'{where} must be a table with a strategy, such as strategy = "random"')
    known = {each.name for each in fields(QueryOptions)}
    options = {}
    for key, value in table.items():
        if key == "strategy":
            continue
        flag = flags.get(key)
        if flag is None or flag.field_info.name not in known:
            close = meant(
                key.replace("_", "-"), (n for n in flags if flags[n].field_info.name in known)
            )
            raise ValueError(f"{where}: {key} is no option of picking{close}")
        _check(f"{where}: {key}", value, flag.hint)
        options[flag.field_info.name] = _meaning(flag, key, value)
    return Variant(table["strategy"], options)


def _meaning(flag: Argument, key: str, value: Any) -> Any:
    """A value as Python has it: a negative flag turned round, 2 a float where one is wanted."""
    if isinstance(value, bool):
        return value != (f"--{key}" in flag.negatives)
    if plain_type(flag.hint) is float and not isinstance(value, str):
        return float(value)
    return value


def _give(flag: Argument, key: str, value: Any, path: str) -> None:
    meaning = _meaning(flag, key, value)
    if isinstance(meaning, bool):
        flag.append(Token(keyword=f"--{key}", implicit_value=meaning, source=path))
        return
    for each in meaning if isinstance(meaning, list) else [meaning]:
        flag.append(Token(keyword=f"--{key}", value=str(each), source=path))


def _check(where: str, value: Any, hint: Any) -> None:
    wanted = plain_type(hint)
    words = _words(hint)
    if isinstance(value, str) and words:
        if value not in words:
            raise ValueError(
                f"{where} must be a number or {', '.join(words)}; got {value!r}"
                f"{meant(value, words)}"
            )
    elif get_origin(wanted) is tuple:
        if not isinstance(value, list) or not value:
            raise ValueError(f"{where} must be a list; got {value!r}")
        for each in value:
            _check(where, each, get_args(wanted)[0])
    elif wanted is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{where} must be true or false; got {value!r}")
    elif get_origin(wanted) is Literal:
        choices = get_args(wanted)
        if value not in choices:
            raise ValueError(
                f"{where} must be one of {', '.join(choices)}; got {value!r}"
                f"{meant(str(value), choices)}"
            )
    else:
        kind = str if wanted is Path else wanted
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or isinstance(value, bool):
            raise ValueError(f"{where} must be of type {kind.__name__}; got {value!r}")


def _words(hint: Any) -> tuple[str, ...]:
    """Words that a flag takes beside numbers: auto, of ``float | Literal["auto"]``."""
    if get_origin(hint) is Annotated:
        return _words(get_args(hint)[0])
    if get_origin(hint) not in (Union, UnionType):
        return ()
    choices = [each for each in get_args(hint) if get_origin(each) is Literal]
    return (
        tuple(word for each in choices for word in get_args(each))
        if plain_type(hint) is float
        else ()
    )


def plain_type(hint: Any) -> Any:
    """The type of a hint such as ``Annotated[int | None, ...]``: int."""
    if get_origin(hint) is Annotated:
        return plain_type(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return plain_type(next(each for each in get_args(hint) if each is not NoneType))
    return hint
