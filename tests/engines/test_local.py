"""The local engine against a naive loop of whole forwards, on three architectures, and its promises."""

from __future__ import annotations

import asyncio
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from inferalign.core.errors import ContextOverflow, EngineError
from inferalign.core.seeds import uniforms
from inferalign.core.types import Determinism, Message, RoleUsage, StopReason, TokenIds
from inferalign.engines import drafts
from inferalign.engines.base import Continuation, Row
from inferalign.engines.draws import draw
from inferalign.engines.local import LocalEngine, load_local
from inferalign.engines.plain_requests import PlainRequests
from inferalign.engines.table import LoadedModel, ModelOptions

KINDS = ("llama", "gpt2", "qwen")
CHAT = (Message(role="user", content="How do I water a fern, and when?"),)


class Loaded:
    """A model twice: as our engine, and plain."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine, self.chat = fresh(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.prefix = self.chat.render(CHAT)

    def plain(self, ids: TokenIds) -> tuple[np.ndarray, np.ndarray]:
        """Last logits `[vocab]` in float64 and hidden states `[T, hidden]`, from nothing."""
        with torch.inference_mode():
            out = self.model(torch.tensor([ids]), output_hidden_states=True)
        return out.logits[0, -1].double().numpy(), out.hidden_states[-1][0].numpy()

    def naive(self, prefix: TokenIds, row: Row) -> TokenIds:
        tokens: TokenIds = ()
        for number in uniforms(row.seed, row.max_new_tokens):
            tokens += (draw(self.plain(prefix + tokens)[0], row, number)[0],)
        return tokens


def fresh(folder: Path, **options: object) -> LoadedModel:
    return load_local(str(folder), ModelOptions(**({"device": "cpu"} | options)))


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return Loaded(request.getfixturevalue(f"{request.param}_dir"))


@pytest.fixture(scope="module")
def llama(llama_dir: Path) -> Loaded:
    return Loaded(llama_dir)


def sample(
    engine: LocalEngine, prefix: TokenIds, rows: list[Row], usage: RoleUsage | None = None
) -> list[Continuation]:
    return asyncio.run(engine.sample(prefix, rows, usage or RoleUsage()))


def ids(answers: list[Continuation]) -> list[TokenIds]:
    return [answer.token_ids for answer in answers]


def some_rows(count: int, length: int = 12, first: int = 0) -> list[Row]:
    kinds: list[dict[str, object]] = [{}, {"top_k": 15}, {"greedy": True}, {"temperature": 1.7, "top_k": 40}]
    return [Row(seed=first + i, max_new_tokens=length, **kinds[i % 4]) for i in range(count)]


def test_rows_are_the_naive_loop(loaded: Loaded) -> None:
    rows = some_rows(8)
    assert ids(sample(loaded.engine, loaded.prefix, rows)) == [loaded.naive(loaded.prefix, row) for row in rows]


def test_logprobs_are_of_the_filtered_distribution(loaded: Loaded) -> None:
    row = Row(seed=3, max_new_tokens=3, top_k=5, temperature=2.0)
    (answer,) = sample(loaded.engine, loaded.prefix, [row])
    for i, (token, logprob) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True)):
        logits = loaded.plain(loaded.prefix + answer.token_ids[:i])[0] / 2.0
        kept = np.sort(logits)[-5:]
        assert logprob == pytest.approx(logits[token] - math.log(np.exp(kept).sum()), abs=1e-5)


def test_labels_and_tops_are_the_plain_softmax(loaded: Loaded) -> None:
    tails: list[TokenIds] = [(7, 8, 9), (7, 8, 10, 11), (), (12,), (7, 8, 9)]
    prefixes = [loaded.prefix + tail for tail in tails]
    answers = asyncio.run(loaded.engine.label_logprobs(prefixes, [5, 9, 40], RoleUsage()))
    for prefix, answer in zip(prefixes, answers, strict=True):
        logits = loaded.plain(prefix)[0]
        logprobs = logits - np.logaddexp.reduce(logits)
        assert answer.logprobs == pytest.approx(logprobs[[5, 9, 40]], abs=1e-5)
        assert answer.mass == pytest.approx(np.exp(logprobs[[5, 9, 40]]).sum(), abs=1e-6)
        top = asyncio.run(loaded.engine.top_tokens(prefix, 4, RoleUsage()))
        assert list(top.token_ids) == np.argsort(-logits)[:4].tolist()
        assert top.logprobs == pytest.approx(np.sort(logprobs)[:-5:-1], abs=1e-5)


def test_unrelated_prefixes_in_one_request(loaded: Loaded) -> None:
    rng = np.random.default_rng(0)
    prefixes = [tuple(map(int, rng.integers(10, 300, n))) for n in (200, 3, 90)]
    answers = asyncio.run(loaded.engine.label_logprobs(prefixes, [5, 9], RoleUsage()))
    for prefix, answer in zip(prefixes, answers, strict=True):
        logits = loaded.plain(prefix)[0]
        assert answer.logprobs == pytest.approx((logits - np.logaddexp.reduce(logits))[[5, 9]], abs=1e-5)


def test_embeddings_are_mean_hidden_states(loaded: Loaded) -> None:
    (answer,) = sample(loaded.engine, loaded.prefix, some_rows(1))
    whole = loaded.prefix + answer.token_ids
    starts = [0, 5, len(loaded.prefix), len(whole) - 1]
    vectors = asyncio.run(loaded.engine.embed(whole, starts, RoleUsage()))
    hidden = loaded.plain(whole)[1]
    np.testing.assert_allclose(vectors, [hidden[start:].mean(axis=0) for start in starts], atol=2e-5)
    assert vectors.dtype == np.float32


def test_order_batch_resume_and_eviction_change_nothing(loaded: Loaded) -> None:
    rows = some_rows(10)
    prefixes = [loaded.prefix, (*loaded.prefix, 7, 8), loaded.prefix[:5], (9, 9, 9)]
    expected = {(p, row.seed): a for p in prefixes for row, a in zip(rows, sample(loaded.engine, p, rows), strict=True)}
    for options in ({}, {"prefix_cache_mb": 0}):
        engine = fresh(loaded.folder, **options).engine
        for at in (7, 3, 0, 9, 3):
            for prefix in reversed(prefixes):
                (answer,) = sample(engine, prefix, [rows[at]])
                same = expected[prefix, at]
                assert (answer.token_ids, answer.stop) == (same.token_ids, same.stop)
                assert answer.logprobs == pytest.approx(same.logprobs, abs=1e-4)
            continued = expected[loaded.prefix, at].token_ids
            asyncio.run(engine.label_logprobs([loaded.prefix + continued[:4], (3, 4)], [5], RoleUsage()))
        assert ids(sample(engine, prefixes[1], rows[::-1])) == [
            expected[prefixes[1], r.seed].token_ids for r in rows[::-1]
        ]


def test_what_rows_leave_behind_is_right(loaded: Loaded) -> None:
    """Prefixes through sampled rows are found in the store, and give what a plain forward gives."""
    engine = fresh(loaded.folder).engine
    answers = sample(engine, loaded.prefix, some_rows(10))
    for answer in answers[1::2]:
        whole = loaded.prefix + answer.token_ids
        usage = RoleUsage()
        (label,) = asyncio.run(engine.label_logprobs([whole], [5, 9], usage))
        assert usage == RoleUsage(tokens_fed=1, tokens_reused=len(whole) - 1, forward_calls=1)
        logits, hidden = loaded.plain(whole)
        assert label.logprobs == pytest.approx((logits - np.logaddexp.reduce(logits))[[5, 9]], abs=1e-5)
        starts = list(range(len(loaded.prefix), len(whole)))
        vectors = asyncio.run(engine.embed(whole, starts, RoleUsage()))
        np.testing.assert_allclose(vectors, [hidden[start:].mean(axis=0) for start in starts], atol=2e-5)


def test_concurrent_requests_do_not_meet(llama: Loaded) -> None:
    rows = some_rows(6)
    prefixes = [llama.prefix, llama.prefix[:7], (9, 8, 7)]

    async def together() -> list[list[Continuation]]:
        return await asyncio.gather(*(llama.engine.sample(p, rows, RoleUsage()) for p in prefixes))

    assert [ids(a) for a in asyncio.run(together())] == [[llama.naive(p, row) for row in rows] for p in prefixes]


def test_two_models_in_two_threads_do_not_meet(llama_dir: Path, qwen_dir: Path) -> None:
    """PyTorch lets go of the interpreter's lock within a pass, and one of them is loaded while the other works."""
    rows, prefix = some_rows(6, 24), tuple(range(1, 9))
    alone = ids(sample(fresh(llama_dir).engine, prefix, rows))
    found: list[list[TokenIds]] = []
    engines = [fresh(llama_dir).engine, fresh(llama_dir).engine]

    def work(engine: LocalEngine) -> None:
        for _ in range(6):
            engine.forget(prefix)
            found.append(ids(sample(engine, prefix, rows)))

    threads = [threading.Thread(target=work, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    shared = [fresh(qwen_dir).engine.reuses_prefixes for _ in range(3)]
    for thread in threads:
        thread.join()
    assert shared == [True] * 3
    assert found == [alone] * 12


def test_more_rows_than_a_pass(llama: Loaded) -> None:
    rows = some_rows(70, length=4, first=100)
    assert ids(sample(llama.engine, llama.prefix, rows)) == [llama.naive(llama.prefix, row) for row in rows]


def test_more_questions_than_a_pass(llama: Loaded) -> None:
    """A pass is bounded, since its mask grows with the square; what the questions share is still fed once."""
    prefixes = [(*llama.prefix, i, i + 1) for i in range(70)]
    engine, usage = fresh(llama.folder).engine, RoleUsage()
    answers = asyncio.run(engine.label_logprobs(prefixes, [5, 9], usage))
    assert usage.forward_calls == pytest.approx(2), "two parts wait for what the first one feeds for all"
    assert usage.tokens_fed == len(llama.prefix) + 2 * 70
    for prefix, answer in zip(prefixes, answers, strict=True):
        (alone,) = asyncio.run(llama.engine.label_logprobs([prefix], [5, 9], RoleUsage()))
        assert answer.logprobs == pytest.approx(alone.logprobs, abs=1e-5)


def test_accounting(llama_dir: Path) -> None:
    """Prompt of 14; then 3 rows that differ at once, and one that is the first again."""
    engine, chat = fresh(llama_dir)
    prefix = chat.render(CHAT)
    assert len(prefix) == 14
    rows = [Row(seed=seed, max_new_tokens=5) for seed in (1, 2, 3, 1)]
    usage = RoleUsage()
    answers = sample(engine, prefix, rows, usage)
    assert len({answer.token_ids[0] for answer in answers}) == 3
    # The last token drawn is not fed; the fourth row is the first and costs nothing.
    assert usage == RoleUsage(tokens_fed=14 + 3 * 4, tokens_reused=0, new_tokens=20, forward_calls=5)
    usage = RoleUsage()
    whole = prefix + answers[1].token_ids
    asyncio.run(engine.label_logprobs([(*whole, 5, 6), (*whole, 5, 7)], [1], usage))
    assert usage == RoleUsage(tokens_fed=1 + 3, tokens_reused=14 + 4, forward_calls=1)
    usage = RoleUsage()
    asyncio.run(engine.embed(whole, [3], usage))
    assert usage == RoleUsage(tokens_reused=19)


def stops(llama: Loaded, **rules: object) -> tuple[TokenIds, StopReason]:
    (answer,) = sample(llama.engine, llama.prefix, [Row(**({"seed": 5, "max_new_tokens": 20} | rules))])
    assert len(answer.logprobs) == len(answer.token_ids)
    return answer.token_ids, answer.stop


def test_stop_rules(llama: Loaded) -> None:
    free, reason = stops(llama)
    assert (len(free), reason) == (20, StopReason.LENGTH)
    at = free.index(free[6])
    assert stops(llama, stop_ids=frozenset({free[6]})) == (free[:at], StopReason.END)
    assert stops(llama, pause_ids=frozenset({free[6]})) == (free[: at + 1], StopReason.PARTIAL)
    both = frozenset({free[6]})
    assert stops(llama, stop_ids=both, pause_ids=both) == (free[:at], StopReason.END)
    assert stops(llama, max_new_tokens=0) == ((), StopReason.LENGTH)


def test_stop_strings_cut_the_whole_marker(llama: Loaded) -> None:
    free, _ = stops(llama, seed=8)
    marker = llama.chat.decode(free[4:7])
    cut, reason = stops(llama, seed=8, stop_strings=(marker,))
    text = llama.chat.decode(free)
    assert reason == StopReason.END
    assert cut == free[: len(cut)]
    assert marker not in llama.chat.decode(cut)
    assert len(llama.chat.decode(cut)) <= text.index(marker) < len(llama.chat.decode(free[: len(cut) + 1]))


def test_an_unlimited_answer_costs_no_memory_that_it_cannot_use(llama: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    room = llama.engine.context_length
    prefix = tuple(range(1, room - 3))
    rows = [Row(seed=1, max_new_tokens=length) for length in (4, 1_000_000)]
    made: list[int] = []
    monkeypatch.setattr(drafts, "uniforms", lambda seed, n: (made.append(n), uniforms(seed, n))[1])
    short, long = sample(llama.engine, prefix, rows)
    assert max(made) == 4, "numbers to draw with: no more than there is room for"
    assert short.token_ids == long.token_ids
    assert long.stop is StopReason.CONTEXT


def test_a_full_context_ends_a_row_and_refuses_a_prompt(llama: Loaded) -> None:
    context = llama.engine.context_length
    prefix = tuple(10 + i % 200 for i in range(context - 3))
    (answer,) = sample(llama.engine, prefix, [Row(seed=1, max_new_tokens=9)])
    assert (len(answer.token_ids), answer.stop) == (3, StopReason.CONTEXT)
    (answer,) = sample(llama.engine, prefix, [Row(seed=1, max_new_tokens=3)])
    assert answer.stop == StopReason.LENGTH
    with pytest.raises(ContextOverflow, match="256"):
        sample(llama.engine, (*prefix, 1, 2, 3), [Row(seed=1, max_new_tokens=1)])
    asyncio.run(llama.engine.top_tokens((*prefix, 1, 2, 3), 1, RoleUsage()))
    with pytest.raises(ContextOverflow):
        asyncio.run(llama.engine.label_logprobs([(*prefix, 1, 2, 3, 4)], [1], RoleUsage()))


@pytest.mark.parametrize("rules", [{"temperature": 0.0}, {"temperature": float("nan")}, {"top_k": 0}])
def test_impossible_rows(llama: Loaded, rules: dict[str, float]) -> None:
    with pytest.raises(EngineError, match="expected"):
        stops(llama, **rules)


def test_memory_stays_under_its_bound(llama_dir: Path) -> None:
    engine, chat = fresh(llama_dir, prefix_cache_mb=1)
    assert isinstance(engine, LocalEngine)
    for seed in range(40):
        sample(engine, (*chat.render(CHAT), seed), [Row(seed=seed * 9 + i, max_new_tokens=20) for i in range(8)])
        assert engine.store.nbytes <= 1 << 20
    assert engine.store.nbytes > 1 << 19


def test_what_an_engine_says_of_itself(llama_dir: Path) -> None:
    engine = fresh(llama_dir).engine
    assert engine.determinism == Determinism.EXACT
    assert engine.describe()["dtype"] == "float32"
    assert engine.describe() == fresh(llama_dir).engine.describe()
    reduced = fresh(llama_dir, dtype="bfloat16").engine
    assert reduced.determinism == Determinism.SEEDED
    assert reduced.describe()["reuses_prefixes"]


def test_a_model_whose_cache_cannot_be_forked_is_computed_anew(llama: Loaded, tmp_path: Path) -> None:
    """A Mistral whose window is shorter than its context: same draws as its own plain forwards, and one warning."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        sliding_window=8,
    )
    MistralForCausalLM(config).save_pretrained(tmp_path)
    llama.chat._tokenizer.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="every prefix is computed again"):
        windowed = Loaded(tmp_path)
    rows = some_rows(4, length=5)
    usage = RoleUsage()
    assert ids(sample(windowed.engine, windowed.prefix, rows, usage)) == [
        windowed.naive(windowed.prefix, r) for r in rows
    ]
    assert usage.tokens_reused == 0
    assert windowed.engine.describe()["reuses_prefixes"] is False


def test_a_tree_mask_that_is_not_followed_is_noticed(llama: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that ignores positions must not pass the check at load."""
    from transformers import LlamaModel

    from inferalign.engines.packed_check import matches_plain

    original = LlamaModel.forward
    with torch.inference_mode():
        assert matches_plain(llama.model, 1e-4)
        monkeypatch.setattr(LlamaModel, "forward", lambda self, position_ids=None, **kw: original(self, **kw))
        assert not matches_plain(llama.model, 1e-4)


def test_plain_forward_agrees_with_the_tree(llama: Loaded) -> None:
    with torch.inference_mode():
        plain = PlainRequests(llama.model).all_logits([llama.prefix], RoleUsage())[0]
    logits, _ = llama.plain(llama.prefix)
    np.testing.assert_allclose(plain.numpy(), logits, atol=1e-5)
