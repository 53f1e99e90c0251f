"""The bwrap command line: what SECURITY.md's recipe asks for, and what a spec may not do."""

from itertools import pairwise
from pathlib import Path

import pytest
from wfhub_agent_runner.sandbox import arguments
from wfhub_agent_runner.sandbox.arguments import Descriptors, Host
from wfhub_agent_runner.sandbox.layers import Layer
from wfhub_agent_runner.sandbox.port import SandboxSpec
from wfhub_agent_runner.sandbox.usage import Usage
from wfhub_common.errors import Rejected
from wfhub_common.messages import Limits

HOST = Host(
    bwrap=Path("/opt/bwrap"),
    python=Path("/usr/bin/python3"),
    python_prefix=None,
    system_links={"/bin": "usr/bin", "/lib64": None},
)
FDS = Descriptors(
    seccomp=3, status=4, block=None, report=5, files={"/run/wfhub/a": 6}, etc=Path("/srv/etc")
)

COVERING = [
    "/",
    "/etc",
    "/etc/cron.d",
    "/proc",
    "/proc/sys",
    "/dev/shm",
    "/run",
    "/workspace",
    "/workspace/x",
    "/usr",
    "/home",
    "/home/agent",
    "/tmp",
    "relative",
    "/opt/../etc",
    "//etc",
]
NOT_FOR_FILES = [
    "/etc/passwd",
    "/usr/x",
    "/run/gateway.sock",
    "/run/wfhub/../x",
    "/run/wfhub/start",
    "/run/wfhub/forwarder.py",
    "/workspace/x",
    "x",
    "/home/agentx",
    "/run/wfhub",
]


def spec(**fields: object) -> SandboxSpec:
    defaults: dict[str, object] = {
        "argv": ("agent", "--x"),
        "lower": Path("/srv/lower"),
        "limits": Limits(),
        "wall_s": 10.0,
    }
    return SandboxSpec(**(defaults | fields))  # type: ignore[arg-type]


LAYER = Layer(Path("/srv/upper"), Path("/srv/work"), Usage)


def options(**fields: object) -> list[str]:
    return arguments.options(spec(**fields), HOST, FDS, LAYER)


def test_every_namespace_is_new_and_user_namespaces_end_there() -> None:
    words = options()
    for word in ("user", "pid", "ipc", "uts", "net", "cgroup-try"):
        assert f"--unshare-{word}" in words
    assert {"--disable-userns", "--assert-userns-disabled", "--clearenv", "--new-session"} <= {
        *words
    }
    assert ("--cap-drop", "ALL") in pairwise(words)


def test_kernel_settings_and_devices_are_read_only() -> None:
    words = options()
    at = words.index("--proc")
    assert words[at : at + 5] == ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"]
    assert words.index("/dev/shm") < words.index("/dev", words.index("--remount-ro"))


def test_the_root_is_made_read_only_after_everything_was_mounted() -> None:
    words = options()
    last = max(i for i, pair in enumerate(pairwise(words)) if pair == ("--remount-ro", "/"))
    mounts = ("--bind", "--ro-bind", "--tmpfs", "--overlay", "--file", "--symlink")
    assert not any(word in mounts for word in words[last:])


def test_etc_is_one_folder_that_is_read_only() -> None:
    words = options()
    bound = [b for a, b in zip(words, words[2:], strict=False) if a == "--ro-bind" and "etc" in b]
    assert bound == ["/etc"]
    assert words[words.index("/etc") - 2 :][:2] == ["--ro-bind", "/srv/etc"]


def test_extra_layers_lie_over_the_lower_one() -> None:
    words = options(extra_lowers=(Path("/srv/delta"), Path("/srv/git")))
    sources = [b for a, b in pairwise(words) if a == "--overlay-src"]
    assert sources == ["/srv/lower", "/srv/delta", "/srv/git"]


def test_the_environment_is_not_on_the_command_line() -> None:
    given = spec(env={"OPENAI_API_KEY": "dummy-key"})
    start = arguments.start(given, HOST, FDS)
    assert not any("dummy-key" in word for word in (*start.argv, *start.paths, *start.forwarder))
    assert "dummy-key" in options(env={"OPENAI_API_KEY": "dummy-key"})


def test_the_gateway_is_forwarded_only_when_there_is_a_socket() -> None:
    assert not arguments.start(spec(), HOST, FDS).ports
    with_socket = spec(gateway_socket=Path("/srv/g.sock"))
    start = arguments.start(with_socket, HOST, FDS)
    assert (start.ports, start.forwarder[-1]) == ([8090], "60=/run/gateway.sock")
    assert "/run/gateway.sock" in options(gateway_socket=Path("/srv/g.sock"))


@pytest.mark.parametrize("inside", COVERING)
def test_a_bind_over_the_sandboxs_own_folders_is_refused(inside: str) -> None:
    with pytest.raises(Rejected, match="cannot bind"):
        options(binds={inside: Path("/opt/tools")})


@pytest.mark.parametrize("path", ["/home/agent", "/home/agent/../x", "/etc/x", ".npm", "/tmp/x"])
def test_a_cache_lies_below_the_home(path: str) -> None:
    with pytest.raises(Rejected, match="belongs below"):
        options(caches={path: Path("/srv/npm")})


def test_a_cache_without_a_layer_over_it_is_read_only() -> None:
    words = options(caches={"/home/agent/.npm": Path("/srv/npm")})
    at = words.index("/srv/npm")
    assert words[at - 1 : at + 2] == ["--ro-bind", "/srv/npm", "/home/agent/.npm"]


def test_a_toolchain_is_bound_read_only_at_its_path() -> None:
    words = options(binds={"/opt/tools": Path("/opt/tools")})
    at = words.index("/opt/tools")
    assert words[at - 1 : at + 2] == ["--ro-bind", "/opt/tools", "/opt/tools"]


@pytest.mark.parametrize("path", NOT_FOR_FILES)
def test_a_file_is_put_only_where_a_spec_may(path: str) -> None:
    with pytest.raises(Rejected, match="cannot put a file"):
        arguments.checked_file(path)


def test_a_file_may_be_put_into_the_home_and_the_run_folder() -> None:
    for path in ("/run/wfhub/prompt.txt", "/home/agent/.gemini/settings.json", "/tmp/x"):
        assert arguments.checked_file(path) == path


def test_a_program_is_looked_for_in_the_path_that_it_will_have() -> None:
    def paths(**fields: object) -> tuple[str, ...]:
        return tuple(arguments.start(spec(**fields), HOST, FDS).paths)

    assert paths() == ("/usr/local/bin/agent", "/usr/bin/agent", "/bin/agent")
    assert paths(env={"PATH": "/opt/x:"}) == ("/opt/x/agent", "agent")
    assert paths(argv=("bin/agent",)) == ("bin/agent",)


def test_a_way_out_is_bound_forwarded_and_named_only_when_it_is_given() -> None:
    def all_words(asked: SandboxSpec) -> list[str]:
        start = arguments.start(asked, HOST, FDS)
        listens = start.forwarder[4:] if start.ports else ()
        return [*arguments.options(asked, HOST, FDS, LAYER), *map(str, start.ports), *listens]

    without = all_words(spec())
    assert not [word for word in without if "proxy" in word.lower() or ".sock" in word]
    both = all_words(spec(gateway_socket=Path("/srv/g"), egress_socket=Path("/srv/e")))
    pairs = list(pairwise(both))
    assert ("/srv/e", "/run/egress.sock") in pairs
    assert both[-4:] == ["8090", "8091", "60=/run/gateway.sock", "61=/run/egress.sock"]
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        assert (name, "http://127.0.0.1:8091") in pairs
    assert ("NO_PROXY", "127.0.0.1,localhost") in pairs
    assert ("NO_PROXY", "127.0.0.1,localhost") not in pairwise(all_words(spec(gateway_socket="g")))
