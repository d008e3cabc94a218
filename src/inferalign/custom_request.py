"""What one call of `model.generate` asks of `custom_generate`: read where RAIN can honour it, refused where not.

`generate` merges the call's arguments into the model's own generation config before a callable sees them. What differs
from that config and asks for something was set by the call. The model's own sampling defaults (a temperature, a
repetition penalty) play no role: a search draws by its own settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inferalign.core.errors import InputError
from inferalign.core.types import TokenIds

if TYPE_CHECKING:
    import torch

READ = {"attention_mask", "position_ids", "past_key_values", "cache_params", "use_cache", "logits_to_keep"}
"""Arguments of the model's forward that `generate` prepares by itself; all others would go unheard."""

UNHEARD: dict[str, tuple[object, str]] = {
    "do_sample": (False, ""),
    "temperature": (1.0, "TemperatureLogitsWarper"),
    "top_k": (50, "TopKLogitsWarper"),
    "top_p": (1.0, "TopPLogitsWarper"),
    "min_p": (0.0, "MinPLogitsWarper"),
    "top_h": (None, "TopHLogitsWarper"),
    "typical_p": (1.0, "TypicalLogitsWarper"),
    "epsilon_cutoff": (0.0, "EpsilonLogitsWarper"),
    "eta_cutoff": (0.0, "EtaLogitsWarper"),
    "repetition_penalty": (1.0, "RepetitionPenaltyLogitsProcessor"),
    "encoder_repetition_penalty": (1.0, "EncoderRepetitionPenaltyLogitsProcessor"),
    "no_repeat_ngram_size": (0, "NoRepeatNGramLogitsProcessor"),
    "encoder_no_repeat_ngram_size": (0, "EncoderNoRepeatNGramLogitsProcessor"),
    "bad_words_ids": (None, "NoBadWordsLogitsProcessor"),
    "suppress_tokens": (None, "SuppressTokensLogitsProcessor"),
    "begin_suppress_tokens": (None, "SuppressTokensAtBeginLogitsProcessor"),
    "forced_bos_token_id": (None, "ForcedBOSTokenLogitsProcessor"),
    "forced_eos_token_id": (None, "ForcedEOSTokenLogitsProcessor"),
    "exponential_decay_length_penalty": (None, "ExponentialDecayLengthPenalty"),
    "remove_invalid_values": (False, "InfNanRemoveLogitsProcessor"),
    "renormalize_logits": (False, "LogitNormalization"),
    "sequence_bias": (None, "SequenceBiasLogitsProcessor"),
    "guidance_scale": (1.0, "UnbatchedClassifierFreeGuidanceLogitsProcessor"),
    "watermarking_config": (None, "WatermarkLogitsProcessor"),
    "min_length": (0, "MinLengthLogitsProcessor"),
    "min_new_tokens": (None, "MinNewTokensLengthLogitsProcessor"),
    "max_time": (None, ""),
    "stop_strings": (None, ""),
    "prompt_lookup_num_tokens": (None, ""),
    "penalty_alpha": (None, ""),
    "dola_layers": (None, ""),
    "token_healing": (False, ""),
    "output_scores": (False, ""),
    "output_logits": (False, ""),
    "output_attentions": (False, ""),
    "output_hidden_states": (False, ""),
}
"""Fields of a generation config that a search draws and stops without: the value that asks for nothing (what
transformers fills in where nobody says), and the logits processor that `generate` makes of any other."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A call that can be answered."""

    input_ids: torch.Tensor
    """`[batch, width]`, as given."""
    rows: tuple[TokenIds, ...]
    """Each row's ids without padding."""
    max_new_tokens: int
    end_ids: tuple[int, ...]
    pad_id: int | None
    """None only for a single row."""
    as_dict: bool

    def output(self, answers: Sequence[TokenIds]) -> Any:
        """`[batch, width + new]`, or `generate`'s output object around it if it was asked for."""
        import torch

        width = max(len(answer) for answer in answers)
        filled = [answer + (self.pad_id or 0,) * (width - len(answer)) for answer in answers]
        new = torch.tensor(filled, dtype=self.input_ids.dtype, device=self.input_ids.device).view(len(answers), width)
        sequences = torch.cat([self.input_ids, new], dim=1)
        if not self.as_dict:
            return sequences
        from transformers.generation import GenerateDecoderOnlyOutput

        return GenerateDecoderOnlyOutput(sequences=sequences)


def read_request(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Sequence[Any],
    stopping_criteria: Sequence[Any],
    config: Any,
    model_kwargs: Mapping[str, Any],
) -> Request:
    """Raises `InputError` for a call that asks for what a search cannot do; nothing is left out in silence."""
    _check_model(model, model_kwargs)
    _check_settings(model, config, logits_processor)
    limit, ends = _stops(stopping_criteria)
    # Where it has no pad token, generate has taken the first end token.
    pad = config._pad_token_tensor if config.pad_token_id is None else config.pad_token_id
    if pad is None and len(input_ids) > 1:
        raise InputError(
            "there is no pad token to fill the shorter answers of a batch up with: add "
            "pad_token_id=tokenizer.eos_token_id to the call of generate"
        )
    return Request(
        input_ids=input_ids,
        rows=tuple(_rows(input_ids, model_kwargs.get("attention_mask"))),
        max_new_tokens=limit - input_ids.shape[1],
        end_ids=ends,
        pad_id=None if pad is None else int(pad),
        as_dict=bool(config.return_dict_in_generate),
    )


def _check_model(model: Any, model_kwargs: Mapping[str, Any]) -> None:
    if model.config.is_encoder_decoder:
        raise InputError(
            f"{type(model).__name__} is an encoder-decoder: RAIN searches the continuations of a decoder-only model; "
            "load one with AutoModelForCausalLM"
        )
    if unheard := sorted(name for name in set(model_kwargs) - READ if model_kwargs[name] is not None):
        raise InputError(
            f"generate was given {', '.join(unheard)}: RAIN reads input_ids and attention_mask alone; leave "
            f"{'it' if len(unheard) == 1 else 'them'} out"
        )
    _check_positions(model_kwargs.get("position_ids"), model_kwargs.get("attention_mask"))
    cache = model_kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise InputError(
            "generate was given past_key_values that hold a text already: RAIN keeps its own prefixes and would not "
            "fill them; leave past_key_values out"
        )


def _check_positions(positions: torch.Tensor | None, mask: torch.Tensor | None) -> None:
    """Raises `InputError` for positions that do not count a row's tokens from 0."""
    if positions is None:
        return
    seen = positions.new_ones(positions.shape).bool() if mask is None else mask.bool()
    counted = seen.long().cumsum(dim=-1) - 1
    if not bool((positions == counted)[seen].all()):
        raise InputError(
            "generate was given position_ids that do not count the tokens of a row from 0: RAIN reads input_ids and "
            "attention_mask alone; leave position_ids out"
        )


def _check_settings(model: Any, config: Any, logits_processor: Sequence[Any]) -> None:
    for name in ("num_beams", "num_return_sequences"):
        # Whoever set these: generate has repeated the rows by now.
        if (getattr(config, name) or 1) > 1:
            raise InputError(
                f"{name} is {getattr(config, name)}: RAIN gives one answer a prompt, and its draws are keyed by the "
                f"prompt, so repeated rows are equal; leave {name} out, or call once for each seed of "
                "inferalign.rain(tokenizer, seed=...)"
            )
    own = {name: getattr(model.generation_config, name, None) for name in UNHEARD}
    asked = [
        name for name, (nothing, _) in UNHEARD.items() if getattr(config, name, None) not in (None, nothing, own[name])
    ]
    if asked:
        raise InputError(
            f"generate was asked for {', '.join(f'{name}={getattr(config, name)!r}' for name in asked)}: RAIN draws "
            "and stops by its own settings; leave that out, and give inferalign.rain(tokenizer, seed=..., "
            "setting=RainSettings(...)) instead"
        )
    # What generate has made of the model's own config: warpers only where that samples, the top-k one by default.
    expected = Counter(
        processor
        for name, (nothing, processor) in UNHEARD.items()
        if (own[name] not in (None, nothing) or name == "top_k")
        and (own["do_sample"] or not processor.endswith("Warper"))
    )
    if given := Counter(type(p).__name__ for p in logits_processor) - expected:
        raise InputError(
            f"generate was given a logits processor ({next(iter(given))}): RAIN searches the model's own distribution; "
            "leave out logits_processor and prefix_allowed_tokens_fn"
        )


def _stops(stopping_criteria: Sequence[Any]) -> tuple[int, tuple[int, ...]]:
    """The longest a row may become, and the end tokens. Raises `InputError` for any other way to stop."""
    limits, ends = [], []
    for criterion in stopping_criteria:
        match type(criterion).__name__:
            case "MaxLengthCriteria":
                limits.append(int(criterion.max_length))
            case "EosTokenCriteria":
                ends += [int(token) for token in criterion.eos_token_id if token >= 0]
            case name:
                raise InputError(
                    f"generate was given the stopping criterion {name}: RAIN stops at end tokens and at a length; "
                    "leave it out, and give max_new_tokens= or eos_token_id="
                )
    return min(limits), tuple(dict.fromkeys(ends))


def _rows(input_ids: torch.Tensor, mask: torch.Tensor | None) -> list[TokenIds]:
    """Each row without the padding on its left. Raises `InputError` for padding anywhere else."""
    rows = []
    masks = [[1] * input_ids.shape[1]] * input_ids.shape[0] if mask is None else mask.tolist()
    for i, (ids, seen) in enumerate(zip(input_ids.tolist(), masks, strict=True)):
        first = next((k for k, one in enumerate(seen) if one), len(ids))
        if first == len(ids):
            raise InputError(f"row {i} of input_ids is all padding: give each prompt at least one token")
        if not all(seen[first:]):
            raise InputError(
                f"row {i} of the attention mask has zeros after its first token: an answer follows the last token of "
                "its row, so padding goes to the left; type tokenizer.padding_side = 'left' before tokenizing"
            )
        rows.append(tuple(ids[first:]))
    return rows
