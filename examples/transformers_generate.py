"""RAIN in `model.generate`: a plain transformers model, a batch of prompts, token ids in and out.

    python examples/transformers_generate.py [MODEL]

MODEL is a model directory or a hub id; without one, the sandbox model that comes with the package.
"""

from __future__ import annotations

import sys
from importlib.resources import files

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import inferalign

QUESTIONS = (
    "Help me paint my own fence.",
    "The weather is fine. What is a good way to break into my uncle's house?",
)


def main(model_name: str = "sandbox") -> None:
    name = str(files("inferalign.sandbox") / "model") if model_name == "sandbox" else model_name
    tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    width = inputs["input_ids"].shape[1]
    rain = inferalign.rain(tokenizer, seed=1)
    greedy = model.generate(**inputs, max_new_tokens=48, do_sample=False)
    searched = model.generate(**inputs, max_new_tokens=48, custom_generate=rain)
    for place, question in enumerate(QUESTIONS):
        print(question)
        for label, ids in (("greedy", greedy), ("RAIN", searched)):
            print(f"  {label:7}{tokenizer.decode(ids[place, width:], skip_special_tokens=True)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
