"""`make security`: every test of a hostile action (SECURITY.md's list), and what came of it.

A test belongs to an action by its name in tests/security (`test_<action>_…`) or by the marker
`hostile(<action>)` wherever it lives: each lies beside the part that it attacks. `python -m
hostile_report` runs them all; its last line is one JSON object. Exit code 1 when anything got
through or failed, or when an action of the list has no test.
"""

import json
import re
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import sandbox_backends

ACTIONS = range(1, 23)
BACKENDS = sandbox_backends.AVAILABLE
UNAVAILABLE = sandbox_backends.MISSING
_BY_NAME = re.compile(r"test_(\d+)_")
TESTS = Path(__file__).parent.parent
PLACES = ("security", "unit", "integration", "contract", "e2e")


def actions_of(item: pytest.Item) -> list[int]:
    named = _BY_NAME.match(item.name) if "security" in item.path.parts else None
    marked = [int(mark.args[0]) for mark in item.iter_markers("hostile")]
    return [*marked, *([int(named[1])] if named else [])]


def backend_of(item: pytest.Item) -> str:
    """Of a test that is run once for each sandbox backend."""
    spec = getattr(item, "callspec", None)
    return str(spec.params.get("backend", "")) if spec else ""


class Report:
    """Keeps the tests of hostile actions and drops the others."""

    def __init__(self) -> None:
        self._actions: dict[str, list[int]] = {}
        self._backends: dict[str, str] = {}
        self.tried: Counter[int] = Counter()
        self.tried_in: Counter[str] = Counter()  # by backend, of what a sandbox was opened for
        self.failed: dict[str, list[int]] = {}

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        self._actions = {item.nodeid: found for item in items if (found := actions_of(item))}
        self._backends = {item.nodeid: found for item in items if (found := backend_of(item))}
        dropped = [item for item in items if item.nodeid not in self._actions]
        items[:] = [item for item in items if item.nodeid in self._actions]
        config.hook.pytest_deselected(items=dropped)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        actions = self._actions.get(report.nodeid, [])
        if report.when == "call":
            self.tried.update(actions)
            if report.nodeid in self._backends:
                self.tried_in.update({self._backends[report.nodeid]: len(actions)})
        if report.failed or report.skipped:  # what was not tried has not been held
            self.failed[report.nodeid] = actions

    def line(self) -> dict[str, object]:
        missing = sorted(set(ACTIONS) - set(self.tried))
        return {
            "security": "hostile-actions",
            "actions": self.tried.total(),
            "escaped": len(self.failed),
            "backends": list(BACKENDS),
            "backends_unavailable": UNAVAILABLE,
            "by_backend": dict(sorted(self.tried_in.items())),
            "by_action": {str(action): self.tried[action] for action in ACTIONS},
            "without_a_test": missing,
            "failed": sorted(self.failed),
        }


def main(places: list[str]) -> int:
    report, began = Report(), time.monotonic()
    code = pytest.main(["-q", "-p", "no:cacheprovider", *places], plugins=[report])
    line = {**report.line(), "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(line), flush=True)
    return int(bool(code or report.failed or line["without_a_test"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [str(TESTS / place) for place in PLACES]))
