"""How a benchmark is run from a shell: our own errors in one line, as the commands of the package say them."""

from __future__ import annotations

import sys
from collections.abc import Callable

from inferalign.core.errors import InferalignError


def run_main(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with what it returns; with 2 and one line on stderr for an error of ours."""
    try:
        code = main()
    except InferalignError as error:
        print(f"inferalign: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)
