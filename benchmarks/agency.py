"""How fast does the agency benchmark judge, beside a bare aiohttp client that sends the same requests?

    python -m benchmarks.agency [--quick] [--latency 0.2] [--concurrency 100] [--items 500]

The mock server of the tests is a process of its own and answers after `--latency` seconds. Subject and judge are both
on it: an item is a reply and a chat verdict on it, both recorded, in groups that are made durable 50 ms apart at most.
The bare client sends as many pairs of requests, of the same texts, with the same calls in flight, and keeps nothing.
CPU is this process's own (`process_time`), so it means something on a busy machine, where wall times do not. Both are
run twice, in turn, and the faster of each counts; --quick runs each once, with 200 items.

Beside them stand the two ways through Inspect, on Inspect's mock models, without a server and its latency, with 100
items: our run over Inspect's model layer (`inspect:...`), and our Inspect task. What they cost is CPU; their rate is
what one process could do if answers took no time, and a provider's own package comes on top.

Prints a table; the last line is JSON. Targets: 100 judged a second, half of the bare client's rate, 5 ms of CPU each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from inspect_ai import eval as inspect_eval
from inspect_ai.model import Model, ModelOutput, ModelUsage, get_model

from benchmarks.mains import run_main
from inferalign.agency import judge_prompt
from inferalign.agency.conditions import parse_conditions
from inferalign.agency.dimension import load_dimension
from inferalign.agency.inspect_transport import InspectChat
from inferalign.agency.item_source import Material
from inferalign.agency.items import load_items
from inferalign.agency.judge_chat import ChatJudge, verdict_schema
from inferalign.agency.models import Models
from inferalign.agency.records import Item, Reply
from inferalign.agency.respond import reply_jobs
from inferalign.agency.run import run
from inferalign.agency.run_folder import AgencyFolder, run_config
from inferalign.agency.subject import RemoteSubject
from inferalign.agency.tasks import human_agency
from inferalign.core.files import dump_json
from inferalign.core.types import Message
from inferalign.engines.chat_api import ChatClient
from inferalign.engines.remote_http import RemoteOptions
from inferalign.engines.remote_ledger import Ledger
from inferalign.engines.table import ModelOptions

ROOT = Path(__file__).parents[1]
DIMENSION = "defer_important_decisions"
TARGETS = {"judged_per_s": 100.0, "share_of_bare_client": 0.5, "cpu_ms_per_judged": 5.0}
INSPECT_ITEMS = 100
VERDICT = '{"assessment": "No issue applies.", "issues": []}'
ANSWER = "The question answer choice yours perhaps first then because. " * 4


@dataclass(frozen=True)
class Timing:
    seconds: float
    cpu_seconds: float

    def row(self, name: str, items: int) -> str:
        return f"{name:<12}{items / self.seconds:>12.1f}{1000 * self.cpu_seconds / items:>18.2f}"


@contextmanager
def served(latency: float) -> Iterator[str]:
    """The mock server's URL."""
    command = [sys.executable, "-m", "tests.mock_server", "--latency", str(latency), "--models", "subject,judge"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def bank(count: int) -> list[Item]:
    """The shipped items of one dimension over and over, each with a mark of its own."""
    shipped = load_items(load_dimension(DIMENSION))
    return [
        Item(id=f"b{i:05d}", dimension=DIMENSION, prompt=f"{shipped[i % len(shipped)].prompt} ({i})")
        for i in range(count)
    ]


async def ours(url: str, items: Sequence[Item], folder: Path, concurrency: int) -> Timing:
    async with Models(RemoteOptions(concurrency=concurrency), ModelOptions(), Ledger()) as models:
        clients = await models.chat(f"subject@{url}", "subject"), await models.chat(f"judge@{url}", "judge")
        return await judged(*clients, items, folder, concurrency)


async def judged(
    asked: ChatClient, judging: ChatClient, items: Sequence[Item], folder: Path, concurrency: int
) -> Timing:
    """From the open run folder to the last record; opening it and the table at the end are not part of it."""
    material = Material(source="file", dimensions={DIMENSION: load_dimension(DIMENSION)}, items=tuple(items))
    conditions = parse_conditions(["default"], material.dimensions)
    subject, judge = RemoteSubject(asked), ChatJudge(judging, material.dimensions)
    said = {"name": subject.name, **subject.describe()}
    config = run_config(material, conditions, said, {judge.name: judge.describe()}, repeats=1, judge_repeats=1, seed=0)
    due = list(reply_jobs(items, material.dimensions, conditions, 1, subject.name))
    with AgencyFolder(folder, config) as records:
        wall, cpu = time.perf_counter(), time.process_time()
        await run(due, subject, [judge], records, {}, judge_repeats=1, concurrency=concurrency)
        timing = Timing(time.perf_counter() - wall, time.process_time() - cpu)
        assert len(records.verdicts[judge.name].done) == len(items)
    return timing


def mock(name: str, text: str) -> Model:
    """A model of Inspect's that always says the same; with a usage, or Inspect would fetch a tokenizer."""

    def answer(*_: object) -> ModelOutput:
        output = ModelOutput.from_content(name, text)
        output.usage = ModelUsage(input_tokens=400, output_tokens=40, total_tokens=440)
        return output

    return get_model(f"mockllm/{name}", custom_outputs=answer)


async def over_inspect(items: Sequence[Item], folder: Path, concurrency: int) -> Timing:
    """Our run with Inspect's model layer as its transport."""
    clients = InspectChat(mock("subject", ANSWER), role="subject"), InspectChat(mock("judge", VERDICT), role="judge")
    return await judged(*clients, items, folder, concurrency)


def inspect_task(items: Sequence[Item], folder: Path, concurrency: int) -> Timing:
    """The Inspect task, from `eval` to its log."""
    file = folder / "items.jsonl"
    file.write_bytes(b"".join(dump_json({"id": item.id, "prompt": item.prompt}) + b"\n" for item in items))
    models = {"model": mock("subject", ANSWER), "model_roles": {"judge": mock("judge", VERDICT)}}
    quiet = {"display": "none", "log_dir": str(folder), "log_realtime": False, "score_display": False}
    task = human_agency(dimension=DIMENSION, items=str(file))
    wall, cpu = time.perf_counter(), time.process_time()
    (log,) = inspect_eval(task, **models, **quiet, max_connections=concurrency)
    timing = Timing(time.perf_counter() - wall, time.process_time() - cpu)
    assert log.status == "success"
    return timing


async def bare(url: str, items: Sequence[Item], concurrency: int) -> Timing:
    """The same pairs of requests by aiohttp alone."""
    bodies = [_pair(item) for item in items]
    work = iter(bodies)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:

        async def worker() -> None:
            for pair in work:
                for body in pair:
                    async with session.post(f"{url}/chat/completions", json=body) as response:
                        await response.json()

        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def _pair(item: Item) -> tuple[dict[str, object], dict[str, object]]:
    dimension = load_dimension(DIMENSION)
    conversation = (Message(role="user", content=item.prompt), Message(role="assistant", content=ANSWER))
    reply = Reply(
        item=item.id,
        subject="subject",
        condition="default",
        repeat=0,
        conversation=conversation,
        system_prompt=None,
        finish="stop",
    )
    lettering = judge_prompt.original(dimension)
    prompt = judge_prompt.chat_prompt(dimension, item, reply, lettering, "0" * 16)
    schema = {"name": "reply", "strict": True, "schema": verdict_schema(lettering.shown)}
    return (
        {"model": "subject", "messages": [{"role": "user", "content": item.prompt}], "max_tokens": 1000},
        {
            "model": "judge",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 8192,
            "response_format": {"type": "json_schema", "json_schema": schema},
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="200 items, once")
    parser.add_argument("--latency", type=float, default=0.2, help="seconds that the server takes")
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--items", type=int, default=500)
    given = parser.parse_args()
    count = 200 if given.quick else given.items
    items = bank(count)
    timings: dict[str, list[Timing]] = {"bare aiohttp": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder, served(given.latency) as url:
        for attempt in range(1 if given.quick else 2):
            timings["bare aiohttp"].append(asyncio.run(bare(url, items, given.concurrency)))
            timings["ours"].append(asyncio.run(ours(url, items, Path(folder) / f"run-{attempt}", given.concurrency)))
        few = items[:INSPECT_ITEMS]
        inspect_task(few[:5], Path(folder), given.concurrency)  # what is imported and opened at the first call
        beside = {
            "over Inspect": asyncio.run(over_inspect(few, Path(folder) / "over", given.concurrency)),
            "Inspect task": inspect_task(few, Path(folder), given.concurrency),
        }
    best = {name: min(found, key=lambda timing: timing.seconds) for name, found in timings.items()}
    print(f"{'':<12}{'judged a s':>12}{'CPU ms a judged':>18}")
    for name, timing in best.items():
        print(timing.row(name, count))
    for name, timing in beside.items():
        print(timing.row(name, len(few)))
    facts = {
        "judged_per_s": count / best["ours"].seconds,
        "cpu_ms_per_judged": 1000 * min(timing.cpu_seconds for timing in timings["ours"]) / count,
        "share_of_bare_client": best["bare aiohttp"].seconds / best["ours"].seconds,
    }
    inspect = {
        f"{name.lower().replace(' ', '_')}_cpu_ms": round(1000 * timing.cpu_seconds / len(few), 3)
        for name, timing in beside.items()
    }
    met = {
        name: facts[name] <= target if name == "cpu_ms_per_judged" else facts[name] >= target
        for name, target in TARGETS.items()
    }
    print(
        json.dumps({**{name: round(value, 3) for name, value in facts.items()}, **inspect, "met": met, "items": count})
    )


if __name__ == "__main__":
    run_main(main)
