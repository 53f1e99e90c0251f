"""`wfhub dead-letter …`: what each command does. With --json one object a line, as the API says."""

import json
import sys
from typing import Any

from wfhub_client.session import connected
from wfhub_client.text import one_line, safe

BODY_CHARS_SHOWN = 4000


def list_(state: str | None, source: str | None, limit: int, *, as_json: bool) -> None:
    with connected() as session:
        for letter in session.client.dead_letters(state=state, source=source, limit=limit):
            if as_json:
                print(json.dumps(letter))
                continue
            about = one_line(letter["subject"], 60)
            print(
                f"{letter['dead_letter_id']}  {letter['last_at'][:19]}  {letter['state']:<9}"
                f"  {letter['source']:<8}  {letter['failures']:>4}×  {about}"
                f"  {one_line(letter['code'], 40)}"
            )


def show(dead_letter_id: str, *, as_json: bool) -> None:
    with connected() as session:
        letter = session.client.dead_letter(dead_letter_id)
    if as_json:
        print(json.dumps(letter))
        return
    body = letter.pop("body")
    for name, value in letter.items():
        if value not in (None, ""):
            print(f"{name:>15}  {one_line(value, 2000)}")
    if body:
        print(f"{'body':>15}  {safe(body)[:BODY_CHARS_SHOWN]}")


def decide(dead_letter_id: str, what: str, *, as_json: bool) -> None:
    with connected() as session:
        decided = session.client.decide_dead_letter(dead_letter_id, what)
    print(json.dumps(decided) if as_json else _sentence(decided))


def _sentence(decided: dict[str, Any]) -> str:
    before = "was decided before: " if decided["repeated"] else ""
    outcome = f" ({one_line(decided['outcome'], 500)})" if decided["outcome"] else ""
    return f"{decided['dead_letter_id']}: {before}{decided['state']}{outcome}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
