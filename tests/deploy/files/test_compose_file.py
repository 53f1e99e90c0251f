"""compose.yaml, the images' file and the seccomp profile, as Docker Compose understands them."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy_tools import ROOT, tool
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from wfhub_common import privileges

COMPOSE = ROOT / "deploy" / "compose"
ONE_SHOT = {"secrets", "database", "wfhub", "backup"}
HTTP_SERVICES = ("api", "proof-store", "llm-gateway")
NOT_OURS = {"ollama"}
NEEDS_ROOT = {"secrets", "backup"}  # they give files to their owners


def config(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            tool("docker-compose"),
            *("-f", str(COMPOSE / "compose.yaml"), "--env-file", str(COMPOSE / ".env.example")),
            *("--profile", "*", "config", *arguments),
        ],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    done = config("--format", "json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)["services"])


def test_it_is_valid_with_and_without_an_env_file() -> None:
    assert config("--quiet").returncode == 0
    bare = [tool("docker-compose"), "-f", str(COMPOSE / "compose.yaml"), "config", "--quiet"]
    assert subprocess.run(bare, env={}, timeout=60).returncode == 0


def test_the_options_files_are_valid_over_it() -> None:
    def over(file: str, **env: str) -> dict[str, Any]:
        argv = [
            tool("docker-compose"),
            "-f",
            str(COMPOSE / "compose.yaml"),
            "-f",
            str(COMPOSE / file),
        ]
        done = subprocess.run(
            [*argv, "config", "--format", "json"],
            env=env, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    share = {"SHARE_OPTIONS": "addr=10.0.0.5,rw", "SHARE_DEVICE": ":/export"}
    shared = over("network-storage.yaml", **share)
    mounts = shared["services"]["agent-runner"]["volumes"]
    assert {"workspaces"} == {m["source"] for m in mounts if m["target"] == "/workspaces"}
    assert shared["volumes"]["workspaces"]["driver_opts"]["type"] == "nfs"
    diskless = over("git-based.yaml")["services"]["agent-runner"]
    assert [m["target"] for m in diskless["volumes"]] == ["/run/wfhub", "/etc/wfhub"]
    assert any(line.startswith("/var/lib/wfhub:") for line in diskless["tmpfs"])


def test_every_container_is_confined(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged"), name
        assert service.get("network_mode") in (None, "none"), name
        assert re.fullmatch(r".+:v?\d+\.\d+\.\d+", service["image"]), "an image by its version"
        if name not in NOT_OURS:
            assert service["read_only"] is True, name
            assert service["pids_limit"], name
        assert (service.get("user") == "0:0") == (name in NEEDS_ROOT), name
        mounts = [m["source"] for m in service.get("volumes", []) if m["type"] == "bind"]
        assert not [m for m in mounts if "docker.sock" in m or m == "/"], name


def test_who_has_a_port_asks_for_a_token_and_is_on_loopback(
    services: dict[str, Any],
) -> None:
    ports = {name: s["ports"] for name, s in services.items() if s.get("ports")}
    assert set(ports) == {"api", "postgrest"}
    assert {p["host_ip"] for each in ports.values() for p in each} == {"127.0.0.1"}
    assert services["postgrest"]["profiles"] == ["postgrest"]
    asked = services["postgrest"]["environment"]
    assert asked["PGRST_JWT_SECRET"].startswith("@")
    assert "PGRST_DB_ANON_ROLE" not in asked


def test_each_secret_has_one_reader(services: dict[str, Any]) -> None:
    readers: dict[str, set[str]] = {}
    for name, service in services.items():
        for mount in service.get("volumes", []):
            if mount["type"] == "volume" and mount["source"].startswith("secrets-"):
                readers.setdefault(mount["source"], set()).add(name)
                assert name == "secrets" or mount["read_only"], (name, mount)
    assert {len(who - {"secrets"}) for who in readers.values()} == {1}, readers


def test_no_password_stands_in_an_environment(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for variable in service.get("environment", {}):
            if re.search("PASSWORD|TOKEN|DATABASE_URL|API_KEY|SHA256", variable):
                assert variable.endswith("_FILE") or name == "secrets", (name, variable)


def test_postgres_is_out_of_the_runners_reach(services: dict[str, Any]) -> None:
    runner, postgres = (set(services[n]["networks"]) for n in ("agent-runner", "postgres"))
    assert not runner & postgres
    assert set(services["nats"]["networks"]) == {"bus"}


def test_the_seccomp_profile_is_what_its_program_says() -> None:
    program = COMPOSE / "seccomp_profile.py"
    made = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    assert (COMPOSE / "seccomp-runner.json").read_text() == made.stdout


def test_the_seccomp_profile_leaves_out_what_a_container_must_not_do() -> None:
    profile = json.loads((COMPOSE / "seccomp-runner.json").read_text())
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    allowed = {
        name
        for rule in profile["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW"
        for name in rule["names"]
    }
    forbidden = (
        "setns ptrace process_vm_readv process_vm_writev kcmp bpf perf_event_open userfaultfd"
        " keyctl add_key request_key io_uring_setup io_uring_enter io_uring_register init_module"
        " finit_module delete_module kexec_load kexec_file_load open_by_handle_at reboot swapon"
        " swapoff settimeofday clock_settime fsopen fsmount fsconfig move_mount open_tree"
        " mount_setattr syslog acct quotactl iopl ioperm clone3 pidfd_getfd"
    )
    assert not allowed & set(forbidden.split())
    assert {"unshare", "mount", "pivot_root", "sethostname"} <= allowed


def test_a_profile_with_debuggers_differs_in_them_alone() -> None:
    program = COMPOSE / "seccomp_profile.py"
    made = subprocess.run(
        [sys.executable, program, "--debuggers"], capture_output=True, text=True, check=True
    )
    usual = json.loads((COMPOSE / "seccomp-runner.json").read_text())
    *rules, added = json.loads(made.stdout)["syscalls"]
    assert rules == usual["syscalls"]
    assert set(added["names"]) == {"ptrace", "process_vm_readv", "process_vm_writev"}


def test_spans_and_metrics_of_every_service_go_by_way_of_the_collector(
    services: dict[str, Any],
) -> None:
    found = yaml.safe_load((COMPOSE / "config" / "otel-collector.yaml").read_text())
    for pipeline in found["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= found[kind].keys()
    (scraped,) = found["receivers"]["prometheus"]["config"]["scrape_configs"]
    (names,) = scraped["dns_sd_configs"]
    assert set(names["names"]) == {"api", "scheduler", "proof-store", "llm-gateway", "agent-runner"}
    assert "4318" in found["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    example = (COMPOSE / ".env.example").read_text()
    assert f"METRICS_LISTEN=0.0.0.0:{names['port']}" in example
    assert "OTEL_EXPORTER_OTLP_ENDPOINT=http://otel:4318" in example
    for name in names["names"]:
        assert {"METRICS_LISTEN", "OTEL_EXPORTER_OTLP_ENDPOINT"} <= services[name][
            "environment"
        ].keys()
        assert "bus" in services[name]["networks"]
    assert set(services["otel"]["networks"]) == {"bus", "outside"}
    assert not services["otel"].get("ports")


def test_the_images_have_what_spans_need() -> None:
    """The extra `otel`, beyond what all services have."""
    locked = set(
        re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements/base.lock").read_text(), re.M)
    )
    needed, todo = set[str](), ["opentelemetry-exporter-otlp-proto-http", "opentelemetry-sdk"]
    while todo:
        name = todo.pop()
        if name in needed | locked:
            continue
        needed.add(name)
        asked = [Requirement(text) for text in metadata.requires(name) or []]
        todo += [
            canonicalize_name(each.name)
            for each in asked
            if each.marker is None or each.marker.evaluate({"extra": ""})
        ]
    text = (COMPOSE / "Dockerfile").read_text()
    (names,) = re.findall(r"locked.py ([a-z0-9\\\s-]+)< requirements/dev.lock > otel.lock", text)
    assert set(names.replace("\\", " ").split()) == needed


def test_the_images_uids_are_those_of_the_services() -> None:
    text = (COMPOSE / "Dockerfile").read_text()
    named = dict(re.findall(r"([a-z-]+):(64\d{3})[ ;\\]", text))
    assert {name: int(uid) for name, uid in named.items()} == privileges.SERVICE_UIDS
    for uid in re.findall(r"^USER (\d+)", text, re.MULTILINE):
        assert int(uid) in privileges.SERVICE_UIDS.values()


def test_every_service_of_the_images_file_has_a_health_check_and_no_root() -> None:
    lines = (COMPOSE / "Dockerfile").read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#"))
    stages = dict(re.findall(r"(?ms)^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", text))
    for name in (*HTTP_SERVICES, "scheduler", "agent-runner", "nats", "postgres"):
        assert "HEALTHCHECK" in stages[name], name
        assert re.search(r"^USER 64\d{3}", stages[name], re.MULTILINE), name
    with_tools = [
        name for name, stage in stages.items() if re.search(r"install .*\bgit\b|bwrap", stage)
    ]
    assert with_tools == ["agent-runner"]


def test_what_the_images_are_made_of_is_not_left_out_of_their_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    project = (ROOT / "pyproject.toml").read_text()
    packages = re.findall(r'^  "((?:libs|services|deploy)/[^"]+)",$', project, re.MULTILINE)
    assert packages
    for package in packages:
        assert any(package.startswith(kept.removeprefix("!")) for kept in ignored if kept[0] == "!")


def test_the_example_env_names_only_what_the_file_reads() -> None:
    names = re.findall(r"^#? ?([A-Z_]+)=", (COMPOSE / ".env.example").read_text(), re.MULTILINE)
    text = (COMPOSE / "compose.yaml").read_text()
    assert names
    assert [name for name in names if f"${{{name}" not in text] == []
    assert yaml.safe_load(text)["name"] == "workflow-hub"


def test_an_env_file_with_a_wrong_number_is_refused(tmp_path: Path) -> None:
    done = config("--quiet", RUNNER_PIDS="many")
    assert done.returncode != 0
