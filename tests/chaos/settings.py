"""What a run was asked for: SEED, TASKS, MINUTES, SHORT from the environment, and fixed figures.

Units: `*_s` seconds. SHORT=1 is the cut for CI: a fixed plan, three minutes at most in all.
"""

import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SHORT_SEED, SHORT_TASKS, SHORT_MINUTES = 7, 150, 1.7
DEFAULT_TASKS, DEFAULT_MINUTES = 600, 8.0


@dataclass(frozen=True)
class Options:
    seed: int
    tasks: int
    minutes: float  # of faults under load; start, drain and checks come on top
    short: bool
    folder: Path
    keep: bool  # the folder stays although nothing was violated
    only: tuple[str, ...] = ()  # kinds of faults to inject, all others left out
    backlog: int = 0  # events put before a slow subscriber

    # Figures that the product runs with, and that the verdict is measured against.
    lease_ttl_s: float = 5.0  # 30 by default; a shorter one gives more expiries an hour
    heartbeat_s: float = 1.5
    retry_base_s: float = 0.3
    runners: int = 3  # lean ones, in the pool `default`
    slots: int = 6
    projects: int = 5
    slack_s: float = 35.0  # of a recovery: reconnects, starts, tries, on a crowded machine

    @property
    def recovery_s_max(self) -> float:
        """From a fault's end until a task submitted then is published. Two TTLs: after an outage
        the sweeper waits one before it takes silence for a loss."""
        return 2 * self.lease_ttl_s + self.slack_s

    @property
    def drain_s_max(self) -> float:
        return 60.0 if self.short else 240.0


def from_env(env: Mapping[str, str]) -> Options:
    short = env.get("SHORT", "") not in {"", "0"}
    seed = int(env.get("SEED") or (SHORT_SEED if short else secrets.randbelow(1_000_000)))
    tasks = int(env.get("TASKS") or (SHORT_TASKS if short else DEFAULT_TASKS))
    minutes = float(env.get("MINUTES") or (SHORT_MINUTES if short else DEFAULT_MINUTES))
    folder = env.get("CHAOS_DIR") or tempfile.mkdtemp(prefix=f"wfhub-chaos-{seed}-")
    only = tuple(kind for kind in env.get("FAULTS", "").split(",") if kind)
    return Options(
        seed=seed,
        tasks=tasks,
        minutes=minutes,
        short=short,
        folder=Path(folder),
        keep=bool(env.get("CHAOS_DIR") or env.get("KEEP")),
        only=only,
        backlog=int(env.get("BACKLOG") or (0 if short else 20_000)),
        runners=2 if short else 3,
    )
