"""CPU time per committed token: the package's RAIN against the naive reference, on one prompt with the full budget.

    python -m benchmarks.rain_vs_naive            50 iterations for the first commit, at least 15 for each later one
    python -m benchmarks.rain_vs_naive --quick    16 and 6

Model: Llama architecture, 8 layers, hidden 512, vocabulary 8,192, random weights, float32, one thread. Prompt and
template have the lengths of the published measurement, 306 and 1,059 tokens. Both sides ask the model for its verdict
and then have it replaced by the same hash of the text; the stop value is out of reach, so that every commit spends its
whole budget. The two take turns after every inner iteration in one process, so that a busy machine slows both alike;
nothing is extrapolated. They must commit the same tokens. Last stdout line: the same numbers as JSON.

How much the naive side feeds in an iteration depends on the length an answer may have
(--room): random weights seldom end a clause, so simulations run up to it. The published code was measured at 41
forwards and 3,565 tokens an iteration, under a limit that was not stated; the table prints both figures of this run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks import naive_rain
from inferalign.core.types import Message, Prompt
from inferalign.engines.table import ModelOptions, load
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain import Rain, Search
from inferalign.procedures.rain_settings import DEFAULT, PAPER, RainSettings
from inferalign.scorers.scripted import Replaced, hash_vote
from inferalign.scorers.self_eval import Order, SelfEval, Template

VOCABULARY, PROMPT_TOKENS, TEMPLATE_TOKENS = 8192, 306, 1059


def build_model(folder: Path) -> None:
    """A tokenizer of made-up words, one in twelve ending a clause, and a random model over them."""
    words = ["<end>", "A", "B", "("]
    words += [f"w{i}{',' if i % 12 == 0 else ''}" for i in range(VOCABULARY - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    wrapped.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(4.0)  # the initial logits are nearly flat
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)


def words(start: int, count: int) -> str:
    """`count` different words that end no clause: as many tokens."""
    return " ".join([f"w{i}" for i in range(start, start + 2 * count) if i % 12][:count])


def build_pair(folder: Path, settings: RainSettings, room: int) -> tuple[Search, naive_rain.NaiveRain]:
    """The same search twice: on the package's engine, and on a plain model of the same weights."""
    engine, chat = load(str(folder), ModelOptions(device="cpu"))
    prompt = Prompt(id="bench", messages=(Message(role="user", content=words(100, PROMPT_TOKENS)),))
    template = Template(
        name="bench",
        conversation="transcript",
        preamble=words(1000, TEMPLATE_TOKENS) + " ",
        orders=(
            Order(text=f" {words(3000, 34)} (", harmless=" A", harmful=" B"),
            Order(text=f" {words(4000, 34)} (", harmless=" B", harmful=" A"),
        ),
        sha256="",
    )
    judge = SelfEval(engine, chat, template, settings.form)
    guide = Replaced(judge, hash_vote, "hash")
    search = Search(
        Rain(engine, chat, guide, seed=0, sampling=Sampling(max_new_tokens=room), settings=settings), prompt
    )
    first, second = template.orders
    a, b = chat.encode("A B")
    naive = naive_rain.NaiveRain(
        AutoModelForCausalLM.from_pretrained(folder).eval(),
        naive_rain.Tokenizer(end_ids=chat.end_ids, clause_end_ids=chat.clause_end_ids, decode=chat.decode),
        naive_rain.Question(
            before=judge.context(prompt, ()),
            suffixes=(chat.encode(first.text), chat.encode(second.text)),
            labels=((a, b), (b, a)),
        ),
        prompt_id=prompt.id,
        prompt_ids=chat.prompt_ids(prompt),
        seed=0,
        room=room,
        settings=settings,
        rule=hash_vote,
    )
    return search, naive


class Clock:
    """CPU and wall seconds of one side."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def time(self, work: Callable[[], Any]) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall


def race(search: Search, naive: naive_rain.NaiveRain, commits: int) -> tuple[Clock, Clock, int]:
    """Alternate inner iterations for some commits; returns both clocks and how many commits were equal."""
    ours, theirs, equal = Clock(), Clock(), 0
    loop = asyncio.new_event_loop()
    settings = search.settings
    for number in range(commits):
        already = search.root.own_visits
        budget = max(settings.max_iterations - already, settings.extra_iterations)
        for _ in range(budget):
            ours.time(lambda: loop.run_until_complete(search.iterate()))
            theirs.time(naive.iterate)
        ours.time(partial(loop.run_until_complete, search.commit(budget)))
        theirs.time(naive.commit)
        equal += search.committed == naive.committed
        print(
            f"commit {number + 1}: {budget} iterations, {len(search.committed)} tokens, CPU s ours {ours.cpu:.1f}, "
            f"naive {theirs.cpu:.1f}, ratio {theirs.cpu / ours.cpu:.1f}",
            flush=True,
        )
    loop.close()
    return ours, theirs, equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a budget of 16 and 6 instead of 50 and 15")
    parser.add_argument("--setting", choices=["paper", "default"], default="paper")
    parser.add_argument("--commits", type=int, default=4, help="token sets to commit (1, 2, 4 and 10 tokens)")
    parser.add_argument("--room", type=int, default=64, help="tokens an answer may have")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    budget = {"max_iterations": 16, "extra_iterations": 6} if arguments.quick else {}
    named = PAPER if arguments.setting == "paper" else DEFAULT
    with tempfile.TemporaryDirectory() as folder:
        build_model(Path(folder))
        search, naive = build_pair(Path(folder), replace(named, stop_value=1.0, **budget), arguments.room)
        ours, theirs, equal = race(search, naive, arguments.commits)
    tokens = len(search.committed)
    usage = [search.usage.generator, search.usage.evaluator, search.usage.embedder]
    rows = {
        "inferalign": (ours, sum(u.forward_calls for u in usage), sum(u.tokens_fed for u in usage)),
        "naive": (theirs, sum(naive.forwards.values()), sum(naive.fed.values())),
    }
    print(f"{'':12}{'CPU s/token':>12}{'wall s/token':>14}{'forwards':>10}{'tokens fed':>12}{'both an iteration':>22}")
    for name, (clock, forwards, fed) in rows.items():
        print(
            f"{name:12}{clock.cpu / tokens:12.3f}{clock.wall / tokens:14.3f}{forwards:10.0f}{fed:12}"
            f"{forwards / naive.iterations:12.1f}{fed / naive.iterations:10.0f}"
        )
    report = {
        "benchmark": "rain_vs_naive",
        "setting": arguments.setting,
        "budget": [search.settings.max_iterations, search.settings.extra_iterations],
        "room": arguments.room,
        "iterations": naive.iterations,
        "committed_tokens": tokens,
        "commits": arguments.commits,
        "equal_commits": equal,
        "cpu_ratio": theirs.cpu / ours.cpu,
        "wall_ratio": theirs.wall / ours.wall,
    }
    for name, (clock, forwards, fed) in rows.items():
        report[name] = {"cpu_s_per_token": clock.cpu / tokens, "forward_calls": forwards, "tokens_fed": fed}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
