"""Evidence: what is left when a run is over, gathered once, so that it is judged offline.

Shape: plain JSON (`Evidence` as a dict), written to evidence.json beside the histories. Rows are
the database's own; refs are read from the repositories, blobs from the proof-stores' folder and
hashed again, proofs are opened with the public key alone.
"""

import hashlib
import json
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wfhub_common import digests, dsse, signing
from wfhub_common.errors import Corrupt

from chaos.cluster import Cluster
from chaos.history import Record
from chaos.observer import Observer

Row = dict[str, Any]


@dataclass
class Evidence:
    projects: list[Row] = field(default_factory=list)  # project_id, running_limit
    tasks: list[Row] = field(default_factory=list)  # task_id, title, state, commit_id, proof_id …
    attempts: list[Row] = field(default_factory=list)  # attempt_id, task_id, state, receipts …
    events: list[Row] = field(default_factory=list)  # in the order of their ids
    published_pos: list[int] = field(default_factory=list)  # generation, position
    refs: list[Row] = field(default_factory=list)  # repo, name, commit
    blobs: dict[str, bool] = field(default_factory=dict)  # digest → there, and whole
    proofs: dict[str, Row] = field(default_factory=dict)  # task_id → verified, commit
    heard: dict[str, list[Row]] = field(default_factory=dict)  # subscriber → generation, pos, id
    history: list[Record] = field(default_factory=list)
    recovery_s_max: float = 60.0

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), default=str))

    @classmethod
    def load(cls, path: Path) -> "Evidence":
        return cls(**json.loads(path.read_text()))


async def gather(cluster: Cluster, observer: Observer, repos: list[str]) -> Evidence:
    found = Evidence(
        projects=_plain(
            await observer.rows("SELECT project_id, name, running_limit FROM sched.project")
        ),
        tasks=_plain(
            await observer.rows(
                "SELECT task_id, project_id, title, state, reason, branch, commit_id, winner,"
                " proof_id FROM sched.task"
            )
        ),
        attempts=[
            {**row, "receipts": json.loads(row["receipts"] or "[]")}
            for row in _plain(
                await observer.rows(
                    "SELECT attempt_id, task_id, runner_id, kind, state, reason,"
                    " receipts::text AS receipts FROM sched.attempt"
                )
            )
        ],
        events=[
            {**row, "data": json.loads(row["data"])}
            for row in _plain(
                await observer.rows(
                    "SELECT row_number() OVER (ORDER BY batch_id, n) AS id, event_id, b.generation,"
                    " b.up_to - b.events + e.n AS pos, project_id, task_id, entity_id, type,"
                    " data::text AS data"
                    " FROM sched.event e JOIN sched.event_batch b USING (batch_id) ORDER BY 1"
                )
            )
        ],
    )
    (relay,) = await observer.rows("SELECT generation, published_pos FROM sched.relay")
    found.published_pos = [relay["generation"], relay["published_pos"]]
    found.refs = [ref for repo in repos for ref in _refs(repo)]
    won = {task["winner"] for task in found.tasks if task["state"] == "succeeded"}
    for attempt in found.attempts:
        if attempt["attempt_id"] in won:
            for receipt in attempt["receipts"]:
                digest = receipt["digest"]
                found.blobs[digest] = _is_whole(cluster.layout.proofs, digest)
    key = signing.load_public_key(cluster.layout.public_key)
    for row in await observer.rows("SELECT task_id, envelope FROM proofs.proof"):
        found.proofs[row["task_id"]] = _opened(bytes(row["envelope"]), key)
    return found


def _plain(rows: list[Any]) -> list[Row]:
    return [dict(row) for row in rows]


def _refs(repo: str) -> list[Row]:
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "for-each-ref", "--format=%(refname) %(objectname)"],
        cwd=repo,
        capture_output=True,
        text=True,
        check=True,
    )
    pairs = (line.split() for line in listed.stdout.splitlines())
    return [{"repo": repo, "name": name, "commit": commit} for name, commit in pairs]


def _is_whole(root: Path, digest: str) -> bool:
    name = digests.hex_of(digests.parse(digest))
    try:
        stored = (root / "sha256" / name[:2] / name[2:4] / name).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(stored).hexdigest() == name


def _opened(envelope: bytes, key: signing.PublicKey) -> Row:
    try:
        statement = json.loads(dsse.open_(json.loads(envelope), [key]).payload)
    except (Corrupt, ValueError) as e:
        return {"verified": False, "why": str(e)[:200]}
    digests_of = [subject["digest"] for subject in statement["subject"]]
    commits = [d["gitCommit"] for d in digests_of if "gitCommit" in d]
    return {"verified": True, "commit": commits[0] if commits else ""}
