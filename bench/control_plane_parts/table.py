"""The measurements as a table for people."""

from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 110


def show(results: dict[str, Any]) -> None:
    console = Console(width=WIDTH, force_terminal=False)
    if found := results.get("throughput"):
        rows = [
            (each["way"], each["tasks_per_s"], each["runs"], _cores(each["cpu_cores"]))
            for each in found
        ]
        _print(console, "submit → succeeded", ("workflow hub", "tasks/s", "runs", "cores"), rows)
    if found := results.get("peers"):
        rows = [
            (
                each["way"],
                each["tasks_per_s"],
                each["runs"],
                "yes" if each["durable_state"] else "no",
                ", ".join(f"{k} {v}" for k, v in each["settings"].items()),
            )
            for each in found
        ]
        _print(console, "peers", ("peer", "tasks/s", "runs", "task state kept", "settings"), rows)
    if found := results.get("latency"):
        keys = ("dispatch_p50_ms", "dispatch_p99_ms", "succeeded_p50_ms", "succeeded_p99_ms")
        rows = [
            (f"{each['load_percent']} %", each["sent_rate"], *(each[k] for k in keys))
            for each in found
        ]
        head = ("load", "tasks/s", "claimed p50", "p99 ms", "succeeded p50", "p99 ms")
        _print(console, "open-loop latency", head, rows)
    if found := results.get("claims"):
        rows = [(each["queued"], each["p50_ms"], each["p99_ms"]) for each in found["sizes"]]
        _print(console, "claim of one unit", ("queued tasks", "p50 ms", "p99 ms"), rows)
    if found := results.get("heartbeats"):
        rows = [
            (name, each["cores"], each["scheduler"], each["postgres"], each["wal_bytes_per_s"])
            for name, each in (("beating", found["with_beats"]), ("idle", found["idle"]))
        ]
        head = (f"{found['attempts']} attempts", "cores", "scheduler", "postgres", "WAL bytes/s")
        _print(console, "heartbeats", head, rows)
    if found := results.get("recovery"):
        rows = [("runner: its tasks run elsewhere", found["runner_s"], "", "")]
        rows += [
            (name, *(found[name][key] for key in ("next_task_s", "longest_pause_s", "up_again_s")))
            for name in ("scheduler", "nats", "postgres")
        ]
        _print(
            console,
            "after kill -9",
            ("killed", "next task s", "longest pause s", "server is up again s"),
            rows,
        )


def _print(console: Console, title: str, head: tuple[str, ...], rows: list[Any]) -> None:
    table = Table(title=title, title_justify="left")
    for name in head:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)


def _cores(used: dict[str, float]) -> str:
    return ", ".join(f"{name} {cores}" for name, cores in used.items())
