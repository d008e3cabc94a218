"""A reward model as a scorer: any sequence-classification model with one output, read at the end of the answer.

The conversation is written by the reward model's own chat template. Where it shares the policy's tokenizer the answer
is the ids that were drawn; elsewhere it is their text. A whole answer is followed by the end of its turn; one that was
cut (partial, out of length, out of context) is scored as it stands, without it: reward models are trained on whole
answers, so that its number says little beside theirs. A delta may have a question of its own that follows instead.

Rows of like length share a pass, padded on the right under an attention mask. In float32 a score depends on what
shares its pass by rounding alone (at most 1e-5); it is not exact in the last bits. The answers of one call are never
put with those of another, so that a repeated call gives the same numbers.

An answer that does not fit the model's context, a conversation that its template refuses and a number that is not
finite are `Unscored`, blame judge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from inferalign.core.errors import InputError, ModelError
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, StopReason, TokenIds, Unscored
from inferalign.engines.base import Engine
from inferalign.engines.chat import ChatFormat
from inferalign.engines.cpu_linear import pack_linears
from inferalign.engines.table import is_sandbox
from inferalign.engines.weights import check_folder, check_loaded, quiet, weights_digest
from inferalign.scorers.reward_delta import apply_delta, find_base, is_delta, read_card

TOKENS_PER_PASS = 8192
"""Tokens of a pass, padding included; one longer answer still goes through, alone."""


class RewardRows:
    """Prompts and answers as the token ids that a reward model reads: the same in training and in scoring."""

    def __init__(self, chat: ChatFormat, policy: ChatFormat | None = None, *, question: str = "") -> None:
        """`chat` is the reward model's; `policy` wrote the answers (None: the same one did).

        `question` follows every answer, whole or cut, in place of the end of its turn: a model that was taught to
        judge by a question reads at its end what it knows of the answer.
        """
        own, other = chat.describe(), (policy or chat).describe()
        self.chat = chat
        self.shares_tokenizer = own["tokenizer_sha256"] == other["tokenizer_sha256"]
        self._shares_template = self.shares_tokenizer and own == other
        self._question = chat.encode(question) if question else ()

    def __call__(self, prompt: Prompt, answer: Completion) -> TokenIds:
        """Raises `InputError` when the chat template refuses the conversation."""
        ended = answer.stop is StopReason.END and not self._question
        if not self.shares_tokenizer:
            return self.chat.answered(prompt.messages, answer.text, ended=ended) + self._question
        before = self.chat.prompt_ids(prompt) if self._shares_template else self.chat.render(prompt.messages)
        return before + answer.token_ids + (self.chat.turn_end_ids if ended else self._question)

    def around(self, prompt: Prompt) -> int | None:
        """Tokens of the row of an empty answer, however it ends; None where answers are read as text.

        Raises `InputError` as calling it does.
        """
        if not self.shares_tokenizer:
            return None
        empty = (Completion(token_ids=(), text="", stop=stop) for stop in (StopReason.END, StopReason.LENGTH))
        return max(len(self(prompt, answer)) for answer in empty)


class RewardModel:
    """Scores answers by the one output of a sequence-classification model. Higher is better."""

    name = "reward"

    def __init__(
        self, model: Any, rows: RewardRows, *, title: str, digest: str, base: str | None = None, kernels: str = "torch"
    ) -> None:
        """`digest` names the weights, `base` those below a delta, `kernels` what multiplies matrices."""
        self.model = model
        self.rows = rows
        self._facts = {"model": title, "weights": digest, "base": base, "kernels": kernels}
        config = model.config.get_text_config()
        self.context_length: int = getattr(config, "max_position_embeddings", None) or 2048
        self._pad: int | None = config.pad_token_id

    def describe(self) -> Mapping[str, object]:
        return {
            "scorer": self.name,
            **self._facts,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
            "answers": "ids" if self.rows.shares_tokenizer else "text",
            "chat": self.rows.chat.describe(),
        }

    def room(self, prompt: Prompt) -> int | None:
        """The most tokens that an answer may have.

        None where it is read as text, which may become more or fewer, and where the template refuses the conversation,
        of which no answer can be judged.
        """
        try:
            taken = self.rows.around(prompt)
        except InputError:
            return None
        return None if taken is None else self.context_length - taken

    async def score(self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Score | Unscored]:
        try:
            rows = [self.rows(prompt, response) for response in responses]
        except InputError as error:
            return [Unscored(f"the reward model cannot read this conversation: {error}", blame="judge")] * len(
                responses
            )
        values = self.values([row for row in rows if len(row) <= self.context_length], usage)
        overflow = Unscored(
            f"the conversation needs more than the reward model's context of {self.context_length} tokens",
            blame="judge",
        )
        found = iter(values)
        return [_verdict(next(found)) if len(row) <= self.context_length else overflow for row in rows]

    def values(self, rows: Sequence[TokenIds], usage: RoleUsage) -> list[float]:
        """The model's output for each row of token ids, in order; not finite where the model's is not."""
        values = [math.nan] * len(rows)
        for batch in self._batches(rows):
            usage.forward_calls += 1
            usage.tokens_fed += sum(len(rows[i]) for i in batch)
            for i, value in zip(batch, self._forward([rows[i] for i in batch]), strict=True):
                values[i] = value
        return values

    def _batches(self, rows: Sequence[TokenIds]) -> Iterator[list[int]]:
        """Places of `rows`, shortest first, as many in a pass as fit. Without a padding token each goes alone."""
        batch: list[int] = []
        for i in sorted(range(len(rows)), key=lambda i: (len(rows[i]), i)):
            if batch and (self._pad is None or (len(batch) + 1) * len(rows[i]) > TOKENS_PER_PASS):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _forward(self, rows: Sequence[TokenIds]) -> list[float]:
        longest = max(map(len, rows))
        # A padding token is only needed where rows differ in length, and then there is one (see `_batches`).
        ids = [[*row, *[self._pad or 0] * (longest - len(row))] for row in rows]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        device = self.model.device
        with torch.inference_mode():
            logits = self.model(
                input_ids=torch.tensor(ids, device=device), attention_mask=torch.tensor(mask, device=device)
            ).logits
        values: list[float] = logits[:, 0].double().tolist()
        return values


def _verdict(value: float) -> Score | Unscored:
    if math.isfinite(value):
        return Score(value)
    return Unscored(f"the reward model's output is {value}", blame="judge")


def load_reward(
    folder: Path,
    *,
    policy: ChatFormat | None = None,
    bases: Sequence[str] = (),
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> RewardModel:
    """Load a reward model: a sequence-classification directory, or a delta on one of `bases`.

    `policy` is the chat format of the model whose answers it will score. Nothing but safetensors is read, and no code
    that comes with a model is run. Raises `ModelError` with what to do, `RunError` for a damaged `reward.json`.
    """
    if not folder.is_dir():
        raise ModelError(f"there is no reward model directory {str(folder)!r}: give --scorer reward:DIR one that is")
    question = ""
    if is_delta(folder):
        card = read_card(folder)
        question = card.question
        name = find_base(folder, card, bases)
        model, tokenizer, info = open_classifier(name, dtype=dtype, new_head=True)
        model.config.get_text_config().pad_token_id = card.pad_token_id
        apply_delta(folder, card, model)
        info = {**info, "missing_keys": set(info["missing_keys"]) - set(card.tensors)}
        base: str | None = card.base
    else:
        name, base = str(folder), None
        check_folder(name)
        model, tokenizer, info = open_classifier(name, dtype=dtype, new_head=False)
    check_loaded(name, model, tokenizer, info)
    model.eval().to(device)
    model.config.use_cache = False  # one pass an answer: keys and values would be kept for nobody
    packed = pack_linears(model)
    return RewardModel(
        model,
        RewardRows(ChatFormat(tokenizer), policy, question=question),
        title=folder.resolve().name,
        digest=weights_digest(str(folder)),
        base=base,
        kernels="onednn" if packed else "torch",
    )


def load_beside(folder: Path, engine: Engine, chat: ChatFormat, shipped: Path) -> RewardModel:
    """A reward model for the answers of `engine`'s model, on its device and in its arithmetic.

    A delta may belong on that model, or on the one that is shipped in the folder `shipped`.
    """
    facts = engine.describe()
    # A policy called `sandbox:NAME` is no directory: what it was trained from is shipped, and a reward belongs on that.
    named = Path(engine.name).is_dir() or not is_sandbox(engine.name)
    bases = [
        *([engine.name] if named else []),
        *([str(shipped)] if (shipped / "config.json").is_file() and Path(engine.name) != shipped else []),
    ]
    return load_reward(
        folder,
        policy=chat,
        bases=bases,
        device=str(facts.get("device", "cpu")),
        dtype=getattr(torch, str(facts.get("dtype", "float32"))),
    )


def open_classifier(name: str, *, dtype: torch.dtype, new_head: bool) -> tuple[Any, Any, dict[str, Any]]:
    """A model directory or hub id as a one-output classifier, its tokenizer, and what transformers found missing.

    `new_head` puts one on a model that generates; it is random, and stands in the missing keys. Without it, anything
    but a classifier with one output is a `ModelError`, as is whatever cannot be loaded.
    """
    try:
        with quiet(), _no_report():
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
            if not new_head:
                _check_outputs(name, config)
            config.num_labels = 1
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            model, info = AutoModelForSequenceClassification.from_pretrained(
                name,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except ModelError:
        raise
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"cannot load {name!r} as a reward model: {reason}. It must be a sequence-classification model that the "
            "installed transformers knows, saved with save_pretrained"
        ) from error
    return model, tokenizer, info


def _check_outputs(name: str, config: Any) -> None:
    """Raises `ModelError` for a directory that holds another kind of model, such as one that generates."""
    kind = next(iter(config.architectures or ()), "a model of no known kind")
    if not kind.endswith("ForSequenceClassification") or config.num_labels != 1:
        raise ModelError(
            f"{name} holds {kind} with {config.num_labels} outputs, and a reward model is a sequence classifier with "
            "one: train one with TRL's RewardTrainer, and name its directory"
        )


@contextmanager
def _no_report() -> Iterator[None]:
    """No table of missing weights on stderr: a new head is one on purpose, and `check_loaded` refuses the rest."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
