"""The sandbox that the operator chose, made ready, whichever backend it is.

Raises: Rejected when it cannot be made here; ValueError for a setting that says nothing usable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wfhub_agent_runner.sandbox import leftovers, runtimes
from wfhub_agent_runner.sandbox.bwrap import BwrapSandbox
from wfhub_agent_runner.sandbox.container import ContainerSandbox
from wfhub_agent_runner.sandbox.images import ENGINE_DEFAULT, ImageStore, archive_in
from wfhub_agent_runner.sandbox.port import Sandbox

AUTH_FILE = "REGISTRY_AUTH_FILE"  # the engine's variable
BWRAP = "bwrap"


@dataclass(frozen=True)
class Choice:
    """For the container backend: `images`, the default one first; `engine_env`, what the engine
    finds in its environment."""

    backend: str = BWRAP
    images: tuple[str, ...] = ()
    engine: str = ENGINE_DEFAULT
    runtime: str = runtimes.DEFAULT
    engine_env: Mapping[str, str] = field(default_factory=dict)

    def files(self) -> tuple[Path, ...]:
        """Of the host, that `opened` reads besides the home."""
        archives = [file for name in self.images if (file := archive_in(name)) is not None]
        logins = self.engine_env.get(AUTH_FILE)
        return (*archives, Path(logins)) if logins else tuple(archives)


def opened(choice: Choice, home: Path, cgroups: Sequence[Path] = ()) -> Sandbox:
    """Blocks, for as long as images take to fetch. What an earlier runner left there is removed:
    call it once for a home, before anything runs."""
    scratch = home / "sandbox"
    leftovers.sweep(scratch)
    if choice.backend == BWRAP:
        return BwrapSandbox(scratch=scratch, cgroups=cgroups)
    if not choice.images or not all(choice.images):
        raise ValueError("CONTAINER_IMAGE: name the image that tasks get by default")
    store = ImageStore(home, choice.engine, choice.engine_env)
    images = {name: store.prepared(name) for name in choice.images}
    store.keep_only(images.values())
    return ContainerSandbox(
        scratch=scratch,
        images=images,
        default=choice.images[0],
        runtime=choice.runtime,
        cgroups=cgroups,
    )
