"""`wfhub-admin`: what runs before and around the services, in containers.

secrets    make what is missing, write each reader its own          (needs no server)
database   wait for Postgres, bring roles and schemas up to date
postgres   be the Postgres server
runner     take a free identity and be a runner
backup     keep everything in one file, while the services run
restore    fill empty volumes from such a file, before the services start
"""

import argparse
import os
from pathlib import Path

from wfhub_common.subjects import PROOF_STORE


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="wfhub-admin",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(dest="command", required=True)
    secrets = commands.add_parser("secrets")
    secrets.add_argument("--state", type=Path, default=Path("/state"))
    secrets.add_argument("--secrets", type=Path, default=Path("/secrets"))
    secrets.add_argument(
        "--cluster", action="store_true", help="as Secrets of this pod's namespace"
    )
    secrets.add_argument("--plan", type=Path, help="with --cluster: the database's plan goes here")
    database = commands.add_parser("database")
    database.add_argument("--plan", type=Path, default=Path("/run/wfhub/plan.json"))
    postgres = commands.add_parser("postgres")
    postgres.add_argument("--root", type=Path, default=Path("/var/lib/postgresql"))
    postgres.add_argument("--password", type=Path, default=Path("/run/wfhub/password"))
    runner = commands.add_parser("runner")
    runner.add_argument("--identities", type=Path, default=Path("/run/wfhub"))
    runner.add_argument("--homes", type=Path, default=Path("/var/lib/wfhub"))
    for name in ("backup", "restore"):
        command = commands.add_parser(name)
        command.add_argument("file", type=Path)
        command.add_argument("--state", type=Path, default=Path("/state"))
        command.add_argument("--proofs", type=Path, default=Path("/proofs"))
        command.add_argument("--passphrase", type=Path, metavar="FILE")
        if name == "restore":
            command.add_argument(
                "--keys-only",
                action="store_true",
                help="only what --state has: the database is made with its passwords",
            )
    return made


def main() -> None:
    told = parser().parse_args()
    match told.command:
        case "secrets" if told.cluster:
            _cluster_secrets(told.plan)
        case "secrets":
            _secrets(told.state, told.secrets)
        case "database":
            _database(told.plan)
        case "postgres":
            from wfhub_admin.postgres import serve

            serve(told.root, password_file=told.password, runtime=Path("/tmp"))
        case "runner":
            from wfhub_admin.runner import become

            become(told.identities, told.homes, os.environ)
        case "backup" | "restore":
            _kept(told)


def _secrets(state: Path, secrets: Path) -> None:
    from wfhub_admin import folders
    from wfhub_admin.outlay import outlay
    from wfhub_admin.settings import ProvisionSettings

    settings = ProvisionSettings.from_env(os.environ)
    try:
        truth = folders.truth(state, secrets, runners=settings.runners_max)
        made = outlay(truth, settings.where(), provider_keys=settings.provider_keys())
        folders.write(made, secrets, settings.uids())
    except PermissionError as e:
        raise SystemExit(f"cannot write secrets: {e}: this command has to run as root") from e
    print(f"secrets of {len(made)} readers, {len(truth.credentials.runner_ids)} runner identities")


def _cluster_secrets(plan: Path | None) -> None:
    from wfhub_admin import cluster
    from wfhub_admin.files import private_file
    from wfhub_admin.outlay import KEEPER, outlay
    from wfhub_admin.settings import ProvisionSettings

    settings = ProvisionSettings.from_env(os.environ)
    secrets = cluster.inside(
        settings.kubernetes_service_host,
        settings.kubernetes_service_port,
        namespace=settings.namespace,
        prefix=settings.secret_prefix,
    )
    truth = cluster.truth(secrets, runners=settings.runners_max)
    made = outlay(truth, settings.where_in_cluster(), provider_keys=settings.provider_keys())
    cluster.write(made, secrets)
    if plan is not None:
        private_file(plan, made[KEEPER]["plan.json"], os.geteuid())
    print(f"secrets of {len(made)} readers, {len(truth.credentials.runner_ids)} runner identities")


def _database(plan: Path) -> None:
    from wfhub_admin.database import Plan, carry_out, wait

    try:
        made = Plan.from_json(plan.read_text())
    except OSError as e:
        raise SystemExit(f"cannot read {plan}: {e.strerror}: run `wfhub-admin secrets`") from e
    wait(made)
    carry_out(made)
    print("the database is up to date")


def _kept(told: argparse.Namespace) -> None:
    import json

    from wfhub_admin import archive, backup, folders
    from wfhub_admin.database import wait
    from wfhub_admin.outlay import plan
    from wfhub_admin.settings import ProvisionSettings

    file: Path = told.file
    settings = ProvisionSettings.from_env(os.environ)
    secret = backup.passphrase_of(told.passphrase, settings.backup_passphrase, _no_passphrase)
    if told.command == "backup":
        truth = folders.kept(told.state)
        made = plan(truth.credentials, settings.where())
        done = backup.backup(file, plan=made, blobs=told.proofs, truth=truth, passphrase=secret)
    else:
        done = archive.check(file, secret)
        folders.bring_back(told.state, done.truth)
        if not told.keys_only:
            made = plan(folders.kept(told.state).credentials, settings.where())
            wait(made)
            backup.restore_database(file, made)
            backup.restore_blobs(file, told.proofs, uid=settings.uids()[PROOF_STORE])
    print(json.dumps(archive.said(done)))


def _no_passphrase() -> str:
    raise SystemExit("no passphrase: name a file with --passphrase, or set BACKUP_PASSPHRASE_FILE")


if __name__ == "__main__":
    main()
