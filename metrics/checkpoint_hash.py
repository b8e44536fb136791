"""Which weights a figure was measured with."""

import hashlib
from pathlib import Path


def checkpoint_hash(file: Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of `file`, as `sha256sum` prints it."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:12]
