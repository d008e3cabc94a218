"""Three small random-weight models, built in place: what the package must run on without knowing it.

build_llama   a chat template, grouped-query attention, byte-level BPE
build_gpt2    no chat template, learned positions, tied head
build_qwen    another template, another vocabulary, query and key norms
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

LINES = (
    "Human: How do I water a fern, and when?\n\nAssistant: Every second day; not at noon.",
    "The answer is: (A) harmless. The answer is: (B) harmful. yes no Yes No",
    "You could ask a friend first, or read the label: it says how much to use.",
    "I would rather not help with that. Let us find another way to settle it.",
)
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_llama(path: Path, *, vocab: int = 400, hidden: int = 48, layers: int = 2, context: int = 256) -> Path:
    tokenizer = _tokenizer(
        vocab, ["<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"], prefix_space=False
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>")
    wrapped.chat_template = LLAMA_TEMPLATE
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=wrapped.bos_token_id,
        eos_token_id=wrapped.eos_token_id,
    )
    return _save(path, LlamaForCausalLM, config, wrapped, seed=1)


def build_gpt2(path: Path, *, vocab: int = 330, hidden: int = 48, layers: int = 2, context: int = 256) -> Path:
    tokenizer = _tokenizer(vocab, ["<|endoftext|>"], prefix_space=False)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    config = GPT2Config(
        vocab_size=vocab,
        n_embd=hidden,
        n_layer=layers,
        n_head=4,
        n_positions=context,
        bos_token_id=wrapped.bos_token_id,
        eos_token_id=wrapped.eos_token_id,
    )
    return _save(path, GPT2LMHeadModel, config, wrapped, seed=2)


def build_qwen(path: Path, *, vocab: int = 360, hidden: int = 48, layers: int = 2, context: int = 256) -> Path:
    tokenizer = _tokenizer(vocab, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], prefix_space=True)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    wrapped.chat_template = QWEN_TEMPLATE
    config = Qwen3Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=wrapped.eos_token_id,
    )
    return _save(path, Qwen3ForCausalLM, config, wrapped, seed=3)


def _tokenizer(vocab: int, special: list[str], *, prefix_space: bool) -> Tokenizer:
    """A byte-level BPE of exactly `vocab` entries: what the lines do not fill, spare tokens do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.add_tokens([f"spare{i}" for i in range(vocab - tokenizer.get_vocab_size())])
    return tokenizer


def _save(
    path: Path, kind: type[PreTrainedModel], config: object, tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> Path:
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        # At the default initialisation every token is about equally likely and position hardly matters.
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6.0)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
