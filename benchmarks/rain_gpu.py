"""RAIN on one GPU with a random model of the shape of an 8B Llama in bfloat16: 1, 8 and 32 prompts in flight.

    python -m benchmarks.rain_gpu                                              without a GPU it says what it would run
    python -m benchmarks.rain_gpu --device cpu --layers 2 --hidden 256 --vocabulary 8192 --prompts 1 2 --tokens 3

Prompts, template and settings are those of benchmarks/rain_speed.py (306 and 1,059 tokens, budget 16/6, votes replaced
by a hash, no early stop). Against it stands vanilla decoding: `model.generate` with a key-value cache, all prompts in
one batch, as many tokens, its prefill counted as ours is. Both take turns; given are medians over the rounds.

The floor is what memory bandwidth allows: for every pass the weights once (without the embedding table, of which few
rows are read) and the keys and values that it attends to, over `--bandwidth`. Time is the wall's on a GPU, after it has
come to rest, and the processor's on a CPU. Last stdout line: one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from benchmarks import speed_model
from benchmarks.mains import run_main
from inferalign.engines.chat import ChatFormat
from inferalign.engines.local import LocalEngine
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain import Rain
from inferalign.procedures.rain_search import Search
from inferalign.procedures.rain_settings import PAPER
from inferalign.scorers.scripted import Replaced, hash_vote
from inferalign.scorers.self_eval import SelfEval

ROOM_OVER = 7
"""Tokens that an answer may have beyond those that are waited for: the last set may be ten long."""


@dataclass(frozen=True)
class Line:
    """One row of the table: medians over the rounds."""

    prompts: int
    tokens_per_s: float
    s_per_committed_token: float
    """What one of the prompts waits for a token, on average."""
    share_of_floor: float
    """Seconds that the reads would take at full bandwidth, over the seconds taken."""
    passes_per_committed_token: float
    over_vanilla: float
    vanilla_tokens_per_s: float
    peak_gb: float | None


def build(args: argparse.Namespace) -> tuple[LlamaForCausalLM, ChatFormat]:
    heads = max(1, args.hidden // 128)
    config = LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.hidden,
        intermediate_size=args.hidden * 7 // 2,
        num_hidden_layers=args.layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4),
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device(args.device):
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = LlamaForCausalLM(config).eval()
        finally:
            torch.set_default_dtype(default)
    with torch.no_grad():
        # As wide apart as the logits of the model of benchmarks/speed_model.py are.
        model.lm_head.weight.mul_(speed_model.SPREAD * math.sqrt(512 / args.hidden))
    return model, ChatFormat(speed_model.build_tokenizer(args.vocabulary), end_ids=(0,))


class Reads:
    """Counts passes and the bytes that each must read."""

    def __init__(self, engine: LocalEngine, model: Any) -> None:
        embedding = model.get_input_embeddings().weight
        self._weights = sum(p.nbytes for p in model.parameters() if p is not embedding)
        layers, heads, dim = engine.model.shape
        self._token = layers * 2 * heads * dim * embedding.element_size()
        self._run = engine.model.run
        self.bytes = self.passes = 0
        engine.model.run = self._counted  # type: ignore[method-assign]

    def _counted(self, feeds: Any) -> Any:
        fed = self._run(feeds)
        ran = [feed for feed in feeds if feed.token_ids]
        if ran:
            self.passes += 1
            trunks = {id(feed.lane.trunk): feed.lane.offset for feed in ran}
            self.bytes += self._weights + self._token * (sum(trunks.values()) + sum(feed.lane.length for feed in ran))
        return fed


def seconds(device: str, work: Callable[[], Any]) -> tuple[float, Any]:
    """Of the wall once a GPU is at rest, of the processor on a CPU."""
    if device == "cpu":
        began = time.process_time()
        done = work()
        return time.process_time() - began, done
    torch.cuda.synchronize()
    began = time.perf_counter()
    done = work()
    torch.cuda.synchronize()
    return time.perf_counter() - began, done


def search(model: Any, chat: ChatFormat, count: int, args: argparse.Namespace) -> tuple[float, int, Reads]:
    """All prompts in flight on a fresh engine: seconds, committed tokens, and what was read."""
    engine = LocalEngine(model, chat, name="random", digest="", cache_bytes=args.prefix_cache_mb << 20)
    settings = replace(PAPER, stop_value=1.0, max_iterations=16, extra_iterations=6)
    guide = Replaced(SelfEval(engine, chat, speed_model.template(), settings.form), hash_vote, "hash")
    sampling = Sampling(max_new_tokens=args.tokens + ROOM_OVER)
    rain = Rain(engine, chat, guide, seed=0, sampling=sampling, settings=settings)
    reads = Reads(engine, model)

    async def one(searched: Search) -> int:
        async for _ in searched.commits():
            if len(searched.committed) >= args.tokens:
                break
        return len(searched.committed)

    async def all_of() -> int:
        return sum(await asyncio.gather(*(one(Search(rain, prompt)) for prompt in speed_model.prompts(count))))

    took, committed = seconds(args.device, lambda: asyncio.run(all_of()))
    return took, committed, reads


def vanilla(model: Any, chat: ChatFormat, count: int, args: argparse.Namespace) -> float:
    """Seconds of one batched `generate` of as many tokens a prompt."""
    ids = torch.tensor([chat.prompt_ids(prompt) for prompt in speed_model.prompts(count)], device=args.device)
    settings = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=args.tokens, min_new_tokens=args.tokens)
    settings.pad_token_id = settings.eos_token_id = 0
    took, rows = seconds(
        args.device,
        lambda: model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings),
    )
    assert rows.shape[1] == ids.shape[1] + args.tokens, f"generate gave {tuple(rows.shape)}"
    return float(took)


def measure(model: Any, chat: ChatFormat, count: int, args: argparse.Namespace) -> Line:
    rounds = []
    if args.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(args.rounds):
        plain = vanilla(model, chat, count, args)
        took, committed, reads = search(model, chat, count, args)
        floor = reads.bytes / (args.bandwidth * 1e9)
        plain_per_token = plain / (count * args.tokens)
        rounds.append(
            (
                committed / took,
                count * took / committed,
                floor / took,
                reads.passes * count / committed,
                took / committed / plain_per_token,
                1 / plain_per_token,
            )
        )
    medians = [statistics.median(values) for values in zip(*rounds, strict=True)]
    peak = None if args.device == "cpu" else torch.cuda.max_memory_allocated() / 1e9
    return Line(count, *medians, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096, help="a multiple of 128")
    parser.add_argument("--vocabulary", type=int, default=128_256, help="at least 8192: the prompts' words")
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=27, help="tokens that each search commits, at least")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--bandwidth", type=float, default=4800.0, help="GB/s of the memory; 4,800 is an H200's")
    parser.add_argument("--prefix-cache-mb", type=int, default=16_384)
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts: dict[str, Any] = {"benchmark": "rain_gpu", **vars(args)}
    if args.device == "cuda" and not torch.cuda.is_available():
        print(
            f"PyTorch sees no GPU here. With one, this would build a Llama of {args.layers} layers and hidden size "
            f"{args.hidden} in bfloat16, search {', '.join(map(str, args.prompts))} prompts at once for {args.tokens} "
            f"tokens each, {args.rounds} times in turns with `generate`, and print the table."
        )
        print(json.dumps(facts | {"ran": False}))
        return
    model, chat = build(args)
    facts["parameters"] = sum(p.numel() for p in model.parameters())
    facts["machine"] = torch.cuda.get_device_name() if args.device == "cuda" else "CPU, one thread"
    warm = argparse.Namespace(**vars(args) | {"tokens": 1})
    vanilla(model, chat, 1, warm)
    search(model, chat, 1, warm)
    print(f"{facts['machine']}, {facts['parameters'] / 1e9:.2f}B parameters, bfloat16")
    print(f"{'prompts':>8}{'tokens/s':>10}{'s/token':>10}{'of floor':>10}{'passes/token':>14}{'x vanilla':>11}")
    lines = []
    for count in args.prompts:
        line = measure(model, chat, count, args)
        lines.append(asdict(line))
        print(
            f"{count:8}{line.tokens_per_s:10.2f}{line.s_per_committed_token:10.3f}{line.share_of_floor:10.1%}"
            f"{line.passes_per_committed_token:14.1f}{line.over_vanilla:11.1f}",
            flush=True,
        )
    print(json.dumps(facts | {"ran": True, "lines": lines}))


if __name__ == "__main__":
    run_main(main)
