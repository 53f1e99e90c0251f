"""The proofs' signing key: the proof-store's alone; its public half is for everyone.

Made before the services start, because the scheduler checks receipts from its first moment.
"""

import os

from wfhub_admin.files import private_folder

from wfhub_local.layout import Layout


def publish_key(layout: Layout, *, uid: int) -> None:
    """`proof-key.pub` says what the key beside it in the closed folder says."""
    private_folder(layout.signing, uid)
    beside = layout.signing_key.with_name(layout.signing_key.name + ".pub")
    if not (layout.signing_key.exists() and beside.exists()):
        from wfhub_common import signing  # cryptography: heavy, and needed once

        signing.load_or_create_private_key(layout.signing_key)
        for file in (layout.signing_key, beside):
            os.lchown(file, uid, uid)
    pem = beside.read_bytes()
    if not layout.public_key.exists() or layout.public_key.read_bytes() != pem:
        layout.public_key.write_bytes(pem)
        layout.public_key.chmod(0o644)
