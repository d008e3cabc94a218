"""What the speed benchmarks run on: a random Llama of 29.4M parameters, and prompts and questions of fixed lengths.

The lengths are those of the published code's measurement (306 tokens of prompt, 1,059 of evaluation template). The
words are made up; one in `CLAUSE` ends a clause, and the logits are scaled, so that trees of this model resemble those
that were measured: what the naive search feeds an iteration is checked against the published code's figures.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from inferalign.core.types import Message, Prompt
from inferalign.scorers.self_eval import Order, Template

VOCABULARY, PROMPT_TOKENS, TEMPLATE_TOKENS, OPTION_TOKENS = 8192, 306, 1059, 35
CLAUSE, SPREAD = 12, 12.0


def build_model(folder: Path, *, spread: float = SPREAD, seed: int = 0) -> None:
    """Save the model and its tokenizer of made-up words."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(spread)  # the initial logits are nearly flat
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def build_tokenizer(size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Made-up words, one token each; id 0 ends an answer."""
    words = ["<end>", "A", "B", "("]
    words += [f"w{i}{',' if i % CLAUSE == 0 else ''}" for i in range(size - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    wrapped.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return wrapped


def prompts(count: int) -> list[Prompt]:
    """Conversations of 306 tokens that share their first 280, as few-shot prompts do."""
    shots = Message(role="system", content=words(100, 280))
    return [
        Prompt(
            id=f"bench-{i}", messages=(shots, Message(role="user", content=words(700 + 61 * i, PROMPT_TOKENS - 280)))
        )
        for i in range(count)
    ]


def template() -> Template:
    return Template(
        name="bench",
        conversation="transcript",
        preamble=words(3000, TEMPLATE_TOKENS) + " ",
        orders=(
            Order(text=f" {words(6000, OPTION_TOKENS - 1)} (", harmless=" A", harmful=" B"),
            Order(text=f" {words(7000, OPTION_TOKENS - 1)} (", harmless=" B", harmful=" A"),
        ),
        sha256="",
    )


def words(start: int, count: int) -> str:
    """`count` different words that end no clause: as many tokens."""
    return " ".join([f"w{i}" for i in range(start, start + 2 * count) if i % CLAUSE][:count])
