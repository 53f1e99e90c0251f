"""A workspace measured: lease, agent, diff and commit, beside what git and dulwich would do.

`python bench/workspace.py [--files N] [--runs N]`; a table for people, then one JSON object as the
last line. Everything is the product's own: the mirror, the shared checkout, the overlay, the bwrap
sandbox with seccomp and limits, the commit built from the upper layer; as the runner's uid. The
agent is one shell that edits five files, adds one and deletes one; the peers' is the same shell
without a sandbox. Warm: the commit has been prepared once (prepare_cold_s), page cache filled.
`prepare_next_s`: a commit that differs from it in 20 files. The repositories are measured in turn,
attempt by attempt: new files cost what the disk was busy with before (ext4 without a journal looks
past each inode that was freed in the last minute), and that is then the same for all.

`worktree_ratio`: worktree add + edit + add -A + commit, over ours, on the repository of --files
files. `flat_ratio`: ours there over ours at 1,000 files; `no_op_flat_ratio`: the same of an agent
that changes nothing, so that there is no commit. `disk_mb_50`: what 50 leases, each with a
started sandbox, add below RUNNER_HOME before the agents write. Units: ms, s (*_s), MB (10^6 bytes).
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dulwich
import dulwich.porcelain
from wfhub_agent_runner.gitwork.client import RepoAccess
from wfhub_agent_runner.gitwork.location import Policy
from wfhub_agent_runner.gitwork.workspaces import About, BaseCheckout, Lease, Workspaces
from wfhub_agent_runner.sandbox.bwrap import BwrapSandbox
from wfhub_agent_runner.sandbox.port import Exited, SandboxSpec
from wfhub_agent_runner.sandbox.usage import tree_usage
from wfhub_common import ids, privileges
from wfhub_common.messages import Limits

sys.path.insert(0, str(Path(__file__).parent))
from workspace_parts.repositories import ENVIRONMENT, advance, git, make, name_of

SMALL_FILES = 1_000
HISTORY_FILES, HISTORY_COMMITS = 5_000, 400
CONCURRENT = 50
NEXT_FILES = 20
HOLD_S = 2.0
WALL_S = 120.0
RATIOS = ("worktree_ratio", "flat_ratio", "no_op_flat_ratio", "disk_mb_50")
EDIT = "; ".join(
    [
        *(f"echo '# edited' >> {name_of(number)}" for number in (0, 199, 301, 555, 999)),
        f"rm {name_of(700)}",
        "echo new > src/new.py",
    ]
)
Figures = dict[str, float]


class Ours:
    """The runner's path, step by step."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.sandbox = BwrapSandbox(scratch=home / "sandbox")
        self.spaces = Workspaces(home, RepoAccess.direct(Policy(file_repos=True)))

    async def start(self) -> "Ours":
        await self.spaces.reap()
        return self

    async def sandboxed(self, lease: Lease, script: str) -> None:
        spec = SandboxSpec(
            argv=("/bin/sh", "-c", script),
            lower=lease.layers.lower_dirs[0],
            extra_lowers=lease.layers.lower_dirs[1:],
            upper=lease.layers.upper,
            work=lease.layers.work,
            limits=Limits(),
            wall_s=WALL_S,
        )

        async def ignore(_: bytes) -> None:
            pass

        ran = await self.sandbox.run(spec, on_output=ignore, cancel=asyncio.Event())
        assert ran.outcome == Exited(0), ran

    async def attempt(self, base: BaseCheckout, script: str) -> Figures:
        """ms of each step; a script that changes nothing has no commit."""
        marks = [time.perf_counter()]
        attempt_id = ids.new_attempt_id()
        lease = await self.spaces.lease(base, attempt_id)
        marks.append(time.perf_counter())
        await self.sandboxed(lease, script)
        marks.append(time.perf_counter())
        about = About("tsk_bench", attempt_id, "Bench", "", datetime.now(UTC))
        made = await self.spaces.snapshot(lease, about)
        marks.append(time.perf_counter())
        assert (made is None) == (script == "true"), made
        await self.spaces.release(lease)
        released = time.perf_counter()
        steps = [(b - a) * 1000 for a, b in itertools.pairwise(marks)]
        return {
            "lease_ms": steps[0],
            "sandbox_ms": steps[1],
            "diff_commit_ms": steps[2],
            "total_ms": (marks[-1] - marks[0]) * 1000,
            "release_ms": (released - marks[-1]) * 1000,
        }

    async def disk_bytes(self, base: BaseCheckout, count: int) -> int:
        before = tree_usage(self.home).bytes
        leases = await asyncio.gather(
            *(self.spaces.lease(base, ids.new_attempt_id()) for _ in range(count))
        )
        running = [
            asyncio.create_task(self.sandboxed(lease, f"sleep {HOLD_S}")) for lease in leases
        ]
        await asyncio.sleep(HOLD_S / 2)
        used = tree_usage(self.home).bytes - before
        await asyncio.gather(*running)
        for lease in leases:
            await self.spaces.release(lease)
        return used


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def medians(runs: list[Figures]) -> Figures:
    return {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}


async def prepared(ours: Ours, repo: Path) -> Figures:
    """Twice, with an attempt between, so that all is warm afterwards."""
    began = time.perf_counter()
    base = await ours.spaces.prepare(str(repo), None)
    cold_s = time.perf_counter() - began
    await ours.attempt(base, EDIT)
    began = time.perf_counter()
    await ours.spaces.prepare(str(repo), None)
    warm_ms = (time.perf_counter() - began) * 1000
    return {"prepare_cold_s": round(cold_s, 2), "prepare_warm_ms": round(warm_ms, 1)}


async def in_turn(ours: Ours, repos: dict[str, Path], runs: int) -> dict[str, dict[str, Figures]]:
    scripts = {"edits": EDIT, "no_op": "true"}
    bases = {name: await ours.spaces.prepare(str(repo), None) for name, repo in repos.items()}
    found: dict[tuple[str, str], list[Figures]] = defaultdict(list)
    for _ in range(runs):
        for name, base in bases.items():
            for kind, script in scripts.items():
                found[name, kind].append(await ours.attempt(base, script))
    return {name: {kind: medians(found[name, kind]) for kind in scripts} for name in repos}


async def next_commit_s(ours: Ours, repo: Path) -> float:
    """Preparing a commit that differs in NEXT_FILES files from the one that is there."""
    advance(repo, files=NEXT_FILES)
    began = time.perf_counter()
    base = await ours.spaces.prepare(str(repo), None)
    took_s = time.perf_counter() - began
    assert base.commit == git(repo, "rev-parse", "main")
    return took_s


# --- peers: the same edits, then a commit


def worked(tree: Path) -> None:
    subprocess.run(["/bin/sh", "-c", EDIT], cwd=tree, check=True)
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "work")


def by_worktree(repo: Path, tree: Path) -> None:
    git(repo, "worktree", "add", "-q", "--detach", tree, "main")
    worked(tree)


def by_clone(repo: Path, tree: Path) -> None:
    git(repo.parent, "clone", "-q", "--local", repo, tree)
    worked(tree)


def by_dulwich(repo: Path, tree: Path) -> None:
    os.environ |= ENVIRONMENT  # a uid without a name needs to be told who it is
    with open(os.devnull, "wb") as quiet:
        dulwich.porcelain.clone(str(repo), str(tree), errstream=quiet).close()
    subprocess.run(["/bin/sh", "-c", EDIT], cwd=tree, check=True)
    dulwich.porcelain.add(str(tree))
    who = b"Bench <bench@localhost>"
    dulwich.porcelain.commit(str(tree), message=b"work", author=who, committer=who)


PEERS: dict[str, Callable[[Path, Path], None]] = {
    "git worktree": by_worktree,
    "git clone --local": by_clone,
    "dulwich clone": by_dulwich,
}


def peer_ms(way: Callable[[Path, Path], None], repo: Path, runs: int) -> float:
    found = []
    for number in range(runs):
        tree = repo.with_name(f"{repo.name}-peer-{number}")
        began = time.perf_counter()
        way(repo, tree)
        found.append((time.perf_counter() - began) * 1000)
        shutil.rmtree(tree)
        git(repo, "worktree", "prune")
    return round(statistics.median(found), 1)


async def measure(folder: Path, files: int, runs: int, peer_runs: int) -> dict[str, Any]:
    sizes = {
        "small": (SMALL_FILES, 1),
        "history": (HISTORY_FILES, HISTORY_COMMITS),
        "large": (files, 1),
    }
    ours = await Ours(folder / "home").start()
    found: dict[str, dict[str, Any]] = {}
    repos = {}
    for name, (count, commits) in sizes.items():
        say(f"{name}: {count} files, {commits} commits …")
        repos[name] = make(folder / name, files=count, commits=commits)
        made = await prepared(ours, repos[name])
        found[name] = {"files": count, "commits": commits, **made}
    say("ours …")
    for name, figures in (await in_turn(ours, repos, runs)).items():
        found[name] |= figures
    for name, repo in repos.items():
        found[name]["prepare_next_s"] = round(await next_commit_s(ours, repo), 2)
        found[name]["peers_ms"] = {}
        for peer, way in PEERS.items():
            say(f"{name}: {peer} …")
            found[name]["peers_ms"][peer] = peer_ms(way, repo, peer_runs)
    base = await ours.spaces.prepare(str(folder / "large"), None)
    disk = await ours.disk_bytes(base, CONCURRENT)
    large, small = found["large"], found["small"]
    flat = {
        kind: round(large[kind]["total_ms"] / small[kind]["total_ms"], 2)
        for kind in ("edits", "no_op")
    }
    return {
        "worktree_ratio": round(large["peers_ms"]["git worktree"] / large["edits"]["total_ms"], 1),
        "flat_ratio": flat["edits"],
        "no_op_flat_ratio": flat["no_op"],
        "disk_mb_50": round(disk / 1e6, 2),
        "results": found,
        "backend": ours.sandbox.describe(),
    }


def table(found: dict[str, Any]) -> None:
    print(f"{'':34}" + "".join(f"{name:>16}" for name in found))
    rows = {
        "files": lambda r: r["files"],
        "ours, warm, edits and commit (ms)": lambda r: r["edits"]["total_ms"],
        "  lease": lambda r: r["edits"]["lease_ms"],
        "  sandbox, agent": lambda r: r["edits"]["sandbox_ms"],
        "  diff and commit": lambda r: r["edits"]["diff_commit_ms"],
        "  release, afterwards": lambda r: r["edits"]["release_ms"],
        "ours, no-op agent (ms)": lambda r: r["no_op"]["total_ms"],
        "ours, first time: prepare (s)": lambda r: r["prepare_cold_s"],
        "ours, next commit: prepare (s)": lambda r: r["prepare_next_s"],
        **{f"{peer} (ms)": lambda r, p=peer: r["peers_ms"][p] for peer in PEERS},
    }
    for title, of in rows.items():
        print(f"{title:34}" + "".join(f"{of(result):>16}" for result in found.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=100_000, help="of the large repository")
    parser.add_argument("--runs", type=int, default=9, help="of ours; medians are told")
    parser.add_argument("--peer-runs", type=int, default=3)
    told = parser.parse_args()
    if told.files < SMALL_FILES:
        parser.error(f"--files: at least {SMALL_FILES}")
    with tempfile.TemporaryDirectory(prefix="wfhub-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        pid = os.fork()  # the folder's owner stays behind to remove it
        if pid == 0:
            run(folder, told)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


def run(folder: Path, told: argparse.Namespace) -> None:
    if os.geteuid() == 0:
        uid = privileges.SERVICE_UIDS["runner"]
        os.chown(folder, uid, uid)
        privileges.drop(uid, keep_visible=privileges.code_paths(), keep_writable=(folder,))
    os.environ.update(ENVIRONMENT)
    load = os.getloadavg()[0]
    began = time.monotonic()
    found = asyncio.run(measure(folder, told.files, told.runs, told.peer_runs))
    table(found["results"])
    line = {
        "bench": "workspace",
        **{name: found[name] for name in RATIOS},
        "files": told.files,
        "runs": told.runs,
        "peer_runs": told.peer_runs,
        "versions": {
            "git": git(folder, "version").split()[-1],
            "dulwich": ".".join(map(str, dulwich.__version__)),
            "python": platform.python_version(),
        },
        "backend": found["backend"],
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "seconds": round(time.monotonic() - began, 1),
        "results": found["results"],
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
