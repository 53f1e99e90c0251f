"""Which image an attempt gets: the task's, else its repository's, else the operator's default.

`CONTAINER_IMAGES=python:3.12=web,mobile;ghcr.io/acme/go@sha256:…=*` says which other images than
CONTAINER_IMAGE there are, and which projects may ask for them; names are compared as they stand. A
task that asks for another one is refused; a devcontainer.json that does gets the default, and the
proof says so.
Raises: ValueError for a rule that cannot be read; Rejected (`image-forbidden`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from wfhub_common.errors import Rejected

_EVERY = "*"


@dataclass(frozen=True)
class Chosen:
    """`image`: empty for the default. `by`: task | devcontainer | operator; empty: there are no
    images. `refused`: what the repository asked for and did not get."""

    image: str = ""
    by: str = ""
    refused: str = ""

    def described(self) -> dict[str, str]:
        """For the proof."""
        told = {"image_by": self.by, "image_refused": self.refused}
        return {name: value for name, value in told.items() if value}


@dataclass(frozen=True)
class ImagePolicy:
    """`allowed` maps an image to the projects that may ask for it."""

    default: str
    allowed: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.default, *self.allowed)))

    def chosen(self, project: str, *, task: str, repository: str) -> Chosen:
        if task:
            if not self._may(project, task):
                raise Rejected(
                    "image-forbidden",
                    f"project {project} may not use the image {task!r}: ask the operator to add it"
                    " to CONTAINER_IMAGES, or leave it out of the task",
                    image=task,
                )
            return Chosen(self._named(task), "task")
        if repository and self._may(project, repository):
            return Chosen(self._named(repository), "devcontainer")
        return Chosen(by="operator", refused=repository[:300])

    def _may(self, project: str, image: str) -> bool:
        return image == self.default or bool(
            self.allowed.get(image, frozenset()) & {project, _EVERY}
        )

    def _named(self, image: str) -> str:
        return "" if image == self.default else image


def parse(default: str, text: str) -> ImagePolicy:
    allowed: dict[str, frozenset[str]] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        image, equals, projects = part.rpartition("=")
        wanted = frozenset(filter(None, map(str.strip, projects.split(","))))
        if not equals or not image.strip() or not wanted:
            raise ValueError(f"{part!r} is no rule; write image=project,project or image=*")
        if image.strip() in allowed:
            raise ValueError(f"two rules for {image.strip()!r}; leave one")
        allowed[image.strip()] = wanted
    return ImagePolicy(default, allowed)
