"""`wfhub-admin`: what runs before and around the services, in containers.

secrets    make what is missing, write each reader its own          (needs no server)
database   wait for Postgres, bring roles and schemas up to date
postgres   be the Postgres server
runner     take a free identity and be a runner
backup     keep everything in one file, while the services run
restore    fill empty volumes from such a file, before the services start; said again, it goes on
"""

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from wfhub_common.subjects import PROOF_STORE

if TYPE_CHECKING:
    from wfhub_admin.database import Plan


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
        command.add_argument(
            "--plan", type=Path, help="the database as `secrets --plan` wrote it; else by --state's"
        )
        if name == "backup":
            command.add_argument(
                "--keep",
                type=_count,
                metavar="N",
                help="the file is a folder: named by the time, and the N newest are kept",
            )
        else:
            command.add_argument(
                "--keys-only",
                action="store_true",
                help="only what --state has: the database is made with its passwords",
            )
            command.add_argument(
                "--cluster",
                action="store_true",
                help="with --keys-only: as a Secret of this pod's namespace",
            )
    return made


def _count(value: str) -> int:
    number = int(value)
    if number < 1:
        raise ValueError
    return number


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
        case "backup":
            _backup(told)
        case "restore":
            _restore(told)


def _secrets(state: Path, secrets: Path) -> None:
    from wfhub_admin import folders
    from wfhub_admin.outlay import outlay
    from wfhub_admin.settings import ProvisionSettings

    settings = ProvisionSettings.from_env(os.environ)
    try:
        truth = folders.truth(
            state,
            secrets,
            runners=settings.runners_max,
            subscribers=settings.subscribers,
            sealing_key=settings.sealing_key,
        )
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
    secrets = cluster.of(settings)
    truth = cluster.truth(
        secrets,
        runners=settings.runners_max,
        subscribers=settings.subscribers,
        sealing_key=settings.sealing_key,
    )
    made = outlay(truth, settings.where_in_cluster(), provider_keys=settings.provider_keys())
    cluster.write(made, secrets)
    if plan is not None:
        private_file(plan, made[KEEPER]["plan.json"], os.geteuid())
    print(f"secrets of {len(made)} readers, {len(truth.credentials.runner_ids)} runner identities")


def _database(plan: Path) -> None:
    from wfhub_admin.database import carry_out, wait

    made = _planned(plan)
    wait(made)
    carry_out(made)
    print("the database is up to date")


def _planned(file: Path) -> "Plan":
    from wfhub_admin.database import Plan

    try:
        return Plan.from_json(file.read_text())
    except OSError as e:
        raise SystemExit(f"cannot read {file}: {e.strerror}: run `wfhub-admin secrets`") from e


def _backup(told: argparse.Namespace) -> None:
    from wfhub_admin import archive, backup, backups, folders
    from wfhub_admin.outlay import plan
    from wfhub_admin.settings import ProvisionSettings

    settings = ProvisionSettings.from_env(os.environ)
    secret = backup.passphrase_of(told.passphrase, settings.backup_passphrase, _no_passphrase)
    truth = folders.kept(told.state)
    made = _planned(told.plan) if told.plan else plan(truth.credentials, settings.where())
    file = backups.new(told.file, datetime.now(UTC)) if told.keep else told.file
    done = backup.backup(file, plan=made, blobs=told.proofs, truth=truth, passphrase=secret)
    said = {**archive.said(done), "file": str(file)}
    if told.keep:
        said["removed"] = backups.remove_old(told.file, told.keep, datetime.now(UTC))
    print(json.dumps(said))


def _restore(told: argparse.Namespace) -> None:
    from wfhub_admin import archive, backup, cluster, folders
    from wfhub_admin.database import wait
    from wfhub_admin.outlay import plan
    from wfhub_admin.settings import ProvisionSettings

    if told.cluster and not told.keys_only:
        raise SystemExit("--cluster goes with --keys-only; the rest is restored with --plan")
    settings = ProvisionSettings.from_env(os.environ)
    secret = backup.passphrase_of(told.passphrase, settings.backup_passphrase, _no_passphrase)
    done = archive.check(told.file, secret)
    if told.cluster:
        cluster.bring_back(cluster.of(settings), done.truth)
    elif told.plan is None:
        folders.bring_back(told.state, done.truth)
    if not told.keys_only:
        made = (
            _planned(told.plan)
            if told.plan
            else plan(folders.kept(told.state).credentials, settings.where())
        )
        wait(made)
        uid = settings.uids()[PROOF_STORE]
        if not backup.restore(told.file, done, plan=made, blobs=told.proofs, uid=uid):
            print("this backup was restored before: nothing was done", file=sys.stderr)
    print(json.dumps(archive.said(done)))


def _no_passphrase() -> str:
    raise SystemExit("no passphrase: name a file with --passphrase, or set BACKUP_PASSPHRASE_FILE")


if __name__ == "__main__":
    main()
