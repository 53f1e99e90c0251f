"""Limits as words of a command line: `memory=4GiB`, `cpu=1.5`, `run_s=3600`.

A name is the API's, without `_bytes`; `cpu` is in cores. A size may end in KiB, MiB, GiB or TiB.
`none` is for taking a limit away.
Raises: Usage.
"""

from collections.abc import Mapping, Sequence

from wfhub_client.errors import Usage

_BYTES = ("memory", "disk", "file", "output")
_OTHERS = ("processes", "open_files", "run_s", "idle_s", "verify_s", "setup_s")
_CPU = "cpu"  # in cores; the API has thousandths of them
_SIZES = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}


def parse(option: str, words: Sequence[str]) -> dict[str, int | None]:
    return dict(_one(option, word) for word in words)


def _one(option: str, word: str) -> tuple[str, int | None]:
    name, equals, text = word.partition("=")
    short = name.removesuffix("_bytes")
    if equals and short in _BYTES:
        return f"{short}_bytes", _number(option, word, text, _SIZES)
    if equals and name in _OTHERS:
        return name, _number(option, word, text, {})
    if equals and name == _CPU:
        return "cpu_millicores", _number(option, word, text, {"": 1000})
    names = ", ".join((_CPU, *_BYTES, *_OTHERS))
    raise Usage(f"{option} {word!r}: write NAME=NUMBER, of {names}")


def _number(option: str, word: str, text: str, units: Mapping[str, int]) -> int | None:
    if text == "none":
        return None
    unit = text[-3:] if text[-3:] in units else ""
    try:
        return round(float(text.removesuffix(unit)) * units.get(unit, 1))
    except (ValueError, OverflowError) as e:
        names = ", ".join(filter(None, units))
        maybe = f", maybe with {names}" if names else ""
        raise Usage(f"{option} {word!r}: {text!r} is not a number{maybe}") from e


def shown(limits: Mapping[str, int]) -> str:
    return " ".join(_shown(name, value) for name, value in limits.items())


def _shown(name: str, value: int) -> str:
    if name == "cpu_millicores":
        return f"{_CPU}={value / 1000:g}"
    short = name.removesuffix("_bytes")
    for unit, size in reversed(_SIZES.items()) if short != name else ():
        if value >= size and value % size == 0:
            return f"{short}={value // size}{unit}"
    return f"{short}={value}"
