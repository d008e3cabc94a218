"""`agency run` as a process that is killed while it judges, and repeated: at most what was in flight is asked again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from inferalign.agency.stored import read_run
from inferalign.engines.remote_names import DEFAULT_KEY
from tests.agency.serving import CHAT, DECISIONS, requests, serving
from tests.mock_server import MockServer, Settings

IN_FLIGHT = 8
ITEMS = 60


def start(server: MockServer, run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "inferalign.cli.main", "agency", "run", "--run", str(run)]
    command += ["--model", f"subject@{server.url}", "--judge", f"decisions:openai:judge@{server.url}"]
    command += ["--limit", str(ITEMS // 6), "--concurrency", str(IN_FLIGHT)]
    environment = {key: value for key, value in os.environ.items() if key != DEFAULT_KEY}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where tests run in the background it is off
    )


def wait_for_verdicts(server: MockServer, run: subprocess.Popen[str]) -> None:
    """Return once a third of the items has been judged, in the midst of the judge stage."""
    deadline = time.monotonic() + 120
    while requests(server, DECISIONS) < ITEMS // 3:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_killed_run_repeats_at_most_the_calls_in_flight(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with serving(Settings(models="", latency=0.02)) as server:
        first = start(server, run)
        wait_for_verdicts(server, first)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        kept = read_run(run)
        assert 0 < len(kept.verdicts) < len(kept.replies) < ITEMS
        second = start(server, run)
        out, errors = second.communicate(timeout=120)
        assert second.returncode == 0, errors
        assert 2 * ITEMS <= requests(server, CHAT) + requests(server, DECISIONS) <= 2 * ITEMS + IN_FLIGHT
    assert json.loads(out.splitlines()[-1])["replies"] == ITEMS
    stored = read_run(run)
    assert len(stored.replies) == len(stored.verdicts) == ITEMS
    # What was kept is as it was.
    assert {v.id: v for v in kept.verdicts}.items() <= {v.id: v for v in stored.verdicts}.items()


def test_ctrl_c_says_what_is_kept_and_the_next_start_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    # slow enough that a busy machine does not let it end before the signal comes
    with serving(Settings(models="", latency=0.5)) as server:
        first = start(server, run)
        wait_for_verdicts(server, first)
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=60)
    assert first.returncode == 130
    kept = read_run(run)
    last = errors.splitlines()[-1]
    told = f"{len(kept.replies)} replies and {len(kept.verdicts)} verdicts finished and kept, repeat the same command"
    assert told in last
    assert "Traceback" not in errors
    assert (run / "costs.json").is_file()
