"""The local engine on CUDA: packed passes give the model's own logits, and searches grow the trees that a CPU grows.

    pytest -m gpu tests/engines/test_gpu.py

In float32 a GPU sums in another order than a CPU: draws are keyed alike, so that the trees have the same nodes, and
their numbers agree within `VALUES`. In bfloat16 two passes of different sizes may round a logit differently, which may
turn a draw; what is compared there is what the engine says of given texts.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from inferalign.core.types import Determinism, Message, Prompt, RoleUsage, TokenIds
from inferalign.engines.local import TOLERANCE, LocalEngine, load_local
from inferalign.engines.table import LoadedModel, ModelOptions
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain import Rain
from inferalign.procedures.rain_search import Search
from inferalign.procedures.rain_settings import PAPER
from inferalign.scorers.scripted import Replaced, hash_vote
from inferalign.scorers.self_eval import SelfEval, read_template

DEVICE: Literal["cpu", "cuda"] = "cuda"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
KINDS = ("llama", "gpt2", "qwen")
VALUES = 1e-3
BF16_PROBABILITY = 0.05
"""Most that the probability of a label may differ between bfloat16 and float32 on these small models."""

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def loaded(folder: Path, dtype: Literal["float32", "bfloat16"], device: Literal["cpu", "cuda"] = DEVICE) -> LoadedModel:
    return load_local(str(folder), ModelOptions(device=device, dtype=dtype))


def some_prefixes(vocabulary: int) -> list[TokenIds]:
    """Families on long beginnings, so that lanes stand on trunks, and loners of several lengths."""
    ids = np.random.Generator(np.random.Philox(key=7)).integers(5, vocabulary, 4000).tolist()
    stems = [tuple(ids[:130]), tuple(ids[200:330])]
    family = [stem + tuple(ids[400 + 9 * i : 400 + 9 * i + 1 + i]) for i in range(8) for stem in stems]
    return [*family, *(tuple(ids[1000 + 50 * i : 1000 + 50 * i + n]) for i, n in enumerate((1, 2, 17, 64)))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_passes_are_plain_forwards(kind: str, dtype: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"{kind}_dir")
    engine, _ = loaded(folder, dtype)
    assert isinstance(engine, LocalEngine)
    assert engine.reuses_prefixes
    assert engine.determinism is (Determinism.EXACT if (DEVICE, dtype) == ("cpu", "float32") else Determinism.SEEDED)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype]).eval().to(DEVICE)
    vocabulary = plain.config.vocab_size
    prefixes = some_prefixes(vocabulary)

    async def asked() -> list[list[float]]:
        answers = []
        for _ in range(2):  # the second time from what the first has left
            found = await asyncio.gather(
                *(engine.label_logprobs([prefix], range(vocabulary), RoleUsage()) for prefix in prefixes)
            )
            answers = [list(answer[0].logprobs) for answer in found]
        return answers

    for prefix, logprobs in zip(prefixes, asyncio.run(asked()), strict=True):
        with torch.inference_mode():
            logits = plain(torch.tensor([prefix], device=DEVICE)).logits[0, -1].double()
        expected = logits.log_softmax(-1).cpu().numpy()
        scale = max(1.0, float(logits.abs().max()))
        # Twice, since the difference of a logit from the normalising sum is compared.
        assert np.abs(np.array(logprobs) - expected).max() <= 2 * TOLERANCE[DTYPES[dtype]] * scale, len(prefix)


def grown(model: LoadedModel, template: str, together: int) -> list[Search]:
    """Searches of some prompts, all in flight, each to the end of a short answer."""
    settings = replace(PAPER, stop_value=1.0, max_iterations=12, extra_iterations=4)
    guide = Replaced(
        SelfEval(model.engine, model.chat, read_template(Path(template)), settings.form), hash_vote, "hash"
    )
    sampling = Sampling(max_new_tokens=7)
    rain = Rain(model.engine, model.chat, guide, seed=3, sampling=sampling, settings=settings)
    prompts = [
        Prompt(id=f"p{i}", messages=(Message(role="user", content=f"How do I water fern {i}?"),))
        for i in range(together)
    ]
    searches = [Search(rain, prompt) for prompt in prompts]

    async def all_of() -> None:
        await asyncio.gather(*(search.run() for search in searches))

    asyncio.run(all_of())
    return searches


def nodes(search: Search) -> dict[TokenIds, tuple[float, float, float]]:
    """Prior, visits and value of every node that is left, by the tokens from the root."""
    found = {}
    todo = [((), search.root)]
    while todo:
        path, node = todo.pop()
        found[path] = (node.prior, node.visits, node.value)
        todo += [(path + child.token_ids, child) for child in node.children]
    return found


def test_float32_trees_are_those_of_the_cpu(llama_dir: Path, short_template: str) -> None:
    ours = grown(loaded(llama_dir, "float32"), short_template, 3)
    theirs = grown(loaded(llama_dir, "float32", "cpu"), short_template, 3)
    for here, there in zip(ours, theirs, strict=True):
        assert here.committed == there.committed
        mine, reference = nodes(here), nodes(there)
        assert mine.keys() == reference.keys()
        for path, numbers in mine.items():
            assert numbers == pytest.approx(reference[path], abs=VALUES), path


@pytest.mark.parametrize("dtype", DTYPES)
def test_trees_do_not_depend_on_memory(llama_dir: Path, short_template: str, dtype: str) -> None:
    """What was evicted is computed again: in float32 the same tree, in bfloat16 an answer of the same length."""
    roomy = grown(loaded(llama_dir, dtype), short_template, 2)
    model = loaded(llama_dir, dtype)
    assert isinstance(model.engine, LocalEngine)
    model.engine.store.capacity = model.engine.lanes.capacity = 64 << 10
    tight = grown(model, short_template, 2)
    assert model.engine.store.stats.evicted > 0
    for here, there in zip(roomy, tight, strict=True):
        assert len(here.committed) == len(there.committed)
        if dtype == "float32":
            assert nodes(here).keys() == nodes(there).keys()


def test_bfloat16_judges_a_trees_texts_as_float32_does(llama_dir: Path, short_template: str) -> None:
    """Every text that a bfloat16 search judged, judged again in float32: the label probabilities agree."""
    searches = grown(loaded(llama_dir, "bfloat16"), short_template, 3)
    texts = [(search.prompt, text) for search in searches for text, _ in search.verdicts]
    assert len(texts) > 9
    judges = []
    for dtype in DTYPES:
        engine, chat = loaded(llama_dir, dtype)
        judge = SelfEval(engine, chat, read_template(Path(short_template)), "margin")
        contexts = [judge.context(prompt, text) for prompt, text in texts]
        answers = asyncio.run(engine.label_logprobs(contexts, range(400), RoleUsage()))
        judges.append(np.exp([answer.logprobs for answer in answers]))
    assert np.abs(judges[0] - judges[1]).max() <= BF16_PROBABILITY
