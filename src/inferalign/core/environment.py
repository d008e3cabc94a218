"""What a run ran on: versions, commit and machine, found without importing a single library."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_LIBRARIES = ("numpy", "scipy", "torch", "transformers", "tokenizers", "safetensors", "sentence-transformers")


def environment() -> dict[str, Any]:
    """JSON values for `env.json`: inferalign's version and commit, libraries' versions, Python, platform, CPU count."""
    return {
        "inferalign": _version("inferalign"),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name))},
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, `-dirty` when files differ from it; None for an installed copy.

    Only the `src` layout counts: an installed copy may lie inside somebody else's checkout.
    """
    root = Path(__file__).resolve().parents[3]
    if not ((root / ".git").exists() and (root / "src" / "inferalign").is_dir()):
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
