"""The container's bundle: what SECURITY.md asks for, and what a spec may not do."""

import base64
from pathlib import Path

import pytest
from wfhub_agent_runner.sandbox import bundle
from wfhub_agent_runner.sandbox.bundle import Own, Passed, Place
from wfhub_agent_runner.sandbox.images import Image
from wfhub_agent_runner.sandbox.interpreter import Interpreter
from wfhub_agent_runner.sandbox.layers import CacheLayer, Layer
from wfhub_agent_runner.sandbox.port import SandboxSpec
from wfhub_agent_runner.sandbox.usage import Usage
from wfhub_common.errors import Rejected
from wfhub_common.messages import Limits

IMAGE = Image("base:1", "sha256:1", Path("/home/r/images/1/root"), {"PATH": "/opt/go/bin:/bin"})
OWN = Own(
    interpreter=Interpreter(
        ("/p/loader", "python3"), Path("/l"), {"/run/wfhub/python": Path("/p")}
    ),
    binds={"/opt/python": Path("/opt/python")},
)
PLACE = Place.below(Path("/home/r/sandbox/container-1"))
FDS = Passed(status=7, report=9, go=8)
LAYER = Layer(
    Path("/layer/upper"),
    Path("/layer/work"),
    Usage,
    {"/home/agent/.npm": CacheLayer(Path("/c/upper"), Path("/c/work"))},
)


def spec(**fields: object) -> SandboxSpec:
    defaults: dict[str, object] = {
        "argv": ("agent",),
        "lower": Path("/srv/lower"),
        "limits": Limits(),
        "wall_s": 10.0,
    }
    return SandboxSpec(**{**defaults, **fields})  # type: ignore[arg-type]


def test_the_process_has_no_right_and_can_gain_none() -> None:
    made = bundle.config(spec(), IMAGE, OWN, PLACE, seccomp=b"filter", fds=FDS)
    process, linux = made["process"], made["linux"]
    assert process["user"] == {"uid": 1000, "gid": 1000}
    assert process["noNewPrivileges"]
    assert {tuple(held) for held in process["capabilities"].values()} == {()}
    assert made["root"]["readonly"]
    assert linux["uidMappings"] == [{"containerID": 1000, "hostID": 0, "size": 1}]
    kinds = {namespace["type"] for namespace in linux["namespaces"]}
    assert kinds == {"user", "pid", "ipc", "uts", "network", "mount", "cgroup"}
    assert not [namespace for namespace in linux["namespaces"] if "path" in namespace]
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(linux["readonlyPaths"])
    given = made["annotations"]["run.oci.seccomp_bpf_data"]
    assert base64.b64decode(given) == b"filter"
    assert "hooks" not in made


def test_dev_is_read_only_and_shared_memory_bounded() -> None:
    made = bundle.config(spec(), IMAGE, OWN, PLACE, seccomp=b"", fds=FDS)
    options = {mount["destination"]: mount["options"] for mount in made["mounts"]}
    assert "ro" in options["/dev"]
    assert "size=67108864" in options["/dev/shm"]
    assert set(options) == {"/proc", "/dev", "/dev/pts", "/dev/shm"}


def test_the_first_process_gets_its_descriptors_and_the_folder() -> None:
    made = bundle.config(spec(cwd="/workspace/a"), IMAGE, OWN, PLACE, seccomp=b"", fds=FDS)
    assert made["process"]["args"][:2] == ["/run/wfhub/first", "python3"]
    assert made["process"]["args"][-7:] == [
        "/run/wfhub/first.py",
        "7",
        "8",
        "-",
        "9",
        "/workspace/a",
        "/run/wfhub/start",
    ]
    assert made["process"]["cwd"] == "/"


def test_what_is_mounted_later_lies_over_what_came_before() -> None:
    plan = bundle.plan(
        spec(
            extra_lowers=(Path("/srv/over"),),
            binds={"/opt/tool/bin": Path("/t/bin"), "/opt/tool": Path("/t")},
            caches={"/home/agent/.npm": Path("/srv/npm")},
            files={"/run/wfhub/prompt": b"", "/home/agent/x": b"", "/tmp/y": b""},
            gateway_socket=Path("/s/gateway.sock"),
        ),
        IMAGE,
        OWN,
        LAYER,
        PLACE,
    )
    assert plan["root"][0] == "/home/r/images/1/root"
    targets = [step[2] if step[0] in ("bind", "file") else step[1] for step in plan["steps"]]
    assert targets == [
        "/tmp",
        "/home/agent",
        "/run",
        "/run/gateway.sock",
        "/run/wfhub/python",
        "/opt/python",
        "/opt/tool",
        "/opt/tool/bin",
        "/home/agent/.npm",
        "/home/agent/x",
        "/tmp/y",
        "/workspace",
    ]
    workspace = plan["steps"][-1]
    assert workspace[2:] == [["/srv/lower", "/srv/over"], "/layer/upper", "/layer/work"]


@pytest.mark.parametrize("inside", ["/", "/etc", "/proc/sys", "/run", "/workspace/x", "/home"])
def test_a_bind_cannot_cover_the_sandboxs_own(inside: str) -> None:
    with pytest.raises(Rejected, match="cover"):
        bundle.plan(spec(binds={inside: Path("/srv/x")}), IMAGE, OWN, LAYER, PLACE)


@pytest.mark.parametrize("path", ["/etc/passwd", "/usr/x", "/run/wfhub/first.py", "/workspace/x"])
def test_a_file_cannot_be_put_elsewhere(path: str) -> None:
    with pytest.raises(Rejected, match="cannot put a file"):
        bundle.plan(spec(files={path: b""}), IMAGE, OWN, LAYER, PLACE)


def test_path_has_the_specs_additions_before_the_images() -> None:
    asked = {"PATH": "/tool/bin:/usr/local/bin:/usr/bin:/bin"}
    made = bundle.environment(spec(env=asked), IMAGE)
    assert made["PATH"] == "/tool/bin:/opt/go/bin:/bin:/usr/local/bin:/usr/bin"
    assert made["HOME"] == "/home/agent"
