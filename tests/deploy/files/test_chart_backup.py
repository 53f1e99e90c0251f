"""The chart's CronJob that makes backups. (That it does: tests/deploy/moving.)"""

from chart_lab import CHART, Policies, objects, pods, rendered, template


def test_a_backup_reads_what_is_mounted_and_has_no_rights_in_the_cluster() -> None:
    found = objects(rendered("backed-up"))
    (cron,) = (each for each in found if each["kind"] == "CronJob")
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    pod = dict(pods(found))["backup"]
    assert "serviceAccountName" not in pod
    (container,) = pod["containers"]
    written = {m["name"] for m in container["volumeMounts"] if not m.get("readOnly")}
    assert written == {"backup", "tmp"}
    store = dict(pods(found))["proof-store"]
    assert pod["securityContext"] == store["securityContext"]  # whose files it reads
    volumes = {each["name"]: each for each in pod["volumes"]}
    (theirs,) = [v for v in store["volumes"] if v["name"] == "proofs"]
    assert volumes["proofs"] == theirs
    assert "affinity" not in pod
    assert not [each for each in objects(rendered()) if each["kind"] == "CronJob"]


def test_it_reaches_postgres_and_nothing_else() -> None:
    policies = Policies(objects(rendered("backed-up")))
    ports = (4222, 5432, 6222, 8080, 8081, 8090)
    components = policies.components | {"nats", "postgres"}
    reached = {(to, p) for to in components for p in ports if policies.allowed("backup", to, p)}
    assert reached == {("postgres", 5432)}
    assert not policies.reaches_outside("backup", "93.184.216.34", 443)


def test_a_claim_of_one_node_is_kept_from_that_node() -> None:
    values = (CHART / "examples" / f"{name}.yaml" for name in ("backed-up", "small"))
    done = template(*(part for file in values for part in ("--values", str(file))))
    pod = dict(pods(objects(done.stdout)))["backup"]
    (term,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    chosen = term["labelSelector"]["matchLabels"]
    assert chosen["app.kubernetes.io/component"] == "proof-store"
