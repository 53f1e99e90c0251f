"""What a share can be to the sandbox, as the doctor finds it by trying."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import share_lab
from share_lab import Server

INSTEAD = {"nfs": "copy", "squashed": "copy", "ganesha": "copy", "smb": "plain-copy"}


def test_a_share_is_a_lower_layer_never_an_upper_and_a_soft_mount_is_named(server: Server) -> None:
    with server.mounted(Path("/soft"), f"soft,{server.apart}"):
        argv = [sys.executable, "-I", "-m", "wfhub_agent_runner.doctor"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = {share["at"]: share for share in json.loads(done.stdout)["shares"]}
    assert set(found) == {str(share_lab.AT), "/soft"}
    for share in found.values():
        assert share["layers"] == ["lower", f"{INSTEAD[server.kind]} for an upper"]
    assert found[str(share_lab.AT)]["dangers"] == []
    assert "mount it with hard" in " ".join(found["/soft"]["dangers"])
    assert list(share_lab.AT.glob("sandbox-*")) == []
