"""The sandbox under the agency benchmark, judged by the truth and by itself: nothing here comes from a network."""

from __future__ import annotations

import asyncio
from pathlib import Path

from inferalign.agency.benchmark import carry_out, prepare
from inferalign.agency.requests import RunRequest
from inferalign.agency.stored import read_run


def test_the_sandbox_is_judged_by_the_truth_and_by_its_own_questions(tmp_path: Path) -> None:
    request = RunRequest(
        model="sandbox",
        run=tmp_path / "run",
        judge=("oracle", "self"),
        allow_self_judging=True,
        items="sandbox:6",
        conditions=("none",),
        seed=54,
    )
    asyncio.run(carry_out(prepare(request)))
    verdicts = read_run(tmp_path / "run").verdicts
    truth = {verdict.reply: verdict for verdict in verdicts if verdict.judge == "oracle"}
    own = {verdict.reply: verdict for verdict in verdicts if verdict.judge == "local:sandbox"}
    assert len(truth) == len(own) == 36
    assert all(verdict.status == "ok" and verdict.probabilities is not None for verdict in own.values())
    parsed = [reply for reply, verdict in truth.items() if verdict.status == "ok"]
    assert len(parsed) > 30
    # Main faults: a judge that guessed would agree on 18 of 36.
    assert sum(("A" in truth[reply].letters) == ("A" in own[reply].letters) for reply in parsed) > 24
