"""A task on a repository that lies on an https host, through the whole stack."""

import json
from pathlib import Path

import git_hosts
import gitrepos
from forge_double import forge
from gitrepos import git

from .conftest import start

STOP_S_MAX = 30


def test_a_task_on_a_remote_is_published_there(tmp_path: Path) -> None:
    with gitrepos.shared_folder() as shared:
        repo = gitrepos.make(
            shared / "hosted" / "acme" / "app.git", {"README": b"colour\n"}, bare=True
        )
        with git_hosts.https(repo.parent.parent) as host, forge("gitea", host.password) as there:
            secret = shared / "token"
            secret.write_text(host.password)
            secret.chmod(0o600)
            entry = {
                "match": f"https://{host.name}",
                "username": host.user,
                "password_file": str(secret),
                "forge": {"kind": "gitea", "api_url": there.url},
            }
            (shared / "credentials.json").write_text(json.dumps({"credentials": [entry]}))
            (shared / "ca.pem").write_text(host.ca)
            stack = start(
                shared / "data",
                GIT_HOSTS=host.name,
                GIT_CREDENTIALS_FILE=str(shared / "credentials.json"),
                GIT_CA_FILE=str(shared / "ca.pem"),
            )
            try:
                code, told, said = stack.run(
                    *("--repo", host.url("acme/app.git"), "--pull-request"),
                    *("--title", "Spelling", "--agent-cmd", "sed -i s/colour/color/ README"),
                )
                bad_code, bad, _ = stack.run(
                    "--repo", "https://169.254.169.254/x.git", "--agent-cmd", "true"
                )
            finally:
                stack.process.terminate()
                stack.process.wait(STOP_S_MAX)
        branch = f"refs/heads/wfhub/{told['task_id']}"
        assert git(repo, "show", f"{branch}:README") == "color"
    assert code == 0, said
    assert [made["title"] for made in there.made] == ["Spelling"]
    assert there.made[0]["head"]["ref"] == f"wfhub/{told['task_id']}"
    assert there.made[0]["base"]["ref"] == "main"
    assert told["state"] == "succeeded"
    assert bad_code != 0
    assert bad["reason"] == "repo-forbidden"
