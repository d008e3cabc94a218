"""Records of several run folders made durable together, a few times a second, beside the event loop.

An fsync takes from a tenth of a millisecond to tens of them, in which a loop that waits for it serves nobody. Here a
thread calls it, for many records at once: what is appended is on the disk `SECONDS` and one fsync later.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType

from inferalign.core.errors import RunError
from inferalign.core.records import RunFolder

SECONDS = 0.05
"""Between two rounds."""


class GroupSync:
    """Use it in a `with`, inside that of the folders, and append by it."""

    def __init__(self, folders: Sequence[RunFolder], seconds: float = SECONDS) -> None:
        self._folders = folders
        self._seconds = seconds
        self._stop = threading.Event()
        self._failed: RunError | None = None
        self._thread = threading.Thread(target=self._rounds, name="group-sync", daemon=True)

    def append(self, folder: RunFolder, record: dict[str, object]) -> None:
        """`RunFolder.append`. Raises `RunError` when an earlier record could not be made durable, too."""
        if self._failed is not None:
            raise self._failed
        folder.append(record, sync=False)

    def _rounds(self) -> None:
        while not self._stop.wait(self._seconds):
            for folder in self._folders:
                if folder.unsynced:
                    try:
                        folder.flush()
                    except RunError as error:
                        self._failed = error
                        return

    def __enter__(self) -> GroupSync:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the thread. The last records become durable when their folder is closed.

        Raises `RunError` when some could not be made durable and nothing else went wrong: the system says so once, and
        closing their folder would pass.
        """
        self._stop.set()
        self._thread.join()
        if error is None and self._failed is not None:
            raise self._failed
