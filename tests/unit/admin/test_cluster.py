"""Secrets of a cluster, against an API server of ours that behaves as Kubernetes says it does."""

import base64
from dataclasses import replace

import httpx
import pytest
from secrets_double import ApiServer
from wfhub_admin import cluster
from wfhub_admin.cluster import Secrets
from wfhub_admin.outlay import READERS, Where, outlay
from wfhub_common import sealed


def secrets(server: ApiServer) -> Secrets:
    client = httpx.Client(base_url="https://10.0.0.1", transport=httpx.MockTransport(server))
    return Secrets(client, "hub", "wfhub")


def test_the_truth_is_made_once_and_grows() -> None:
    server = ApiServer()
    one = cluster.truth(secrets(server), runners=1)
    again = cluster.truth(secrets(server), runners=1)
    three = cluster.truth(secrets(server), runners=3)
    assert again == one
    assert three.credentials.runner_ids[:1] == one.credentials.runner_ids
    assert three.signing_key == one.signing_key
    assert list(server.held) == ["wfhub-state"]


def test_of_two_that_start_together_one_makes_it_and_both_have_the_same() -> None:
    first = ApiServer()
    theirs = cluster.truth(secrets(first), runners=2)
    second = ApiServer(created_before=first.held["wfhub-state"])
    assert cluster.truth(secrets(second), runners=2) == theirs


def test_every_reader_gets_a_secret_of_its_own_and_again_at_each_upgrade() -> None:
    server = ApiServer()
    for _ in range(2):
        truth = cluster.truth(secrets(server), runners=1)
        made = outlay(truth, Where("nats://nats:4222"), provider_keys={"OPENAI_API_KEY": "sk-1"})
        cluster.write(made, secrets(server))
    assert set(server.held) == {"wfhub-state", *(f"wfhub-{reader}" for reader in READERS)}
    kept = server.held["wfhub-gateway"]["data"]["openai-api-key"]
    assert base64.b64decode(kept) == b"sk-1"


def test_what_the_api_server_refuses_is_told_in_its_words() -> None:
    with pytest.raises(SystemExit, match="403: secrets is forbidden"):
        cluster.truth(secrets(ApiServer(forbidden=True)), runners=1)


def test_outside_of_a_pod_it_says_so() -> None:
    with pytest.raises(SystemExit, match="no pod"):
        cluster.inside("", 443, namespace="hub", prefix="wfhub")


def test_a_foreign_secret_under_our_name_is_not_taken_for_ours() -> None:
    server = ApiServer()
    server.keep("wfhub-state", {"metadata": {"name": "wfhub-state"}, "data": {"x": "eA=="}})
    with pytest.raises(SystemExit, match="not a state of ours"):
        cluster.truth(secrets(server), runners=1)


def test_the_keys_of_a_backup_are_brought_where_there_are_none_or_the_same() -> None:
    truth = cluster.truth(secrets(ApiServer()), runners=2)
    server = ApiServer()
    cluster.bring_back(secrets(server), truth)
    assert cluster.truth(secrets(server), runners=2) == truth
    more = cluster.truth(secrets(server), runners=4)
    cluster.bring_back(secrets(server), truth)  # again, after runners were added
    assert cluster.truth(secrets(server), runners=1) == more


def test_the_keys_of_a_backup_never_replace_another_installations() -> None:
    theirs = cluster.truth(secrets(ApiServer()), runners=1)
    server = ApiServer()
    ours = cluster.truth(secrets(server), runners=1)
    for other in (theirs, replace(ours, signing_key=theirs.signing_key)):
        with pytest.raises(SystemExit, match="wfhub-state is another installation's"):
            cluster.bring_back(secrets(server), other)
    assert cluster.truth(secrets(server), runners=1) == ours


def test_sealing_keys_come_to_a_state_of_the_version_before_and_grow() -> None:
    server = ApiServer()
    first = cluster.truth(secrets(server), runners=1)
    del server.held["wfhub-state"]["data"]["sealing-keys.json"]
    made = cluster.truth(secrets(server), runners=1)
    assert replace(made, sealing_keys="") == replace(first, sealing_keys="")
    two = sealed.keys(cluster.truth(secrets(server), runners=1, sealing_key=2).sealing_keys)
    assert two.newest == 2
    assert two.by_number[1] == sealed.keys(made.sealing_keys).by_number[1]
