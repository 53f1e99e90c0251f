"""Toolchains: the operator's read-only folders in every sandbox, and what they add to PATH."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Toolchains:
    """`binds` maps a path inside to the same path outside."""

    binds: Mapping[str, Path]
    env: Mapping[str, str]


def of(folders: tuple[Path, ...]) -> Toolchains:
    """Raises: SystemExit naming a folder that is not there."""
    for folder in folders:
        if not folder.is_dir():
            raise SystemExit(f"bad settings: TOOLCHAINS: {folder} is not a folder")
    with_programs = [str(folder / "bin") for folder in folders if (folder / "bin").is_dir()]
    return Toolchains(
        binds={str(folder): folder for folder in folders},
        env={"PATH": ":".join([*with_programs, SYSTEM_PATH])},
    )
