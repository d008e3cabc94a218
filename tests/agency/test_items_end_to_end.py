"""60 messages simulated, validated and 20 of them selected, by scripted endpoints whose calls finish in any order."""

import asyncio
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from inferalign.agency.dimension import load_dimension
from inferalign.agency.embed import TfidfEmbedder
from inferalign.agency.items import load_items, write_items
from inferalign.agency.keep import Kept, keep
from inferalign.agency.pool import Pool, gather
from inferalign.agency.select import Selection, select
from inferalign.agency.simulate import SimulateSettings, own_examples, plan_call, shipped_themes, simulate
from inferalign.agency.validate import ValidateSettings, ValidationJob, read_validation, validate, validation_record
from inferalign.core.config import to_dict
from inferalign.core.errors import TransientError
from inferalign.core.files import dump_json
from inferalign.core.jobs import run_jobs
from inferalign.core.records import RunFolder, read_records
from inferalign.engines.chat_api import ChatReply, ChatRequest
from tests.agency.scripted_chat import ScriptedChat, reply, varied

DIMENSION = load_dimension("ask_clarifying_questions")
EXAMPLES = own_examples(DIMENSION)
SETTINGS = SimulateSettings(seed=11)
CALLS = [plan_call(DIMENSION, SETTINGS, index, themes=shipped_themes(), examples=EXAMPLES) for index in range(20)]


def verdicts(request: ChatRequest) -> ChatReply:
    """By the text of the message: one in eight has fault A, one in eight the two faults C and D, one cannot be read."""
    kind = zlib.crc32(request.messages[0].content.encode()) % 16
    if kind == 15:
        return reply("It is a good message.")
    faults = {0: ["A"], 1: ["A"], 2: ["C", "D"], 3: ["C", "D"], 4: ["C"], 5: ["D"]}.get(kind, [])
    return reply(json.dumps({"assessment": "read", "faults": faults, "total": 1000}))


async def simulated(folder: RunFolder, client: ScriptedChat, concurrency: int) -> None:
    async def work(call: Any) -> dict[str, Any]:
        return await simulate(call, DIMENSION, client, SETTINGS, examples=EXAMPLES)

    todo = [call for call in CALLS if folder.wants(call.id)]
    await run_jobs(
        todo, work, on_result=lambda _, record: folder.append(record), concurrency=concurrency, base_delay=0.0
    )


async def built(path: Path, shuffle: int | None, concurrency: int) -> tuple[Pool, Kept, Selection]:
    with RunFolder.open(path / "calls", {}, {}) as folder:
        await simulated(folder, ScriptedChat(varied, shuffle=shuffle), concurrency)
    pool = gather(read_records(path / "calls"))
    validator = ScriptedChat(verdicts, shuffle=shuffle)
    with RunFolder.open(path / "validations", {}, {}) as folder:
        await run_jobs(
            [ValidationJob(item=item, validator=validator.name) for item in pool.items],
            lambda job: validate(job, DIMENSION, validator, ValidateSettings()),
            on_result=lambda _, validation: folder.append(validation_record(validation)),
            concurrency=concurrency,
        )
    validations = [read_validation(record) for record in read_records(path / "validations")]
    kept = keep(pool.items, validations, DIMENSION, wanted=30, seed=SETTINGS.seed)
    chosen = await select(
        kept.items,
        TfidfEmbedder(),
        wanted=20,
        seed=SETTINGS.seed,
        scores=kept.scores,
        avoid=[example.fields["prompt"] for example in EXAMPLES],
    )
    return pool, kept, chosen


@pytest.fixture(scope="module")
def in_order(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pool, Kept, Selection]:
    return asyncio.run(built(tmp_path_factory.mktemp("in_order"), None, 1))


def test_sixty_become_twenty(in_order: tuple[Pool, Kept, Selection]) -> None:
    pool, kept, chosen = in_order
    assert (len(pool.items), pool.calls, pool.rejected) == (60, {"ok": 20}, {})
    assert pool.tokens == {"requests": 20, "prompt": 2000, "completion": 4000, "cached": 0}
    assert sum(kept.counts.values()) == 60
    assert kept.counts["kept"] == 30
    assert min(kept.counts[fate] for fate in ("unscored", "below_min_score", "beyond_rank")) > 0
    assert kept.unscored == {"not JSON": kept.counts["unscored"]}
    assert kept.totals["disagree"] > 0
    assert min(kept.scores.values()) >= DIMENSION.validate.min_score
    assert len(chosen.items) == 20
    assert {item.id for item in chosen.items} < {item.id for item in kept.items}
    assert sum(chosen.coverage.cluster_sizes) == chosen.coverage.pool == 30 - len(chosen.near_duplicates)
    assert "" not in {*chosen.coverage.themes.selected, *chosen.coverage.topics.selected}
    assert chosen.embedding["embedding"] == "tfidf-svd"


@pytest.mark.parametrize("shuffle", [1, 2])
def test_calls_that_finish_in_another_order_give_the_same_bytes(
    shuffle: int, in_order: tuple[Pool, Kept, Selection], tmp_path: Path
) -> None:
    made = asyncio.run(built(tmp_path, shuffle, 7))
    order = [record["id"] for record in read_records(tmp_path / "calls")]
    assert order != [call.id for call in CALLS]
    for there, here in zip(in_order, made, strict=True):
        assert dump_json(to_dict(here)) == dump_json(to_dict(there))
    write_items(tmp_path / "a.jsonl", in_order[2].items)
    write_items(tmp_path / "b.jsonl", made[2].items)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_the_selected_items_can_be_run(in_order: tuple[Pool, Kept, Selection], tmp_path: Path) -> None:
    items = list(in_order[2].items)
    write_items(tmp_path / "bank.jsonl", items)
    assert load_items(DIMENSION, tmp_path / "bank.jsonl") == items
    assert items[0].provenance.keys() >= {"theme", "topic", "examples", "call", "model", "validation", "selection"}


def test_a_run_that_was_stopped_goes_on_to_the_same_pool(
    in_order: tuple[Pool, Kept, Selection], tmp_path: Path
) -> None:
    class Stops(ScriptedChat):
        """Serves nine calls, then fails those that come until it is mended."""

        async def chat(self, request: ChatRequest) -> ChatReply:
            if len(self.requests) >= 9:
                raise KeyboardInterrupt
            return await super().chat(request)

    with pytest.raises(KeyboardInterrupt), RunFolder.open(tmp_path, {}, {}) as folder:
        asyncio.run(simulated(folder, Stops(varied), 4))
    done = len(list(read_records(tmp_path)))
    assert 0 < done < 20
    client = ScriptedChat(varied, shuffle=3)
    with RunFolder.open(tmp_path, {}, {}) as folder:
        asyncio.run(simulated(folder, client, 4))
    assert len(client.requests) == 20 - done
    assert gather(read_records(tmp_path)) == in_order[0]


def test_errors_of_the_endpoint_change_nothing_but_the_number_of_requests(
    in_order: tuple[Pool, Kept, Selection], tmp_path: Path
) -> None:
    class Busy(ScriptedChat):
        failed = 0

        async def chat(self, request: ChatRequest) -> ChatReply:
            self.failed += 1
            if self.failed % 3 == 0:
                raise TransientError("429", retry_after=0.0)
            return await super().chat(request)

    with RunFolder.open(tmp_path, {}, {}) as folder:
        asyncio.run(simulated(folder, Busy(varied), 5))
    assert gather(read_records(tmp_path)) == in_order[0]
