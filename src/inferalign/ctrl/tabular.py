"""A policy small enough to enumerate, as a transformers model: what a trainer's gradient is checked against.

Its parameters are one table of logits [V, V]: row c holds the logits of the next token after the token c. A response
has at most two tokens, and ends early with the token 0, the end of text. The prompt is that token too, since nothing
ever follows it inside a response: its row is the law of the first token. With V = 8 there are 57 responses, and every
expectation over them is a sum. Responses that do not end with token 0 are truncated ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from inferalign.core.types import TokenIds

SYMBOLS = 8
END = 0
"""The token that ends a response, and the whole of the prompt."""
LENGTH = 2


class TableConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers is untyped here
    """The configuration of a `TablePolicy`: how many symbols there are."""

    model_type = "inferalign-table"
    vocab_size: int = SYMBOLS
    max_position_embeddings: int = LENGTH + 1
    num_hidden_layers: int = 0
    tie_word_embeddings: bool = False

    @property
    def auto_map(self) -> dict[str, str]:
        """No code of its own to load; TRL asks this of models that are not part of transformers."""
        return {}


class _LastToken(PreTrainedModel):  # type: ignore[misc]
    """Hidden states [B, T, V]: which token stands there, as 0s and a 1. It has no parameters."""

    config_class = TableConfig

    def __init__(self, config: TableConfig) -> None:
        super().__init__(config)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> BaseModelOutput:
        states = nn.functional.one_hot(input_ids, self.config.vocab_size).to(torch.get_default_dtype())
        return BaseModelOutput(last_hidden_state=states)


class TablePolicy(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Next-token logits read from a table by the last token alone."""

    config_class = TableConfig
    base_model_prefix = "model"
    _no_split_modules: tuple[str, ...] = ()

    def __init__(self, config: TableConfig) -> None:
        super().__init__(config)
        self.model = _LastToken(config)
        self.lm_head = nn.Linear(config.vocab_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    @property
    def table(self) -> Tensor:
        """Logits [V, V]: row c is the law of the token after c. A view of the weights."""
        return self.lm_head.weight.T

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> CausalLMOutput:
        return CausalLMOutput(logits=self.lm_head(self.model(input_ids).last_hidden_state))

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """The last token decides, so nothing else is fed and nothing is kept. (The name `kwargs` is read.)"""
        return {"input_ids": input_ids[:, -1:]}


AutoConfig.register(TableConfig.model_type, TableConfig, exist_ok=True)
AutoModelForCausalLM.register(TableConfig, TablePolicy, exist_ok=True)


def responses(symbols: int = SYMBOLS) -> list[TokenIds]:
    """Every response: the end token alone, and each other token followed by any."""
    pairs = [(first, second) for first in range(symbols) if first != END for second in range(symbols)]
    return [(END,), *pairs]


def log_probabilities(table: Tensor) -> Tensor:
    """log pi of `responses(V)`, from logits [V, V]; shape [1 + (V - 1) V]."""
    laws = table.log_softmax(dim=-1)
    others = [token for token in range(len(table)) if token != END]
    pairs = laws[END, others][:, None] + laws[others]
    return torch.cat([laws[END, END][None], pairs.flatten()])


def write_table(folder: Path, table: Tensor) -> Path:
    """Save a `TablePolicy` with these logits, with a tokenizer whose texts are the token numbers."""
    config = TableConfig(vocab_size=len(table), bos_token_id=END, eos_token_id=END, pad_token_id=END)
    policy = TablePolicy(config)
    with torch.no_grad():
        policy.table.copy_(table)
    policy.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({str(token): token for token in range(len(table))}, unk_token=str(END)))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    end = str(END)
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token=end, pad_token=end).save_pretrained(folder)
    return folder
