"""Who reads what of an installation's secrets."""

import base64
import hmac
import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from wfhub_admin import credentials, folders, rest, runner
from wfhub_admin.outlay import (
    CLIENT,
    KEEPER,
    NATS,
    POSTGREST,
    READERS,
    RUNNERS,
    Truth,
    Where,
    outlay,
)
from wfhub_admin.settings import ProvisionSettings
from wfhub_common import identities, signing

KEY = {"OPENAI_API_KEY": "sk-canary"}


def truth(runners: int = 2) -> Truth:
    return Truth(
        credentials.with_identities(credentials.new(), runners), "PRIVATE", "PUBLIC", "SEALING"
    )


def where(**fields: object) -> Where:
    return Where(nats_url="nats://nats:4222", **fields)  # type: ignore[arg-type] - by name


def test_every_reader_has_files_and_no_secret_reaches_who_has_no_use_for_it() -> None:
    made = truth()
    files = outlay(made, where(), provider_keys=KEY)
    assert set(files) == set(READERS)

    def readers(secret: str) -> set[str]:
        return {r for r, named in files.items() if any(secret in text for text in named.values())}

    have = made.credentials
    assert readers("sk-canary") == {"gateway"}
    assert readers("PRIVATE") == {"proof-store"}
    assert readers("SEALING") == {"api"}
    assert readers(have.admin_token) == {CLIENT}
    assert readers(have.nats["api"]) == {"api", NATS}
    assert readers(have.database["wfhub_api"]) == {"api", KEEPER}
    assert readers(have.database["wfhub_reader"]) == {POSTGREST, KEEPER}
    assert readers(have.reader_secret) == {POSTGREST}
    assert readers(have.tokens["gateway"]) == {"gateway"}
    assert readers(have.tokens[have.runner_ids[0]]) == {RUNNERS}


def test_an_external_database_is_used_as_its_url_says() -> None:
    url = "postgresql://hub:pw@db.example.org/hub"
    files = outlay(truth(), where(database_url=url), provider_keys=KEY)
    assert files["api"]["database-url"] == files["scheduler"]["database-url"] == url
    plan = json.loads(files[KEEPER]["plan.json"])
    assert (plan["admin_url"], {s["url"] for s in plan["schemas"]}) == ("", {url})


def test_without_our_users_nobody_is_given_a_password_for_the_broker() -> None:
    files = outlay(truth(), where(nats_users=False), provider_keys=KEY)
    assert not [name for named in files.values() for name in named if name == "nats-password"]
    identity = json.loads(files[RUNNERS]["runner-1.json"])
    assert "NATS_PASSWORD" not in identity["secrets"]


def test_each_message_is_on_disk_before_it_is_acknowledged_and_a_cluster_knows_its_peers() -> None:
    routes = tuple(f"nats://hub-nats-{n}.hub-nats-peers:6222" for n in range(3))
    alone = json.loads(outlay(truth(), where(), provider_keys=KEY)[NATS]["nats.conf"])
    three = json.loads(
        outlay(truth(), where(nats_routes=routes), provider_keys=KEY)[NATS]["nats.conf"]
    )
    assert alone["jetstream"]["sync_interval"] == three["jetstream"]["sync_interval"] == "always"
    assert "cluster" not in alone
    assert three["cluster"]["routes"] == list(routes)


def test_the_broker_of_a_container_has_the_permissions_of_the_local_one() -> None:
    """One source: what a runner is asked (steering) and how it answers is in each."""
    made = truth()
    runner_id = made.credentials.runner_ids[0]
    accounts = json.loads(outlay(made, where(), provider_keys=KEY)[NATS]["nats.conf"])["accounts"]
    (found,) = (u for u in accounts["RUNNERS"]["users"] if u["user"] == runner_id)
    wanted = identities.runner(runner_id)
    assert found["permissions"] == {
        "publish": {"allow": list(wanted.publish)},
        "subscribe": {"allow": list(wanted.subscribe)},
        "allow_responses": True,
    }
    assert f"wfhub.v1.ctl.{runner_id}.steer" in wanted.subscribe


def test_what_an_older_version_did_not_have_is_made_beside_what_it_had() -> None:
    have = truth().credentials
    older = json.loads(have.to_json())
    del older["reader_secret"], older["database"]["wfhub_reader"]
    after = credentials.with_identities(credentials.Credentials.from_json(json.dumps(older)), 2)
    assert after.database["wfhub_reader"]
    assert after.reader_secret
    assert replace(after, reader_secret=have.reader_secret, database=have.database) == have


def test_the_readers_token_is_a_json_web_token_of_its_role() -> None:
    head, body, mac = rest.token("secret").split(".")
    assert json.loads(base64.urlsafe_b64decode(body + "==")) == {"role": "wfhub_reader"}
    assert json.loads(base64.urlsafe_b64decode(head + "=="))["alg"] == "HS256"
    wanted = hmac.digest(b"secret", f"{head}.{body}".encode(), "sha256")
    assert base64.urlsafe_b64decode(mac + "=") == wanted


def test_folders_are_made_once_and_more_runners_are_added(tmp_path: Path) -> None:
    state, secrets = tmp_path / "state", tmp_path / "secrets"
    state.mkdir()
    uids = dict.fromkeys(READERS, tmp_path.stat().st_uid)

    def provision(runners: int) -> Truth:
        made = folders.truth(state, secrets, runners=runners)
        folders.write(outlay(made, where(), provider_keys=KEY), secrets, uids)
        return made

    one, three = provision(1), provision(3)
    assert three.credentials.runner_ids[:1] == one.credentials.runner_ids
    assert (three.signing_key, three.public_key) == (one.signing_key, one.public_key)
    assert sorted(p.name for p in (secrets / RUNNERS).iterdir()) == [
        f"runner-{n}.json" for n in (1, 2, 3)
    ]
    for reader in READERS:
        assert stat.S_IMODE((secrets / reader).stat().st_mode) == 0o700
        for file in (secrets / reader).iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = signing.load_private_key(secrets / "proof-store" / "signing-key")
    assert signing.public_pem(key.public_key()) == three.public_key


def test_a_lost_state_is_said_and_not_replaced_by_another_one(tmp_path: Path) -> None:
    state, secrets = tmp_path / "state", tmp_path / "secrets"
    state.mkdir()
    uids = dict.fromkeys(READERS, tmp_path.stat().st_uid)
    made = folders.truth(state, secrets, runners=1)
    folders.write(outlay(made, where(), provider_keys=KEY), secrets, uids)
    (state / folders.CREDENTIALS).unlink()
    with pytest.raises(SystemExit, match="is lost"):
        folders.truth(state, secrets, runners=1)


def test_each_runner_takes_an_identity_of_its_own_until_none_is_left(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"runner-{number}.json").write_text("{}")
    first, _ = runner.taken(tmp_path)
    second, _ = runner.taken(tmp_path)
    assert [first.name, second.name] == ["runner-1.json", "runner-2.json"]
    with pytest.raises(SystemExit, match="all 2 runner identities"):
        runner.taken(tmp_path)


def test_settings_that_cannot_be_are_refused_by_name() -> None:
    with pytest.raises(SystemExit, match="RUNNERS_MAX"):
        ProvisionSettings.from_env({"RUNNERS_MAX": "0"})
    with pytest.raises(SystemExit, match=r"DATABASE_URL.*postgresql://"):
        ProvisionSettings.from_env({"DATABASE_URL": "mysql://x"})
    with pytest.raises(SystemExit, match="RUNNER_UID"):
        ProvisionSettings.from_env({"RUNNER_UID": "0"})


def test_in_a_cluster_identities_have_the_names_of_the_pods() -> None:
    settings = ProvisionSettings.from_env({"SECRET_PREFIX": "hub", "NATS_SERVERS": "3"})
    files = outlay(truth(), settings.where_in_cluster(), provider_keys=settings.provider_keys())
    assert sorted(files[RUNNERS]) == ["hub-agent-runner-0.json", "hub-agent-runner-1.json"]
    assert "@hub-postgres:5432/" in files["api"]["database-url"]


def test_a_backups_keys_are_taken_to_a_state_that_grew_from_them_and_to_no_other(
    tmp_path: Path,
) -> None:
    was = folders.truth(made(tmp_path / "was"), tmp_path / "none", runners=1)
    state = made(tmp_path / "new")
    folders.bring_back(state, was)
    grown = folders.truth(state, tmp_path / "none", runners=5)
    folders.bring_back(state, was)
    assert folders.kept(state) == grown
    folders.truth(made(tmp_path / "other"), tmp_path / "none", runners=1)
    with pytest.raises(SystemExit, match="another installation's credentials"):
        folders.bring_back(tmp_path / "other", was)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder
