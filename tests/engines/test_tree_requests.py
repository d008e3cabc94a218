"""What a request feeds is exactly what is not known, counted by hand; what it answers does not depend on what is.

Requests are driven one feed at a time, so that a test may meddle between two feeds.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from inferalign.core.types import RoleUsage, TokenIds
from inferalign.engines import tree_requests
from inferalign.engines.base import Row
from inferalign.engines.chat import ChatFormat
from inferalign.engines.drafts import Draft
from inferalign.engines.lanes import LanePool
from inferalign.engines.packed import Fed, Feed, PackedModel
from inferalign.engines.prefix import PrefixStore
from inferalign.engines.tree_requests import TreeRequests
from inferalign.engines.tree_rows import next_place
from tests.engines.test_prefix import add, states

PROMPT: TokenIds = (31, 7, 200, 90, 12)
LARGE = 1 << 24
Meddle = Callable[[int], None]


class Bench:
    """Requests over a fresh store, and the tokens that each of their feeds held."""

    def __init__(self, model: Any, chat: ChatFormat, capacity: int = LARGE) -> None:
        self.model, self.chat = model, chat
        packed = PackedModel(model)
        self.store = PrefixStore(capacity)
        self.lanes = LanePool(self.store, packed.shape, torch.empty(0), capacity)
        self.requests = TreeRequests(packed, self.store, self.lanes)
        self.packed = packed
        self.feeds: list[list[int]] = []

    def again(self, capacity: int = LARGE) -> Bench:
        return Bench(self.model, self.chat, capacity)

    def drive(self, steps: Generator[Feed, Fed, Any], meddle: Meddle = lambda i: None) -> Any:
        """Run a request to its end; `meddle(i)` is called before its i-th feed is run."""
        feeds: list[list[int]] = []
        with torch.inference_mode():
            try:
                feed = next(steps)
                while True:
                    meddle(len(feeds))
                    feeds.append(feed.token_ids)
                    feed = steps.send(self.packed.run([feed])[0])
            except StopIteration as end:
                self.feeds = feeds
                return end.value

    def logits(self, prefixes: Sequence[TokenIds], meddle: Meddle = lambda i: None) -> tuple[torch.Tensor, RoleUsage]:
        usage = RoleUsage()
        return self.drive(self.requests.logits(prefixes, usage), meddle), usage

    def hidden(
        self, prefix: TokenIds, start: int = 0, meddle: Meddle = lambda i: None
    ) -> tuple[torch.Tensor, RoleUsage]:
        usage = RoleUsage()
        return self.drive(self.requests.hidden(prefix, start, usage), meddle), usage

    def grow(
        self, prefix: TokenIds, rows: Sequence[Row], meddle: Meddle = lambda i: None
    ) -> tuple[list[TokenIds], RoleUsage]:
        usage, drafts = RoleUsage(), self.drafts(rows)
        self.drive(self.requests.grow(prefix, drafts, usage), meddle)
        return [draft.continuation().token_ids for draft in drafts], usage

    def drafts(self, rows: Sequence[Row]) -> list[Draft]:
        return [Draft(row, self.chat, room=200) for row in rows]

    def plain(self, prefix: TokenIds) -> tuple[torch.Tensor, torch.Tensor]:
        """Last logits and all states of a whole forward."""
        with torch.inference_mode():
            out = self.model(torch.tensor([prefix]), output_hidden_states=True)
        return out.logits[0, -1], out.hidden_states[-1][0]

    def assert_plain(self, logits: torch.Tensor, prefixes: Sequence[TokenIds]) -> None:
        expected = torch.stack([self.plain(prefix)[0] for prefix in prefixes])
        torch.testing.assert_close(logits, expected, atol=5e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def shared(llama_dir: Path) -> Bench:
    model = AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.float32).eval()
    return Bench(model, ChatFormat(AutoTokenizer.from_pretrained(llama_dir)))


@pytest.fixture
def bench(shared: Bench) -> Bench:
    return shared.again()


def rows_of(*lengths_by_seed: tuple[int, int], **options: Any) -> list[Row]:
    return [Row(seed=seed, max_new_tokens=length, **options) for seed, length in lengths_by_seed]


def ids(count: int, first: int = 0) -> TokenIds:
    return tuple(10 + (first + 37 * i) % 380 for i in range(count))


def test_judged_prefixes_are_one_tree_whose_stem_is_kept(bench: Bench) -> None:
    """By hand: three shared tokens, then 20 below which 21 and 22 branch, and 23; one prefix is the stem itself."""
    prefixes = [(10, 11, 12, 20, 21), (10, 11, 12), (10, 11, 12, 20, 22), (10, 11, 12, 23), (10, 11, 12, 20, 21)]
    logits, usage = bench.logits(prefixes)
    bench.assert_plain(logits, prefixes)
    assert bench.feeds == [[10, 11, 12, 20, 21, 22, 23]]
    assert usage == RoleUsage(tokens_fed=7, forward_calls=1)
    assert [bench.store.known(prefix) for prefix in prefixes] == [3] * 5, "what only one question asks for is not kept"
    logits, usage = bench.logits(prefixes)
    bench.assert_plain(logits, prefixes)
    assert bench.feeds == [[20, 21, 22, 23]]
    assert usage == RoleUsage(tokens_fed=4, tokens_reused=3, forward_calls=1)
    logits, usage = bench.logits([prefixes[1]])
    bench.assert_plain(logits, [prefixes[1]])
    assert usage == RoleUsage(tokens_reused=3), "all is known: no pass"


def test_rows_feed_what_nobody_fed(bench: Bench) -> None:
    """By hand: the prompt's 5, then all but the last token of each row; the longer row goes on where it ended."""
    (short,), usage = bench.grow(PROMPT, rows_of((1, 4)))
    assert bench.feeds == [list(PROMPT), [short[0]], [short[1]], [short[2]]]
    assert usage == RoleUsage(tokens_fed=5 + 3, new_tokens=4, forward_calls=4)
    (longer,), usage = bench.grow(PROMPT, rows_of((1, 7)))
    assert longer[:4] == short
    assert bench.feeds == [[], [], [], [], [longer[3]], [longer[4]], [longer[5]]]
    assert usage == RoleUsage(tokens_fed=3, tokens_reused=5 + 3, new_tokens=7, forward_calls=3)
    again, usage = bench.grow(PROMPT, rows_of((1, 7), (1, 5)))
    assert again == [longer, longer[:5]]
    assert usage == RoleUsage(tokens_reused=5 + 6, new_tokens=12), "a path of two rows is looked up once"


def test_a_known_row_and_a_new_one_grow_side_by_side(bench: Bench) -> None:
    """Only the new one's tokens are fed, and both draw as they do alone."""
    alone = [bench.again().grow(PROMPT, rows_of((seed, 6)))[0][0] for seed in (1, 2)]
    assert alone[0][0] != alone[1][0]
    bench.grow(PROMPT, rows_of((1, 6)))
    both, usage = bench.grow(PROMPT, rows_of((1, 6), (2, 6)))
    assert both == alone
    assert bench.feeds == [[], *([token] for token in alone[1][:5])]
    assert usage == RoleUsage(tokens_fed=5, tokens_reused=5 + 5, new_tokens=12, forward_calls=5)
    logits, usage = bench.logits([PROMPT + alone[1][:5], PROMPT + alone[0][:5]])
    bench.assert_plain(logits, [PROMPT + alone[1][:5], PROMPT + alone[0][:5]])


def test_rows_alike_so_far_are_one_node(bench: Bench) -> None:
    """Greedy rows never part; one that draws does."""
    rows = [*rows_of((1, 4), (2, 4), greedy=True), *rows_of((3, 4))]
    drawn, usage = bench.grow(PROMPT, rows)
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][0] != drawn[2][0]
    assert bench.feeds == [list(PROMPT), *([a, b] for a, b in zip(drawn[0][:3], drawn[2][:3], strict=True))]
    assert usage.new_tokens == 12


def test_states_are_fed_once(bench: Bench) -> None:
    whole = ids(30)
    states, usage = bench.hidden(whole[:20], start=4)
    torch.testing.assert_close(states, bench.plain(whole[:20])[1][4:], atol=5e-5, rtol=1e-4)
    assert usage == RoleUsage(tokens_fed=20, forward_calls=1)
    states, usage = bench.hidden(whole, start=25)
    torch.testing.assert_close(states, bench.plain(whole)[1][25:], atol=5e-5, rtol=1e-4)
    assert usage == RoleUsage(tokens_fed=10, tokens_reused=20, forward_calls=1)
    states, usage = bench.hidden(whole, start=7)
    torch.testing.assert_close(states, bench.plain(whole)[1][7:], atol=5e-5, rtol=1e-4)
    assert (usage, bench.feeds) == (RoleUsage(tokens_reused=30), [])


def test_a_long_prefix_in_chunks_is_the_same(shared: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 100 tokens by 16 are six chunks and a rest of 4, which goes with whatever is asked of it."""
    whole = ids(100)
    rows, questions = rows_of((1, 5), (2, 5), (3, 5)), [(*whole, 5, 6), (*whole, 5, 7), whole]
    expected = shared.again().grow(whole, rows)[0], shared.again().logits(questions)[0], shared.again().hidden(whole)[0]
    monkeypatch.setattr(tree_requests, "CHUNK", 16)
    bench = shared.again()
    drawn, usage = bench.grow(whole, rows)
    assert drawn == expected[0]
    assert [len(feed) for feed in bench.feeds[:7]] == [16] * 6 + [4]
    assert usage.tokens_fed == 100 + sum(len(feed) for feed in bench.feeds[7:])
    assert bench.store.known(whole) == 100
    bench = shared.again()
    torch.testing.assert_close(bench.logits(questions)[0], expected[1], atol=2e-4, rtol=0)
    assert [len(feed) for feed in bench.feeds] == [16] * 6 + [4 + 3]
    bench = shared.again()
    torch.testing.assert_close(bench.hidden(whole)[0], expected[2], atol=5e-5, rtol=0)
    assert [len(feed) for feed in bench.feeds] == [16] * 6 + [4]


def test_a_chunk_begins_where_knowledge_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ids(60)
    bench.hidden(whole[:21])
    monkeypatch.setattr(tree_requests, "CHUNK", 16)
    _, usage = bench.logits([whole])
    assert [len(feed) for feed in bench.feeds] == [16, 16, 7]
    assert usage == RoleUsage(tokens_fed=39, tokens_reused=21, forward_calls=3)


@pytest.mark.parametrize("at", range(7))
def test_eviction_in_between_changes_no_answer(at: int, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store loses everything before feed `at`: answers are the same, and nothing is left hanging in the air."""
    monkeypatch.setattr(tree_requests, "CHUNK", 16)
    whole, rows = ids(40), rows_of((1, 6), (2, 4), (3, 6))
    expected, questions = bench.again().grow(whole, rows)[0], [(*whole, 5), (*whole, 6, 7)]
    bench.grow(whole, rows[:1])  # one row's path is known, and lost on the way

    def lose(i: int) -> None:
        if i == at:
            bench.store.clear()

    drawn, _ = bench.grow(whole, rows, lose)
    assert drawn == expected
    bench.assert_plain(bench.logits(questions, lose)[0], questions)
    states = bench.hidden((*whole, *drawn[0]), meddle=lose)[0]
    torch.testing.assert_close(states, bench.plain((*whole, *drawn[0]))[1], atol=5e-5, rtol=1e-4)
    for row in drawn:
        logits, _ = bench.logits([whole + row])
        bench.assert_plain(logits, [whole + row])
    assert not any(lane.busy for lane in bench.lanes._lanes)


@pytest.mark.parametrize("at", range(6))
def test_paths_cut_in_two_while_they_are_walked(at: int, bench: Bench) -> None:
    """Another request branches off the path that is being walked, before and behind the place that was reached."""
    rows = rows_of((1, 7))
    (path,), _ = bench.grow(PROMPT, rows)

    def branch(i: int) -> None:
        if i == at:
            for cut in (1, 3, 5):
                with_other = (*PROMPT, *path[:cut], (path[cut] + 1) % 400, 9)
                bench.drive(bench.requests.hidden(with_other, 0, RoleUsage()))

    (again,), usage = bench.grow(PROMPT, rows, branch)
    assert again == path
    assert usage.tokens_fed + usage.tokens_reused == len(PROMPT) + 6
    assert usage.tokens_fed <= 6 - at, "what was walked before the cut was found"
    logits, usage = bench.logits([PROMPT + path[:6]])
    bench.assert_plain(logits, [PROMPT + path[:6]])
    assert usage == RoleUsage(tokens_reused=len(PROMPT) + 6)


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_place_in_a_path_that_was_cut_leads_to_no_other_place(cut: int) -> None:
    """Tokens are all alike, so that a place taken for another would go unnoticed but for its states."""
    path, other = (1,) * 6, ((1,) * cut + (2,))[:6]
    store = PrefixStore(LARGE)
    add(store, path)
    pieces = [store.end(path[:depth]) for depth in range(1, 6)]
    add(store, other)
    for depth, piece in enumerate(pieces, start=1):
        found = next_place(piece, 1)
        if depth <= cut:
            assert found is not None
            assert found.segment.hidden[found.take - 1] == states(path)[1][depth]
        else:
            assert found is None, "the place is in the lower part now, and is fed again"
    assert next_place(pieces[cut - 1], 2) == store.end(other)
    assert next_place(pieces[cut - 1], 3) is None


def test_a_request_that_is_closed_keeps_what_was_finished(bench: Bench) -> None:
    """The row of two tokens had ended when the request was closed; the row of six had not."""
    drafts = bench.drafts(rows_of((1, 2), (2, 6)))
    steps = bench.requests.grow(PROMPT, drafts, RoleUsage())
    with torch.inference_mode():
        feed = next(steps)
        for _ in range(4):
            feed = steps.send(bench.packed.run([feed])[0])
        (lane,) = (lane for lane in bench.lanes._lanes if lane.busy)
        steps.close()
    assert not lane.busy
    assert (lane.token_ids, lane.length) == (PROMPT, len(PROMPT))
    first, second = (tuple(draft.drawn) for draft in drafts)
    assert first[0] != second[0]
    assert len(first) == 2
    assert bench.store.known(PROMPT + first) == len(PROMPT) + 1
    assert bench.store.known(PROMPT + second) == len(PROMPT)
    logits, _ = bench.logits([PROMPT + first])
    bench.assert_plain(logits, [PROMPT + first])


def test_a_failing_pass_frees_the_lane(bench: Bench) -> None:
    for steps in (
        bench.requests.logits([PROMPT], RoleUsage()),
        bench.requests.hidden(PROMPT, 0, RoleUsage()),
        bench.requests.grow(PROMPT, bench.drafts(rows_of((1, 3))), RoleUsage()),
    ):
        next(steps)
        with pytest.raises(RuntimeError, match="lost"):
            steps.throw(RuntimeError("lost"))
        assert not any(lane.busy for lane in bench.lanes._lanes)
        assert bench.store.known(PROMPT) == 0
