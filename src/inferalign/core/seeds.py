"""Seeds derived from names, so that batch size, order and resume never change a draw.

`derive` hashes a root seed and any number of keys with SHA-256 (never `hash()`, which is salted for strings).
`uniforms` turns a derived seed into numbers in [0, 1) that are the same on every platform.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Key = str | int


def derive(root: int, *keys: Key) -> int:
    """A 64-bit seed that depends on the root and on every key, on their types and on their order."""
    digest = hashlib.sha256(repr(root).encode())
    for key in keys:
        data = f"{type(key).__name__}:{key}".encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest()[:8], "little")


def fingerprint(token_ids: Sequence[int]) -> str:
    """A short stable name for a token sequence, to key draws by their prefix."""
    return hashlib.sha256(b"".join(int(i).to_bytes(4, "little") for i in token_ids)).hexdigest()[:16]


def uniforms(seed: int, n: int) -> NDArray[np.float64]:
    """`n` numbers in [0, 1): the first k of a longer stream are the shorter stream."""
    import numpy as np

    return np.random.Generator(np.random.Philox(key=seed)).random(n)
