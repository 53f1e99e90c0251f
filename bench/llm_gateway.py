"""The gateway beside LiteLLM's proxy and a bare pass-through: `python bench/llm_gateway.py`.

All lead to the same scripted upstream, in the same run, on this machine; --quick is a short one.
  latency     one streamed request after the other, the ways in turn: until the first byte, from the
              upstream's write of a chunk to our read of it, and in all; what is added to asking
              directly is the difference of the quantiles
  throughput  whole streams of 20 chunks a second, with 1, 32 and 256 open at once
  memory      private memory of the process with 1,000 streams open, less that with none; a way that
              has not opened them within a minute is measured with those that it has
The last line is one JSON object. Read the ratios, not the numbers: the upstream, the client and
Postgres share the cores with what is measured.
"""

import argparse
import asyncio
import json
import logging
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from control_plane_parts import peer_runs
from control_plane_parts.processes import Child, Family, run
from control_plane_parts.servers import Postgres, versions
from llm_gateway_parts import client, ways
from llm_gateway_parts.client import Measured, Way, p50, p99

LATENCY_SCRIPT = "s-10-2-16"  # ten chunks, 2 ms apart
LOAD_SCRIPT = "s-20-0-16"
HELD_SCRIPT = "s-2-600000-16"
STREAMS = (1, 32, 256)
MEMORY_S_MAX = 60.0  # for a way to open its streams


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def latencies(found: dict[str, Measured]) -> dict[str, dict[str, float]]:
    direct = found["direct"]
    table: dict[str, dict[str, float]] = {}
    for name, each in found.items():
        row: dict[str, float] = {}
        for what in ("first_byte", "chunk", "whole"):
            values, base = getattr(each, what), getattr(direct, what)
            for label, quantile in (("p50", p50), ("p99", p99)):
                row[f"{what}_{label}_ms"] = round(quantile(values), 3)
                row[f"{what}_added_{label}_ms"] = round(quantile(values) - quantile(base), 3)
        table[name] = row
        say(f"{name:12} " + "  ".join(f"{k} {v}" for k, v in row.items() if "added" in k))
    return table


async def loads(
    all_ways: list[Way], children: dict[str, list[Child]], *, seconds: float
) -> dict[str, dict[str, Any]]:
    """Requests a second, what failed, and processor time a request: the steadiest of the three."""
    table: dict[str, dict[str, Any]] = {way.name: {} for way in all_ways}
    for streams in STREAMS:
        for way in all_ways:
            await client.throughput(way, script=LOAD_SCRIPT, streams=streams, seconds=1.0)  # warm
            before = {child.name: child.cpu_s() for child in children[way.name]}
            load = await client.throughput(
                way, script=LOAD_SCRIPT, streams=streams, seconds=seconds
            )
            ended = max(load.ended, 1)
            used = {
                child.name: round((child.cpu_s() - before[child.name]) * 1000 / ended, 2)
                for child in children[way.name]
            }
            row = {"requests_per_s": round(load.per_s, 1), "failed": load.failed}
            table[way.name][str(streams)] = {**row, "cpu_ms_per_request": used}
            say(f"{way.name:12} {streams:4} streams: {table[way.name][str(streams)]}")
    return table


async def memory(children: dict[str, tuple[Way, Child]], *, streams: int) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, (way, child) in children.items():
        before = await asyncio.to_thread(ways.memory_mb, child)
        opened, why = await client.held(
            way, script=HELD_SCRIPT, streams=streams, within_s=MEMORY_S_MAX
        )
        if why and name == "gateway":
            raise RuntimeError(f"{len(opened)} of {streams} streams: {why}")
        during = await asyncio.to_thread(ways.memory_mb, child)
        for connection in opened:
            connection.writer.close()
        table[name] = {
            "streams": len(opened),
            "no_more": why,
            "before_mb": round(before, 1),
            "during_mb": round(during, 1),
            "mb_per_1000_streams": round((during - before) * 1000 / max(len(opened), 1), 1),
        }
        say(f"{name:12} {table[name]}")
    return table


async def measure(family: Family, *, quick: bool) -> dict[str, Any]:
    pg = await asyncio.to_thread(Postgres, family)
    upstream, _ = await asyncio.to_thread(ways.script, family, "upstream")
    bare_port, bare_child = await asyncio.to_thread(
        ways.script, family, "passthrough", f"http://127.0.0.1:{upstream}"
    )
    direct, bare = Way("direct", upstream), Way("pass-through", bare_port)
    peer, peer_child = await asyncio.to_thread(ways.litellm, family, upstream)
    async with ways.gateway(family, pg, upstream) as (own, own_child):
        all_ways = [direct, own, peer, bare]
        # Each attempt's first exchange makes its accounts: that is no steady state.
        for _ in own.keys:
            async with client.Connection(own) as connection:
                await connection.exchange("s-1-0-1")
        found = await client.latency(
            all_ways, script=LATENCY_SCRIPT, count=100 if quick else 600, rounds=5
        )
        results: dict[str, Any] = {"latency": latencies(found)}
        by_way = {"gateway": [own_child, pg.child], "litellm": [peer_child]}
        by_way |= {"direct": [], "pass-through": [bare_child]}
        results["throughput"] = await loads(all_ways, by_way, seconds=4 if quick else 15)
        children = {"gateway": (own, own_child), "litellm": (peer, peer_child)}
        results["memory"] = await memory(children, streams=1000)
    results["settings"] = {
        "postgres": await asyncio.to_thread(pg.durable),
        "versions": versions() | {"litellm": litellm_version(), "python": sys.version.split()[0]},
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "quick": quick,
        "scripts": {"latency": LATENCY_SCRIPT, "throughput": LOAD_SCRIPT, "memory": HELD_SCRIPT},
    }
    return results


def litellm_version() -> str:
    said = "import importlib.metadata as m; print(m.version('litellm'))"
    return run([peer_runs.python(), "-c", said]).strip()


def summary(results: dict[str, Any]) -> dict[str, Any]:
    latency, rates = results["latency"], results["throughput"]
    own, peer = latency["gateway"], latency["litellm"]
    ratios = {
        str(n): round(
            rates["gateway"][str(n)]["requests_per_s"]
            / max(rates["litellm"][str(n)]["requests_per_s"], 0.1),
            2,
        )
        for n in STREAMS
    }
    return {
        "added_p50_ms": own["first_byte_added_p50_ms"],
        "added_p99_ms": own["first_byte_added_p99_ms"],
        "chunk_added_p50_ms": own["chunk_added_p50_ms"],
        "litellm_added_p50_ms": peer["first_byte_added_p50_ms"],
        "litellm_latency_ratio": round(
            own["first_byte_added_p50_ms"] / max(peer["first_byte_added_p50_ms"], 0.001), 3
        ),
        "litellm_throughput_ratio": ratios["32"],
        "litellm_throughput_ratios": ratios,
        "mb_per_1000_streams": results["memory"]["gateway"]["mb_per_1000_streams"],
        **results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    logging.disable(logging.WARNING)
    peer_runs.python()  # before the clock runs
    with tempfile.TemporaryDirectory(prefix="wfhub-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        family = Family(folder)
        try:
            results = asyncio.run(measure(family, quick=quick))
        except BaseException:
            for log in sorted(folder.glob("*.log")):
                say(f"--- {log.name}\n{log.read_bytes()[-1500:].decode(errors='replace')}")
            raise
        finally:
            family.end_all()
    print(json.dumps(summary(results)))


if __name__ == "__main__":
    main()
