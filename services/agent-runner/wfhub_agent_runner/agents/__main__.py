"""`python -m wfhub_agent_runner.agents`: the table as JSON, for whoever lists it."""

import json
import sys

from wfhub_agent_runner.agents import table

SHOWN = ("name", "wire", "install", "version", "parser", "mcp", "steers", "context")


def rows() -> list[dict[str, object]]:
    return [
        {**{name: getattr(entry, name) for name in SHOWN}, "program": (*entry.version_argv, "")[0]}
        for entry in table.ENTRIES.values()
    ]


if __name__ == "__main__":
    json.dump(rows(), sys.stdout)
