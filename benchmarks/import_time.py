"""How long a user waits before anything happens: a bare interpreter, `import inferalign`, `inferalign --help`.

    python -m benchmarks.import_time

Medians of 15 interleaved runs of fresh processes, after one that is not counted (it writes the byte code). The goals:
importing adds at most 0.1 s to a bare interpreter, help comes within 0.3 s. Prints a table; the last line is JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "bare interpreter": ("-c", "pass"),
    "import inferalign": ("-c", "import inferalign"),
    "inferalign --help": ("-m", "inferalign.cli.main", "--help"),
}
RUNS = 15


def seconds(arguments: tuple[str, ...]) -> float:
    """Wall time of one fresh process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for run in range(RUNS + 1):
        for name, arguments in COMMANDS.items():
            took = seconds(arguments)
            if run:
                times[name].append(took)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        spread = f"(fastest {1000 * min(values):.1f}, slowest {1000 * max(values):.1f})"
        print(f"{name:20} {1000 * medians[name]:7.1f} ms   {spread}")
    added = medians["import inferalign"] - medians["bare interpreter"]
    print(
        json.dumps({"medians_s": medians, "import_adds_s": added, "help_s": medians["inferalign --help"], "runs": RUNS})
    )


if __name__ == "__main__":
    main()
