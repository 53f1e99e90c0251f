"""Ways between processes that are cut, on both sides or on one."""

import asyncio

from chaos.faults.parts import Proof
from chaos.field import Field
from chaos.nodes import SCHEDULERS
from chaos.proxy import TO_CLIENT, TO_SERVER, Proxy


async def runner_cut(field: Field) -> Proof | None:
    """No way between a runner and NATS, for longer than a lease lives."""
    name = field.one_of(field.cluster.lean)
    field.driver.burst_soon(12, "busy", 1500)
    return await _cut(field, field.cluster.nats_proxies[name], name, TO_SERVER, TO_CLIENT)


async def runner_cut_one_way(field: Field) -> Proof | None:
    name = field.one_of(field.cluster.lean)
    field.driver.burst_soon(12, "busy", 1500)
    way = field.rng.choice([TO_SERVER, TO_CLIENT])
    return await _cut(field, field.cluster.nats_proxies[name], name, way)


async def scheduler_cut_from_postgres(field: Field) -> Proof | None:
    name = field.one_of(SCHEDULERS)
    field.driver.burst_soon(12, "busy", 300)
    return await _cut(field, field.cluster.pg_proxies[name], name, TO_SERVER, TO_CLIENT)


async def scheduler_cut_one_way(field: Field) -> Proof | None:
    """Its statements arrive, and no answer comes back."""
    name = field.one_of(SCHEDULERS)
    field.driver.burst_soon(12, "busy", 300)
    return await _cut(field, field.cluster.pg_proxies[name], name, TO_CLIENT)


async def scheduler_cut_from_nats(field: Field) -> Proof | None:
    name = field.one_of(SCHEDULERS)
    field.driver.burst_soon(12, "busy", 300)
    return await _cut(field, field.cluster.nats_proxies[name], name, TO_SERVER, TO_CLIENT)


async def _cut(field: Field, proxy: Proxy, name: str, *ways: str) -> Proof | None:
    await asyncio.sleep(0.5)
    held = proxy.chunks_held
    proxy.cut(*ways)
    await asyncio.sleep(field.options.lease_ttl_s * field.rng.uniform(1.2, 2.0))
    met = proxy.chunks_held - held
    proxy.heal()
    return {"node": name, "ways": list(ways), "chunks_held": met} if met else None
