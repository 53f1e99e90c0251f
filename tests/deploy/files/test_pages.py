"""What README and pages tell to type is there: each program, subcommand, option, file and variable.

It is not run here; `tests/deploy/live` types the compose page's backup and the pages of the options
for network storage and git hosts, `make demo` the README's.
"""

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pages
import pytest
import typer
import typer.main
import yaml
from deploy_tools import ROOT, tool
from pages import Command
from typer._click.exceptions import NoSuchOption, UsageError
from wfhub_admin import cli as admin
from wfhub_client import cli as client

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("docs/deploy/*.md")),
]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
CHART = ROOT / "deploy" / "helm" / "workflow-hub"
COMPOSE = ROOT / "deploy" / "compose"
VARIABLE = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
FIELD = re.compile(r"^    ([a-z]\w*): ", re.MULTILINE)
PATH = re.compile(r"(?:deploy|docs|tests|services|libs|bench|examples|requirements)/[\w./*-]+")
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")
# Of the reader's own machine or of another project.
NOT_OURS = {"HTTP_PROXY", "HTTPS_PROXY", "COMPOSE_FILE"}
GIVEN = {"git", "curl", "kubectl", "sh", "cat", "printf", "echo", "mkdir", "chown", "tar", "cd"}
GIVEN |= {"openssl", "export"}


@pytest.fixture(params=NAMES)
def page(request: pytest.FixtureRequest) -> Path:
    return ROOT / str(request.param)


def test_what_a_page_tells_to_type_is_there(page: Path) -> None:
    wrong = [
        f"{command}: {why}"
        for command in pages.commands(page.read_text())
        for why in objections(command)
    ]
    assert not wrong, "\n".join(wrong)


def test_commands_within_sentences_are_there(page: Path) -> None:
    wrong = []
    for code in pages.inline(page.read_text()):
        try:
            words = shlex.split(code.removeprefix(".venv/bin/"))
        except ValueError:  # half of something
            continue
        if words[0] == "wfhub" and len(words) > 1:
            wrong += [f"{code}: {why}" for why in _wfhub(words[1:], whole=False)]
        elif words[0] == "wfhub-admin" and len(words) > 1:
            wrong += [f"{code}: {why}" for why in _admin(words[1:2])]
        elif words[0] == "make" and len(words) > 1:
            wrong += [f"{code}: {why}" for why in _make(words[1:])]
    assert not wrong, "\n".join(wrong)


def test_variables_that_a_page_names_are_read_by_something(page: Path) -> None:
    named = {
        name
        for code in (*pages.inline(page.read_text()), *pages.blocks(page.read_text()))
        for name in VARIABLE.findall(code)
    }
    assert named - variables_of_the_code() - NOT_OURS == set()


def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text()
    here = ROOT / "deploy" / "helm" / "workflow-hub"
    for code in pages.inline(text):
        for name in PATH.findall(code) if "…" not in code else []:
            bases = (ROOT, ROOT / "tests", here, COMPOSE)
            assert any([*base.glob(name.rstrip("./"))] for base in bases), name
    for target, _ in LINK.findall(text):
        assert "://" in target or (page.parent / target).exists(), target


def test_secrets_that_values_name_are_made_by_the_page_that_names_the_values() -> None:
    text = (ROOT / "docs" / "deploy" / "kubernetes.md").read_text()
    for command in pages.commands(text):
        for option, value in pairwise(command.words):
            if option == "--values":
                values = yaml.safe_load((ROOT / value).read_text())
                named = (
                    values.get("gateway", {}).get("keySecret"),
                    values.get("runner", {}).get("git", {}).get("secret"),
                    values.get("restore", {}).get("passphraseSecret"),
                )
                assert all(f"create secret generic {name} " in text for name in named if name)


def objections(command: Command) -> Iterator[str]:
    first, *rest = command.words
    program = first.removeprefix(".venv/bin/")
    check: Callable[[Command], Iterator[str]] | None = {
        "docker": _docker, "helm": _helm, "cp": _copied, "install": _copied
    }.get(program)  # fmt: skip
    if program == "wfhub":
        yield from _wfhub(rest, whole=True)
    elif program == "wfhub-admin":
        yield from _admin(rest)
    elif program == "make":
        yield from _make(rest)
    elif check is not None:
        yield from check(command)
    elif program not in GIVEN:
        yield f"{program} is not known to this test"
    if command.writes == ".env":
        written = VARIABLE.findall(str(command))
        if "COMPOSE_FILE" in written:
            written.remove("COMPOSE_FILE")
            files = command.words[1].partition("=")[2].split(":")
            yield from (f"no file {file}" for file in files if not (COMPOSE / file).exists())
        yield from (f"nothing reads {name}" for name in written if name not in _compose_text())


def _wfhub(words: list[str], *, whole: bool) -> Iterator[str]:
    """`whole`: not only named, but as it is typed."""
    found: Any = typer.main.get_command(client.app)
    context = found.make_context("wfhub", [], resilient_parsing=True)
    rest = list(words)
    while hasattr(found, "get_command") and rest:
        name = rest.pop(0)
        found = found.get_command(context, name)
        if found is None:
            yield f"no subcommand {name}"
            return
    if not rest and not whole:
        return
    try:
        found.make_context("wfhub", rest)
    except NoSuchOption as e:
        yield e.format_message()
    except UsageError as e:
        if whole:
            yield e.format_message()


def _admin(words: list[str]) -> Iterator[str]:
    try:
        admin.parser().parse_args(words + ["file"] * (words in (["backup"], ["restore"])))
    except SystemExit:
        yield "wfhub-admin does not take this"


def _make(words: list[str]) -> Iterator[str]:
    targets = [word for word in words if "=" not in word]
    done = subprocess.run(
        ["make", "--dry-run", "-C", str(ROOT), *targets], capture_output=True, text=True
    )
    if done.returncode:
        yield done.stderr.strip()
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name = word.partition("=")[0]
        if "=" in word and f"$({name}" not in makefile:
            yield f"the Makefile does not read {name}"


def _docker(command: Command) -> Iterator[str]:
    words = list(command.words[1:])
    match words[0]:
        case "compose":
            yield from _compose(words[1:], command)
        case "build":
            file = ROOT / words[words.index("-f") + 1]
            target = words[words.index("--target") + 1]
            if not file.exists():
                yield f"no file {file}"
            elif f" AS {target}" not in file.read_text() and "$" not in target:
                yield f"no target {target}"
        case "run" | "push" | "network" | "volume":
            return
        case other:
            yield f"docker {other} is not known to this test"


def _compose(words: list[str], command: Command) -> Iterator[str]:
    files, at = [], 0
    while words[at].startswith("-"):
        if words[at] == "-f":
            files.append(words[at + 1])
        elif words[at] == "--profile" and words[at + 1] not in _profiles():
            yield f"no profile {words[at + 1]}"
        at += 2
    if command.folder and command.folder != "deploy/compose":
        yield f"is typed in {command.folder}"
    yield from (f"no file {file}" for file in files if not (COMPOSE / file).exists())
    verb, rest = words[at], words[at + 1 :]
    if verb in {"run", "exec", "logs"}:
        takes_one = {"--entrypoint", "--user", "-u", "-v", "--volume"}
        named = iter(rest)
        service = next(
            (w for w in named if not w.startswith("-") or (w in takes_one and not next(named))), ""
        )
        if service not in _services():
            yield f"no service {service!r}"
        after = rest[rest.index(service) + 1 :] if service in rest else []
        if verb == "run" and service == "wfhub" and "--entrypoint" not in rest:
            yield from _wfhub(after, whole=True)
        if after[:1] == ["wfhub-admin"]:
            yield from _admin(after[1:])
    for option, value in pairwise(rest):
        if option == "--scale" and value.partition("=")[0] not in _services():
            yield f"no service {value}"


def _helm(command: Command) -> Iterator[str]:
    words = command.words
    for word in words:
        if word.startswith("deploy/") and not (ROOT / word).exists():
            yield f"no file {word}"
    if words[1] in {"install", "upgrade"} and not any("image.registry=" in w for w in words):
        yield "no image.registry: helm keeps nothing of what an earlier --set said"
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for option, value in pairwise(words):
        if option == "--set":
            found: Any = values
            for key in value.partition("=")[0].split("."):
                if not isinstance(found, dict) or key not in found:
                    yield f"no value {value}"
                    break
                found = found[key]


def _copied(command: Command) -> Iterator[str]:
    base = ROOT / command.folder if command.words[0] == "cp" else ROOT
    *sources, _ = [word for word in command.words[1:] if not word.startswith("-")]
    for source in sources:
        if not source.startswith(("~", "/", "$")) and not (base / source).exists():
            yield f"no file {source}"


@cache
def _services() -> frozenset[str]:
    return frozenset(_composed()["services"])


@cache
def _profiles() -> frozenset[str]:
    services = _composed()["services"].values()
    return frozenset(name for each in services for name in each.get("profiles", []))


@cache
def _composed() -> Any:
    done = subprocess.run(
        [
            tool("docker-compose"),
            *("-f", str(COMPOSE / "compose.yaml"), "--env-file", str(COMPOSE / ".env.example")),
            *("--profile", "*", "config", "--format", "json"),
        ],
        env={},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return json.loads(done.stdout)


@cache
def _compose_text() -> str:
    return "".join(file.read_text() for file in COMPOSE.glob("*.yaml"))


@cache
def variables_of_the_code() -> frozenset[str]:
    """Names in capitals in what is run, tests and Makefile among it, and fields of settings, which
    are read from a variable of their name; not what is in pages."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files"],
        check=True,
        capture_output=True,
        text=True,
    )
    found: set[str] = set()
    for name in listed.stdout.splitlines():
        if name.endswith((".py", ".yaml", ".example", ".tpl", ".json", "Makefile", "Dockerfile")):
            path = ROOT / name
            if path.exists() and path.stat().st_size < 1_000_000 and "cassettes" not in name:
                text = path.read_text()
                found |= set(VARIABLE.findall(text))
                found |= {field.upper() for field in FIELD.findall(text)}
    return frozenset(found)


def test_this_test_notices() -> None:
    """Each kind of mistake, once."""
    typed = """
    cd deploy/compose
    wfhub statsu TASK
    wfhub run --promt x
    wfhub-admin bakup
    make tset
    docker compose -f compose.yml up
    docker compose run wfhubb status
    docker compose --profile nothing up
    docker compose run --rm wfhub statsu
    docker build -f deploy/compose/Dockerfile --target apii .
    helm install hub deploy/helm/workflow-hub --set image.registryy=x
    helm install hub deploy/helm/workflow-hub --values deploy/helm/workflow-hub/examples/x.yaml
    cp .env.exampel .env
    echo 'GIT_HOSTES=x' >> .env
    echo 'COMPOSE_FILE=compose.yaml:nothing.yaml' >> .env
    """
    found = [[*objections(command)] for command in pages.commands(f"\n\n{typed.strip(chr(10))}\n")]
    assert found[0] == []
    assert all(found[1:]), found
