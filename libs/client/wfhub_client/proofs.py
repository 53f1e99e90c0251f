"""`wfhub proof …`: fetch, show, export and verify proofs; choose which keys to believe.

Verification is offline for a file. A key is believed when it was given (--key, WFHUB_PROOF_KEY)
or is remembered in the user's trust folder; the key inside an export proves nothing.
"""

import base64
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wfhub_client import trust
from wfhub_client.errors import ClientError, Usage
from wfhub_client.session import Session, connected
from wfhub_client.settings import of_process
from wfhub_client.text import one_line, safe

EXPORT_BYTES_MAX = 64 * 1024**2
EXIT_REFUSED = 1


def show(id_: str) -> None:
    with connected() as session:
        export = _fetched(session, id_)
    payload = base64.b64decode(export["envelope"]["payload"])
    print("not verified; `wfhub proof verify` does that", file=sys.stderr)
    print(safe(json.dumps(json.loads(payload), indent=2, ensure_ascii=False)))


def export(id_: str, output: Path) -> None:
    with connected() as session:
        fetched = _fetched(session, id_)
    try:
        output.write_text(json.dumps(fetched, indent=1, ensure_ascii=False) + "\n")
    except OSError as e:
        raise Usage(f"-o: cannot write {output}: {e.strerror}") from e
    print(f"{fetched['proof_id']} → {output}")


def verify(source: str, key: str | None, *, as_json: bool) -> int:
    """The exit code: 0 only when nothing in the proof was refused."""
    from wfhub_common.errors import Corrupt, Rejected
    from wfhub_common.proofs import verify_export
    from wfhub_common.signing import load_public_key

    settings = of_process()
    chosen = key or settings.proof_key
    try:
        pems = [chosen] if chosen else list(trust.remembered(settings.config_dir).values())
        if not pems:
            raise Usage(
                "no key to verify against: give --key PEM, or accept the service's own with"
                " `wfhub proof trust`"
            )
        keys = [load_public_key(pem) for pem in pems]
        verified = verify_export(_given(source), trusted_keys=keys)
    except Corrupt as e:
        if as_json:
            print(json.dumps({"verified": False, "code": e.code, "why": e.message, **e.fields}))
        print(f"NOT VERIFIED: {one_line(e.message, 1000)}", file=sys.stderr)
        return EXIT_REFUSED
    except Rejected as e:
        raise Usage(e.message) from e
    facts = asdict(verified)
    if as_json:
        print(json.dumps({"verified": True, **facts}))
    else:
        print("\n".join(_lines(facts)))
    return 0


def accept(*, replace: bool) -> None:
    """Remember the service's key, and say so: from then on it is what proofs must match."""
    from wfhub_common.signing import key_id, load_public_key

    with connected() as session:
        pem = session.client.public_key()
        folder, name = session.settings.config_dir, session.trust_name
    identity = key_id(load_public_key(pem))
    new = trust.remember(folder, name, pem, replace=replace)
    print(f"{'now trusting' if new else 'already trusted'}: {identity} of {name}")
    if new:
        print("taken on first use: compare it with what the operator tells you", file=sys.stderr)


def _given(source: str) -> dict[str, Any]:
    """An export from a file, or by id from the service."""
    path = Path(source)
    if not path.exists():
        if not source.startswith(("prf_", "tsk_")):
            raise Usage(f"there is no file {source}, and it is no proof's or task's id")
        with connected() as session:
            return _fetched(session, source)
    try:
        if path.stat().st_size > EXPORT_BYTES_MAX:
            raise Usage(f"{source} is too large for a proof")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as e:
        raise Usage(f"{source} is no exported proof: {e}") from e
    if not isinstance(value, dict):
        raise Usage(f"{source} is no exported proof: it holds no JSON object")
    return value


def _fetched(session: Session, id_: str) -> dict[str, Any]:
    proof_id = id_
    if id_.startswith("tsk_"):
        proof_id = session.client.get(id_).proof_id
        if not proof_id:
            raise ClientError(f"task {id_} has no proof (yet): only a won attempt is sealed")
    return session.client.proof(proof_id)


def _lines(facts: dict[str, Any]) -> list[str]:
    head = ["VERIFIED"]
    for name in ("labels", "checks"):
        head += [f"  {name[:-1]:>16}  {one_line(value, 500)}" for value in facts.pop(name, ())]
    artifacts = facts.pop("artifacts", {})
    head += [f"  {name:>16}  {one_line(value, 500)}" for name, value in facts.items()]
    return head + [f"  {'artifact':>16}  {one_line(n)} {one_line(d)}" for n, d in artifacts.items()]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
