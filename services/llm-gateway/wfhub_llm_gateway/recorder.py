"""Recording: appends each finished exchange to a cassette file.

Never in it: the authorization header (no request header is kept), attempt tokens and the provider
key (masked wherever they stand). An answer that was cut or that failed upstream is left out: it
is not what the model said. A file is created 0600 with its header, and lines are appended whole.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wfhub_llm_gateway import matching
from wfhub_llm_gateway.cassette import Cassette, Header, Recorded, Response, load

KEY_CHARS_MIN = 8  # a shorter "key" is a placeholder; masking it would garble texts


class Recorder:
    def __init__(self, path: Path, *, recorded_from: str, secrets: tuple[str, ...]) -> None:
        """An existing cassette is continued. Raises: CassetteError, OSError."""
        self._path = path
        self._secrets = tuple(s for s in secrets if len(s) >= KEY_CHARS_MIN)
        if path.exists() and path.stat().st_size:
            cassette: Cassette = load(path)
            self._masks = cassette.header.masks()
        else:
            now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            header = Header(recorded_from=recorded_from, recorded_at=now)
            self._append(header.line())
            self._masks = ()

    def add(self, request: dict[str, Any], response: Response) -> None:
        kept = matching.normalised({"tools": [], **request}, self._masks)
        self._append(Recorded(kept, response).text())

    def _append(self, line: str) -> None:
        for secret in self._secrets:
            line = line.replace(secret, "<key>")
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # At once: others may append too. Half a surrogate pair stays the escape that it was.
            os.write(descriptor, line.encode(errors="backslashreplace"))
        finally:
            os.close(descriptor)
