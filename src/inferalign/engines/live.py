"""A transformers model that a program has loaded itself, as an engine, for as long as it lives and stays as it is.

Such a model may be trained, given another adapter or freed between two uses. So an engine, with the prefixes that it
has computed, is kept beside a digest of the model's state, and holds its model weakly.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch

from inferalign.core.errors import ModelError
from inferalign.engines.chat import ChatFormat
from inferalign.engines.local import LocalEngine
from inferalign.engines.table import LoadedModel, ModelOptions

PROBE_TOKENS = 16
_locks: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()
_locking = threading.Lock()
_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class LiveEngines:
    """Engines of live models, all with one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._kept: weakref.WeakKeyDictionary[Any, tuple[object, LoadedModel]] = weakref.WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, model: Any, end_ids: tuple[int, ...]) -> LoadedModel:
        """The model, in evaluation mode, as an engine whose answers end at `end_ids` and the tokenizer's own end.

        It is the one of last time if nothing has changed since. After any change it is made anew, and nothing that the
        old one had computed is used. Raises `ModelError` when the tokenizer is another model's.
        """
        state = (state_digest(model), end_ids)
        kept = self._kept.get(model)
        if kept is not None and kept[0] == state:
            return kept[1]
        embedded = model.get_input_embeddings().weight.shape[0]
        if len(self._tokenizer) > embedded:
            raise ModelError(
                f"the tokenizer has {len(self._tokenizer)} tokens and the model embeds {embedded}: it is another "
                "model's; give AutoTokenizer.from_pretrained(NAME) of the same NAME as the model"
            )
        chat = ChatFormat(self._tokenizer, end_ids=end_ids)
        engine = LocalEngine(
            # A value that held its key would never leave the dictionary, nor the weights the memory.
            weakref.proxy(model),
            chat,
            name=model.name_or_path or type(model).__name__,
            digest=state[0],
            cache_bytes=ModelOptions().prefix_cache_mb << 20,
        )
        self._kept[model] = state, LoadedModel(engine, chat)
        return self._kept[model][1]


def state_digest(model: Any) -> str:
    """A hash of every weight's bits, added up tensor by tensor, and of the logits after a fixed text.

    The sums see a change of any weight, the logits what is no weight: an adapter switched off, a hook. A sum loses the
    order within its tensor: weights that only change places are seen by the logits alone. It costs a pass over the
    weights and one forward, where a search takes hundreds.
    """
    digest = hashlib.sha256()
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        total = tensor.detach().view(_WHOLE[tensor.element_size()]).sum(dtype=torch.int64)
        digest.update(f"{name} {tensor.dtype} {tensor.device} {tuple(tensor.shape)} {int(total)}\n".encode())
    vocabulary = model.get_input_embeddings().weight.shape[0]
    probe = torch.tensor([[i * 7919 % vocabulary for i in range(PROBE_TOKENS)]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=probe, use_cache=False).logits
    digest.update(logits.float().cpu().numpy().tobytes())
    return f"live-sha256:{digest.hexdigest()}"


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Dropout off, and each module's mode as it was afterwards (some may be frozen in a model that trains).

    One thread at a time for each model: a search changes how it attends while it is asked.
    """
    with _locking:
        lock = _locks.setdefault(model, threading.Lock())
    with lock, _without_dropout(model):
        yield


@contextmanager
def _without_dropout(model: Any) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
