"""Shares among the mounts, as real kernels list them, and what is said of their options."""

from pathlib import Path

import pytest
from wfhub_common import shares

ROOT = "23 1 0:21 / / rw,relatime - ext4 /dev/vda rw"
NFS = (
    "37 23 0:30 / /mnt/nfs rw,relatime - nfs4 127.0.0.1:/ rw,vers=4.2,rsize=262144,wsize=262144,"
    "namlen=255,hard,proto=tcp,timeo=600,retrans=2,sec=sys,clientaddr=127.0.0.1,local_lock=none,"
    "addr=127.0.0.1"
)
SMB = (
    "17 23 0:16 / /mnt/my\\040share rw,relatime - cifs //127.0.0.1/share rw,vers=3.1.1,cache=none,"
    "username=share,uid=64001,forceuid,gid=64001,forcegid,addr=127.0.0.1,file_mode=0644,"
    "dir_mode=0755,hard,nounix,serverino,mapposix,mfsymlinks,rsize=4194304,wsize=4194304"
)
LOCAL = "40 37 8:1 / /mnt/nfs/local rw - xfs /dev/vdb rw"
MOUNTS = "\n".join([ROOT, NFS, SMB, LOCAL])


def test_only_network_file_systems_are_shares() -> None:
    nfs, smb = shares.found(MOUNTS)
    assert (nfs.at, nfs.type, nfs.device) == (Path("/mnt/nfs"), "nfs", "127.0.0.1:/")
    assert (smb.at, smb.type) == (Path("/mnt/my share"), "smb")


def test_a_folder_lies_on_the_innermost_mount() -> None:
    found = shares.holding(Path("/mnt/nfs/team/app"), MOUNTS)
    assert found is not None
    assert found.at == Path("/mnt/nfs")
    for local in ("/mnt/nfs/local/x", "/mnt/nfsx", "/home"):
        assert shares.holding(Path(local), MOUNTS) is None


def test_what_the_docs_recommend_is_not_dangerous() -> None:
    assert [list(shares.dangers(share)) for share in shares.found(MOUNTS)] == [[], []]


@pytest.mark.parametrize(
    ("line", "old", "new", "do"),
    [
        (NFS, "hard", "soft", "mount it with hard"),
        (NFS, "hard", "softerr", "mount it with hard"),
        (NFS, "local_lock=none", "local_lock=flock", "without nolock"),
        (NFS, "vers=4.2", "vers=3", "nfsvers=4.2"),
        (NFS, "vers=4.2", "vers=4.0", "nfsvers=4.2"),
        (SMB, "hard", "soft", "mount it with hard"),
        (SMB, "serverino", "nobrl", "without nobrl"),
        (SMB, "cache=none", "cache=loose", "cache=none"),
        (SMB, "vers=3.1.1", "vers=2.1", "vers=3.1.1"),
    ],
)
def test_an_option_that_may_lose_work_is_named_with_what_to_do(
    line: str, old: str, new: str, do: str
) -> None:
    (share,) = shares.found(line.replace(old, new, 1))
    (danger,) = shares.dangers(share)
    assert do in danger


def test_smb_has_modes_of_files_only_where_it_is_mounted_so() -> None:
    with_modes = SMB.replace("mfsymlinks", "modefromsid")
    found = [share.has_modes for share in shares.found("\n".join([NFS, SMB, with_modes]))]
    assert found == [True, False, True]
