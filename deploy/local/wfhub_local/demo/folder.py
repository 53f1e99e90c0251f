"""The demo's folder: what is prepared once and what each run makes anew.

downloads/ toolchain/   prepared; with them there a run needs no network
repository/ config/     made anew by each run, and proof.json, the last run's
data/                   the local stack's own, kept between runs
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from wfhub_local.demo import repository, sources, toolchain

DEFAULT_FOLDER = ("WFHUB_DEMO_DIR", ".demo")  # variable, and the value without it


@dataclass(frozen=True)
class Folder:
    path: Path

    @property
    def toolchain(self) -> Path:
        return self.path / "toolchain"

    @property
    def repository(self) -> Path:
        return self.path / "repository"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def config(self) -> Path:
        """XDG_CONFIG_HOME of the demo's commands: what they come to trust, the user does not."""
        return self.path / "config"

    @property
    def proof(self) -> Path:
        return self.path / "proof.json"

    def make_config(self) -> None:
        shutil.rmtree(self.config, ignore_errors=True)
        self.config.mkdir(parents=True)

    def archive(self, release: sources.Release) -> Path:
        made = toolchain.make(self.toolchain)
        python = toolchain.python_of(made)
        return sources.fetch(release, self.path / "downloads", python=python)

    def prepare(self) -> None:
        """Raises: CannotPrepare."""
        for release in (sources.DEFECTIVE, sources.REPAIRED):
            self.archive(release)

    def make_repository(self) -> str:
        """Returns the commit that the task starts from."""
        return repository.create(
            self.repository,
            defective=self.archive(sources.DEFECTIVE),
            repaired=self.archive(sources.REPAIRED),
        )
