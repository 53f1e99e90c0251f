"""Packs written from chosen objects, without deltas, compressed bytes copied where they exist.

One object costs one look-up: dulwich's own writers read whole packs to find deltas to reuse,
which costs what the repository weighs. Packs are complete in themselves, never thin.
Raises: Rejected (`repo-object-missing`); `ingest` one of DAMAGED or OSError.
"""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from dulwich.errors import ApplyDeltaError, ChecksumMismatch, FileFormatException
from dulwich.object_format import SHA1
from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID, RawObjectID, ShaFile, hex_to_sha
from dulwich.pack import (
    DELTA_TYPES,
    UnpackedObject,
    UnresolvedDeltas,
    pack_object_header,
    write_pack_data,
    write_pack_index_v2,
)
from wfhub_common.errors import Rejected

from wfhub_agent_runner.gitwork import limits

# What dulwich raises for bytes that are no sound pack or object.
DAMAGED = (
    ApplyDeltaError,
    AssertionError,
    ChecksumMismatch,
    FileFormatException,
    UnresolvedDeltas,
    ValueError,
    zlib.error,
)
Written = tuple[dict[bytes, tuple[int, int]], bytes]  # id → (offset, CRC-32); the checksum
_COMPRESSION = 1  # of objects that were stored as deltas; speed matters more here than size


def write(file: IO[bytes], store: DiskObjectStore, oids: Sequence[ObjectID]) -> Written:
    return write_pack_data(
        file,
        records(store, oids),
        SHA1,
        num_records=len(oids),
        compression_level=_COMPRESSION,
    )


def write_objects(file: IO[bytes], objects: Sequence[ShaFile]) -> None:
    """A pack of objects in memory."""
    write_pack_data(
        file,
        (
            UnpackedObject(
                made.type_num, decomp_chunks=made.as_raw_chunks(), sha=hex_to_sha(made.id)
            )
            for made in objects
        ),
        SHA1,
        num_records=len(objects),
        compression_level=_COMPRESSION,
    )


def write_with_index(folder: Path, store: DiskObjectStore, oids: Sequence[ObjectID]) -> None:
    """`pack-<checksum>.pack` in `folder` with its index, made without reading the pack again."""
    fresh = folder / "tmp_pack"
    with fresh.open("wb") as f:
        places, checksum = write(f, store, oids)
    pack = folder / f"pack-{checksum.hex()}.pack"
    fresh.rename(pack)
    entries = sorted((RawObjectID(oid), offset, crc) for oid, (offset, crc) in places.items())
    with pack.with_suffix(".idx").open("wb") as f:
        write_pack_index_v2(f, entries, checksum)


def ingest(file: BinaryIO, store: DiskObjectStore) -> str:
    """Add a pack to the store, every object hashed and parsed; its name (pack-<name>.pack)."""
    pack = store.add_thin_pack(file.read, None, max_input_size=limits.PACK_BYTES_MAX)
    return pack.name().decode()


def records(store: DiskObjectStore, oids: Sequence[ObjectID]) -> Iterator[UnpackedObject]:
    for oid in oids:
        try:
            yield _record(store, oid)
        except KeyError as e:
            raise Rejected(
                "repo-object-missing",
                f"the repository lacks object {oid.decode()}; run git fsck in it",
                object=oid.decode(),
            ) from e


def _record(store: DiskObjectStore, oid: ObjectID) -> UnpackedObject:
    packed = _as_packed(store, hex_to_sha(oid))
    if packed is not None and packed.pack_type_num not in DELTA_TYPES:
        assert packed.comp_chunks is not None
        assert packed.decomp_len is not None
        header = pack_object_header(packed.pack_type_num, None, packed.decomp_len, SHA1)
        packed.comp_chunks.insert(0, bytes(header))  # dulwich writes comp_chunks as they are
        packed._sha = hex_to_sha(oid)
        return packed
    type_num, content = store.get_raw(oid)
    return UnpackedObject(type_num, decomp_chunks=[content], sha=hex_to_sha(oid))


def _as_packed(store: DiskObjectStore, sha: RawObjectID) -> UnpackedObject | None:
    """As it lies in a pack; None: it is loose, or nowhere. (The store's own method names the base
    of each delta by reading the whole index: minutes for ten thousand files.)"""
    try:
        return store._lookup_in_packs(
            lambda pack: pack.get_unpacked_object(sha, include_comp=True, convert_ofs_delta=False)
        )
    except KeyError:
        pass
    for alternate in store.alternates:
        assert isinstance(alternate, DiskObjectStore)
        if (found := _as_packed(alternate, sha)) is not None:
            return found
    return None
