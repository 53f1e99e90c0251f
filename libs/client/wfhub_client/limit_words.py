"""Limits as words of a command line: `memory=4GiB`, `cpu=1.5`, `run_s=3600`.

A name is the API's; its `_bytes` may be left out. A size may end in KiB, MiB, GiB or TiB. `none`
is for taking a limit away.
Raises: Usage.
"""

from collections.abc import Sequence

from wfhub_client.errors import Usage

_BYTES = ("memory", "disk", "file", "output")
_OTHERS = ("cpu", "processes", "open_files", "run_s", "idle_s", "verify_s", "setup_s")
_SIZES = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}


def parse(option: str, words: Sequence[str]) -> dict[str, float | None]:
    return dict(_one(option, word) for word in words)


def _one(option: str, word: str) -> tuple[str, float | None]:
    name, equals, text = word.partition("=")
    short = name.removesuffix("_bytes")
    if not equals or short not in (*_BYTES, *_OTHERS):
        names = ", ".join((*_BYTES, *_OTHERS))
        raise Usage(f"{option} {word!r}: write NAME=NUMBER, of {names}")
    of_bytes = short in _BYTES
    return (f"{short}_bytes" if of_bytes else short), _number(option, word, text, of_bytes=of_bytes)


def _number(option: str, word: str, text: str, *, of_bytes: bool) -> float | None:
    if text == "none":
        return None
    unit = text[-3:] if of_bytes and text[-3:] in _SIZES else ""
    try:
        number = float(text.removesuffix(unit)) * _SIZES.get(unit, 1)
        return int(number) if number == int(number) else number
    except (ValueError, OverflowError) as e:
        sizes = f", maybe with {', '.join(_SIZES)}" if of_bytes else ""
        raise Usage(f"{option} {word!r}: {text!r} is not a number{sizes}") from e


def shown(limits: dict[str, float]) -> str:
    return " ".join(_shown(name, value) for name, value in limits.items())


def _shown(name: str, value: float) -> str:
    short = name.removesuffix("_bytes")
    if short != name:
        for unit, size in reversed(_SIZES.items()):
            if value >= size and value % size == 0:
                return f"{short}={value / size:g}{unit}"
    return f"{short}={value:g}" if value != int(value) else f"{short}={int(value)}"
