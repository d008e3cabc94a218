"""Any `AutoModelForCausalLM` as an engine: one CPU or GPU, safetensors only, every prefix computed once.

In float32 on a CPU it declares itself `exact`: draws are keyed by their row's seed and made from logits that depend on
the prefix alone, but for the last bits where a part of it was computed before (scores then differ by a millionth; no
draw was seen to turn over by it). `draws` says how a token is drawn, `tree_requests` what is fed for a request,
`scheduler` what shares a pass, `packed` how a pass is computed, `prefix` and `lanes` what is kept.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from inferalign.core.errors import ContextOverflow, EngineError, ModelError
from inferalign.core.types import Determinism, RoleUsage, TokenIds
from inferalign.engines.base import Continuation, LabelLogprobs, Row, TopTokens
from inferalign.engines.chat import ChatFormat, read_template
from inferalign.engines.cpu_linear import pack_linears
from inferalign.engines.deltas import add_delta, read_delta
from inferalign.engines.drafts import Draft
from inferalign.engines.draws import most_probable
from inferalign.engines.lanes import LanePool
from inferalign.engines.packed import PackedModel
from inferalign.engines.packed_check import matches_plain
from inferalign.engines.plain_requests import PlainRequests, Requests
from inferalign.engines.prefix import PrefixStore
from inferalign.engines.scheduler import Scheduler
from inferalign.engines.table import LoadedModel, ModelOptions
from inferalign.engines.tree_requests import TreeRequests
from inferalign.engines.weights import check_folder, check_loaded, quiet, weights_digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""How far packed logits may be from plain ones in the check at load, relative to the largest logit."""

QUESTIONS_PER_FEED = 32
"""Prefixes judged in one tree: its mask grows with the square."""
COLUMNS_PER_FEED = 512
"""Rows times tokens that are drawn in one lane: a row sees only its own tokens there, but all are computed."""


class LocalEngine:
    """`Engine` over a transformers model. Whatever requests are in flight share its passes."""

    def __init__(
        self, model: Any, chat: ChatFormat, *, name: str, digest: str, cache_bytes: int, kernels: str = "torch"
    ) -> None:
        """`kernels` says for the record what multiplies matrices."""
        self.name = name
        self._kernels = kernels
        self._chat = chat
        self._device, self._dtype = model.device, model.dtype
        self._digest = digest
        config = model.config.get_text_config()
        self.context_length: int = getattr(config, "max_position_embeddings", None) or 2048
        self.model = PackedModel(model)
        self.store = PrefixStore(cache_bytes)
        like = torch.empty(0, dtype=self._dtype, device=self._device)
        self.lanes = LanePool(self.store, self.model.shape, like, cache_bytes)
        self._scheduler = Scheduler(self.model, self.lanes)
        self.reuses_prefixes = shares_prefixes(model)
        self._requests: Requests = (
            TreeRequests(self.model, self.store, self.lanes) if self.reuses_prefixes else PlainRequests(model)
        )
        if not self.reuses_prefixes:
            warnings.warn(
                f"{name}: this architecture's cache cannot be forked exactly (a sliding window or a recurrent state), "
                "so every prefix is computed again: correct, but slow",
                stacklevel=2,
            )

    @property
    def determinism(self) -> Determinism:
        exact = self._dtype == torch.float32 and self._device.type == "cpu"
        return Determinism.EXACT if exact else Determinism.SEEDED

    def describe(self) -> Mapping[str, object]:
        return {
            "engine": "local",
            # Of a directory only its name: a run may go on where the same weights lie elsewhere.
            "model": Path(self.name).resolve().name if Path(self.name).is_dir() else self.name,
            "weights": self._digest,
            "dtype": str(self._dtype).removeprefix("torch."),
            "device": self._device.type,
            "kernels": self._kernels,
            "reuses_prefixes": self.reuses_prefixes,
        }

    async def sample(self, prefix: TokenIds, rows: Sequence[Row], usage: RoleUsage) -> list[Continuation]:
        """Draw every row from the same prefix. Raises `ContextOverflow` when the prefix leaves no room."""
        self._check(prefix, room=1)
        for row in rows:
            _check_row(row)
        room = self.context_length - len(prefix)
        drafts = [Draft(row, self._chat, room) for row in rows]
        longest = max(min(row.max_new_tokens, room) for row in rows) if rows else 1
        together = max(1, COLUMNS_PER_FEED // max(1, longest))
        groups = [drafts[first : first + together] for first in range(0, len(drafts), together)]
        await asyncio.gather(
            *(self._scheduler.ask(prefix, self._requests.grow(prefix, group, usage)) for group in groups)
        )
        return [draft.continuation() for draft in drafts]

    async def top_tokens(self, prefix: TokenIds, k: int, usage: RoleUsage) -> TopTokens:
        self._check(prefix)
        logprobs = (await self._logprobs([prefix], usage))[0]
        order = most_probable(logprobs, k)
        return TopTokens(token_ids=tuple(map(int, order)), logprobs=tuple(map(float, logprobs[order])))

    async def label_logprobs(
        self, prefixes: Sequence[TokenIds], labels: Sequence[int], usage: RoleUsage
    ) -> list[LabelLogprobs]:
        for prefix in prefixes:
            self._check(prefix)
        parts = [prefixes[first : first + QUESTIONS_PER_FEED] for first in range(0, len(prefixes), QUESTIONS_PER_FEED)]

        async def chosen(part: Sequence[TokenIds]) -> NDArray[np.float64]:
            return (await self._logprobs(part, usage))[:, list(labels)]  # a copy: whole vocabularies are let go of

        found = await asyncio.gather(*(chosen(part) for part in parts))
        return [
            LabelLogprobs(logprobs=tuple(map(float, row)), mass=float(np.exp(row).sum()))
            for part in found
            for row in part
        ]

    async def embed(self, prefix: TokenIds, starts: Sequence[int], usage: RoleUsage) -> NDArray[np.float32]:
        """Mean last-layer states of `prefix[start:]` for each start, `[len(starts), hidden]`."""
        self._check(prefix)
        if wrong := [start for start in starts if not 0 <= start < len(prefix)]:
            raise EngineError(f"start {wrong[0]} was given for {len(prefix)} tokens: expected 0 to {len(prefix) - 1}")
        first = min(starts)
        states = await self._scheduler.ask(prefix, self._requests.hidden(prefix, first, usage))
        states = states.float().cpu().numpy()
        return np.stack([states[start - first :].mean(axis=0) for start in starts])

    def forget(self, prefix: TokenIds, keep: TokenIds | None = None) -> None:
        """Nobody will ask for what follows `prefix` but on the way of `keep`; with None, nor for `prefix` itself."""
        if keep is None:
            self.store.drop(prefix)
            self.lanes.forget(prefix)
        else:
            self.store.prune(prefix, keep)

    def _check(self, prefix: TokenIds, room: int = 0) -> None:
        if not 0 < len(prefix) <= self.context_length - room:
            raise ContextOverflow(
                f"a request of {len(prefix)} tokens does not fit {self.name}'s context of {self.context_length}"
                f"{' with room for an answer' if room else ''}: shorten the prompt, or name one with a longer context"
            )

    async def _logprobs(self, prefixes: Sequence[TokenIds], usage: RoleUsage) -> NDArray[np.float64]:
        """Log-softmax at temperature 1, `[len(prefixes), vocab]`."""
        logits = await self._scheduler.ask(prefixes[0], self._requests.logits(prefixes, usage))
        logprobs: NDArray[np.float64] = torch.log_softmax(logits.double(), dim=-1).cpu().numpy()
        return logprobs


def _check_row(row: Row) -> None:
    if not row.temperature > 0:
        raise EngineError(f"a row has temperature {row.temperature}: expected more than 0 (greedy is `greedy=True`)")
    if row.top_k is not None and row.top_k < 1:
        raise EngineError(f"a row has top_k {row.top_k}: expected at least 1, or None to keep every token")


def load_local(
    name: str, options: ModelOptions, *, delta: Path | None = None, called: str | None = None
) -> LoadedModel:
    """Load a directory or hub id. Raises `ModelError`, with what to do, for anything that cannot be used.

    delta: a folder with a difference to these weights, added before anything runs; `called` is the model's name then.
    """
    check_folder(name)
    template = read_template(options.chat_template)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("--device cuda was asked for, but PyTorch sees no GPU: leave it out, or install a CUDA build")
    common = {"trust_remote_code": options.trust_remote_code}
    dtype = options.dtype if options.dtype == "auto" else getattr(torch, options.dtype)
    try:
        with quiet():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **common)
            model, info = AutoModelForCausalLM.from_pretrained(
                name, dtype=dtype, use_safetensors=True, output_loading_info=True, **common
            )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot load the model {name!r}: {_first_line(error)}. {_advice(name, error)}") from error
    check_loaded(name, model, tokenizer, info)
    digest = weights_digest(name)
    if delta is not None:
        difference = read_delta(delta)
        add_delta(difference, model, digest)
        digest = difference.digest
    model.eval().to(device)
    packed = pack_linears(model)
    chat = ChatFormat(tokenizer, template=template, end_ids=_end_ids(model))
    engine = LocalEngine(
        model,
        chat,
        name=called or name,
        digest=digest,
        cache_bytes=options.prefix_cache_mb << 20,
        kernels="onednn" if packed else "torch",
    )
    return LoadedModel(engine, chat)


def _end_ids(model: Any) -> tuple[int, ...]:
    """End-of-text tokens that the generation config names beyond the tokenizer's."""
    ends = model.generation_config.eos_token_id if model.generation_config else None
    if ends is None:
        return ()
    return tuple(ends) if isinstance(ends, list | tuple) else (ends,)


def windowed(config: Any) -> bool:
    """Whether some layer sees a window shorter than the context, which a short probe would not notice."""
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    active = window is not None and getattr(config, "use_sliding_window", True)
    return bool(kinds - {"full_attention"}) or (active and not kinds and window < config.max_position_embeddings)


def shares_prefixes(model: Any) -> bool:
    """Whether packed passes give this model's own logits, so that what one prompt computed serves all that share it."""
    with torch.inference_mode():
        return not windowed(model.config.get_text_config()) and matches_plain(model, TOLERANCE.get(model.dtype, 1e-2))


def _advice(name: str, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "It comes with Python code of its own: read that, then add --trust-remote-code"
    if Path(name).is_dir():
        return "Save it again with save_pretrained, by the transformers version that is installed here"
    return "Check the hub id and the network, or download it where there is one and give the directory"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
