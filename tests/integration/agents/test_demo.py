"""The whole demo as `make demo` runs it: a process, a stack of its own, the replayed cassette."""

import os
import subprocess
import sys

from dulwich.repo import Repo
from wfhub_local.demo.folder import Folder

DEMO_S_MAX = 110


def test_the_demo_repairs_the_defect_and_proves_it(demo: Folder) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WFHUB_", "LLM_"))}
    done = subprocess.run(
        [sys.executable, "-m", "wfhub_local.demo", f"--folder={demo.path}"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEMO_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    for said in (
        "mode  replay: the model's words are replayed from a cassette that was written by hand",
        "before  verification failed",
        "after  verification passed",
        "verified offline",
        "7 of 7 model exchanges were replayed",
        "-            self.base = 10\n+            base = 10",
    ):
        assert said in done.stdout, said
    with Repo(str(demo.repository)) as repo:
        refs = [ref.decode() for ref in repo.get_refs()]
    assert sum(ref.startswith("refs/heads/wfhub/") for ref in refs) == 1
    assert sum(ref.startswith("refs/wfhub/published/") for ref in refs) == 1
