"""A GitHub App's installation token, made the moment it is needed and kept nowhere.

Source: GitHub's REST manual, "Generating an installation access token for a GitHub App": a JWT
(RS256, RFC 7519) of at most 10 minutes, then POST /app/installations/{id}/access_tokens.
Raises: Rejected (`git-credentials`, `repo-unauthorized`), RetryLater (`repo-unreachable`).
"""

import base64
import json
import time

import httpx
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from wfhub_common.errors import Rejected, RetryLater

from wfhub_agent_runner.gitwork.remote.credentials import GitHubApp
from wfhub_agent_runner.gitwork.remote.pinned import Pinned

JWT_S = 300
_CLOCK_SKEW_S = 60
_TIMEOUT_S = 20.0


def installation_token(app: GitHubApp) -> str:
    address = f"{app.api_url}/app/installations/{app.installation_id}/access_tokens"
    headers = {
        "Authorization": f"Bearer {_jwt(app, int(time.time()))}",
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    try:
        transport = Pinned(private_allowed=app.api_url != GitHubApp.api_url)
        with httpx.Client(timeout=_TIMEOUT_S, transport=transport) as http:
            answer = http.post(address, headers=headers)
    except httpx.HTTPError as e:
        raise RetryLater(
            "repo-unreachable", f"no installation token: {app.api_url} does not answer ({e})"
        ) from e
    if answer.status_code >= 500 or answer.status_code == 429:
        raise RetryLater("repo-unreachable", f"no installation token: HTTP {answer.status_code}")
    try:
        token = answer.json()["token"] if answer.status_code == 201 else None
    except (ValueError, KeyError, TypeError):
        token = None
    if not isinstance(token, str) or not token:
        raise Rejected(
            "repo-unauthorized",
            f"{app.api_url} gave no token for installation {app.installation_id} of app"
            f" {app.app_id} (HTTP {answer.status_code}); check the ids and the key",
        )
    return token


def _jwt(app: GitHubApp, now_s: int) -> str:
    try:
        key = serialization.load_pem_private_key(app.private_key.encode(), password=None)
    except (ValueError, TypeError) as e:
        raise Rejected("git-credentials", f"the key of app {app.app_id} is no PEM key") from e
    if not isinstance(key, rsa.RSAPrivateKey):
        raise Rejected("git-credentials", f"the key of app {app.app_id} is not an RSA key")
    claims = {"iat": now_s - _CLOCK_SKEW_S, "exp": now_s + JWT_S, "iss": app.app_id}
    signed = b".".join(_part(json.dumps(part).encode()) for part in ({"alg": "RS256"}, claims))
    signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return (signed + b"." + _part(signature)).decode()


def _part(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
