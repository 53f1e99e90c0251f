"""An image's bill of materials, in the image: CycloneDX 1.6, JSON.

`python3 sbom.py PYTHON.json OUT FOLDER…` takes the one that cyclonedx-py made of the Python
environment, and adds what the image has besides: Debian's packages, by its own database, and the
packages that pip put into each FOLDER. The same image gives the same bytes. Standard library only.
"""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

FIELDS = "${Package}\\t${Version}\\t${Architecture}\\t${db:Status-Abbrev}\\n"


def debian() -> list[dict[str, Any]]:
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", FIELDS], check=True, capture_output=True, text=True
    ).stdout
    rows = (line.split("\t") for line in listed.splitlines())
    return [
        component(name, version, f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={where}")
        for name, version, where, state in rows
        if state.startswith("ii")
    ]


def wheels(folder: Path) -> list[dict[str, Any]]:
    found = importlib.metadata.distributions(path=[str(folder)])
    return [
        component(each.name, each.version, f"pkg:pypi/{each.name.lower()}@{quote(each.version)}")
        for each in found
    ]


def component(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def merged(bill: dict[str, Any], more: list[dict[str, Any]]) -> dict[str, Any]:
    known = {each["bom-ref"]: each for each in (*bill.get("components", ()), *more)}
    return {**bill, "components": [known[ref] for ref in sorted(known)]}


def main(python: Path, out: Path, folders: list[Path]) -> None:
    more = [*debian(), *(each for folder in folders for each in wheels(folder))]
    bill = merged(json.loads(python.read_text()), more)
    out.write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(each) for each in sys.argv[3:]])
