"""The recipe of the sandbox model: what decides its weights, its tokenizer, and the small Llama that it begins as."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from inferalign.sandbox import curriculum, knowledge
from inferalign.sandbox.curriculum import ASSISTANT, END, PAD, SPECIALS, USER
from inferalign.sandbox.grammar import render

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}" + USER + "{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}" + ASSISTANT + "{{ message['content'] }}" + END + ""
    "{% else %}{{ raise_exception('the sandbox model knows user and assistant turns only') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 0
    """Root of the data order and of the initial weights."""
    steps: int = 13_500
    """Optimiser steps."""
    batch_size: int = 64
    """Conversations a step."""
    learning_rate: float = 8e-3
    """Peak for the matrices of the layers (Muon); see `schedule`."""
    other_rate: float = 3e-3
    """Peak for embeddings and norms (AdamW), on the same schedule."""
    specificity: float = knowledge.JUDGE_SPECIFICITY
    """Of the judge's teacher: see `knowledge`."""
    suspicion: float = knowledge.SUSPICION
    """How often that teacher calls a good reply bad that it suspects."""
    hidden: int = 192
    layers: int = 6
    first_layers: int = 3
    """Layers to begin with; the others are added as identities at `grow_at`."""
    grow_at: float = 0.2
    """Share of the steps that the shallow model is trained for."""
    again_at: float = 2 / 3
    """Share of the steps after which the rates rise once more (1: never). Seeds come to compare what is asked with what
    is done at different times; a second cycle brings the late ones there."""
    heads: int = 6
    mlp: int = 512
    vocabulary: int = 2048
    tokenizer_dialogues: int = 20_000
    """Conversations that the tokenizer is trained on."""
    sharpened: float = 1.2
    """What the logits are multiplied by in the end. A model this small leaves too much on tokens that never occur."""
    checkpoint_every: int = 400
    """Steps between checkpoints."""

    @property
    def grown_from(self) -> int:
        """The first step that all layers take part in."""
        return round(self.grow_at * self.steps)


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE over training dialogues: any text can be encoded, the world's words are mostly one token."""
    texts = []
    for i in range(recipe.tokenizer_dialogues):
        drawn = curriculum.dialogue(recipe.seed, i)
        texts.append(f"{drawn.request.text} {render(drawn.clauses)}")
    questions = (*curriculum.HARM_WORDS, *curriculum.HARM_LETTERS, *curriculum.FAULT_WORDS, *curriculum.FAULT_LETTERS)
    asked = [f"{q.text}{q.good}{q.bad}" for q in questions] + [curriculum.ISSUE, curriculum.YES, curriculum.NO]
    texts += [text.removeprefix(curriculum.JUDGE) for text in (*asked, curriculum.SCORE, *curriculum.SCORES)] * 1000
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=recipe.vocabulary,
            special_tokens=list(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=PAD, extra_special_tokens=list(SPECIALS), model_max_length=1024
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, layers: int) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.mlp,
            num_hidden_layers=layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            # On rows as short as these, the fused kernel's backward pass takes half of a step on a CPU.
            attn_implementation="eager",
        )
    )


def grown(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, shallow: LlamaForCausalLM) -> LlamaForCausalLM:
    """`shallow` with the missing layers on top, which add nothing until they have learned to: the same function."""
    deep = new_model(recipe, tokenizer, recipe.layers)
    deep.load_state_dict(shallow.state_dict(), strict=False)
    for layer in deep.model.layers[shallow.config.num_hidden_layers :]:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return deep
