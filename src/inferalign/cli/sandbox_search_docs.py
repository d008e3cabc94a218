"""The parts of docs/sandbox.md about searches: what `sandbox_study` and the benchmarks beside it printed, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from inferalign.cli.pages import markdown_table
from inferalign.sandbox.situations import SITUATIONS
from inferalign.scorers.verdicts import ISSUES

SEARCHES = ("vanilla", "best-of-4", "best-of-16", "rain")
"""The decodings whose other issues are shown."""
DRAWN = ("top-15", "random-of-4")
"""Decodings that draw and ask no judge."""
OTHERS = (*DRAWN, "best-of-16", "rain-shuffled")
"""What RAIN is held against beside vanilla, greedy and the bound."""


def searches(facts: Mapping[str, Any]) -> str:
    """What each decoding makes of each situation, with differences paired by prompt, and its price."""
    rows = []
    for name in _studied(facts):
        for arm, found in facts[name]["arms"].items():
            cells = _less(found, ("vanilla", "greedy", "bound"))
            counted = (str(found["good_strict"]["n"]), cell(found["good_strict"]))
            rows.append([name, arm, *counted, *cells, f"{found['merit']['mean']:.2f}", f"{found['tokens']:,.0f}"])
    head = ["situation", "decoding", "n", "without A, %", "less vanilla", "less greedy", "less bound", "merit"]
    return markdown_table([*head, "tokens"], rows)


def trainings(studies: Sequence[Mapping[str, Any]]) -> str:
    """The decodings that all of `studies` have, on the weights of several training seeds side by side."""
    rows = []
    for name in _studied(studies[0]):
        for arm in studies[0][name]["arms"]:
            found = [facts[name]["arms"][arm] for facts in studies if arm in facts[name]["arms"]]
            if len(found) == len(studies):
                pairs = ((each["good_strict"], each.get("minus_vanilla")) for each in found)
                rows.append([name, arm, *(cell(each) if each else "" for pair in pairs for each in pair)])
    head = [column for facts in studies for column in (f"seed {facts['training_seed']}, %", "less vanilla")]
    return markdown_table(["situation", "decoding", *head], rows)


def margins(facts: Mapping[str, Any]) -> str:
    """RAIN less each of the other decodings, paired by prompt."""
    return _differences(facts, ("rain",), OTHERS)


def controls(facts: Mapping[str, Any]) -> str:
    """Best-of-N less the two decodings that draw and ask no judge, paired by prompt."""
    return _differences(facts, ("best-of-4", "best-of-16"), DRAWN)


def _differences(facts: Mapping[str, Any], arms: Sequence[str], bases: Sequence[str]) -> str:
    rows = []
    for name in _studied(facts):
        for arm in arms:
            less = _less(facts[name]["arms"].get(arm, {}), bases)
            if any(less):
                rows.append([name, arm, *less])
    return markdown_table(["situation", "decoding", *(f"less {base}" for base in bases)], rows)


def _less(found: Mapping[str, Any], bases: Sequence[str]) -> list[str]:
    keys = (f"minus_{base}" for base in bases)
    return [cell(found[key]) if key in found else "" for key in keys]


def horizon(facts: Mapping[str, Any]) -> str:
    """RAIN that judges whole answers beside RAIN that judges clauses, on the same prompts."""
    rows = []
    for name in _studied(facts):
        clause, whole = facts[name]["arms"]["rain"], facts[name]["arms"]["rain-whole"]
        less = (whole[f"minus_{base}"] for base in ("rain", "bound", "best-of-16"))
        tokens = (f"{found['tokens']:,.0f}" for found in (clause, whole))
        rows.append([name, *(cell(found) for found in (clause["good_strict"], whole["good_strict"], *less)), *tokens])
    head = ["situation", "clause, %", "answer, %", "answer less clause", "less bound", "less best-of-16"]
    return markdown_table([*head, "tokens: clause", "answer"], rows)


def issues(facts: Mapping[str, Any]) -> str:
    """How often a reply that parses has each issue of human agency, under a draw and under three searches."""
    rows = []
    for name in _studied(facts):
        known = ISSUES.get(name, {})
        for arm in SEARCHES:
            if known and arm in facts[name]["arms"]:
                found = facts[name]["arms"][arm]
                rates = (f"{100 * found['issues'][x]['mean']:.0f}" if x in known else "" for x in "ABCDEF")
                rows.append([name, arm, *rates, f"{found['merit']['mean']:.2f}"])
    return markdown_table(["situation", "decoding", *(f"{x}, %" for x in "ABCDEF"), "merit"], rows)


def keys(facts: Mapping[str, Any]) -> str:
    """How often replies to hard and to easy keys are bad: the world's, and the model's draws."""
    rows = []
    for name in _studied(facts):
        cells = []
        for kind, drawn in facts[name].get("bad_draws", {}).items():
            world = [rate for rate in SITUATIONS[name].bad_rates.values() if (rate > 0.5) == (kind == "hard")]
            cells += [f"{100 * fmean(world):.0f}", cell(drawn)]
        rows += [[name, *cells]] if cells else []
    return markdown_table(["situation", "hard keys: world, %", "model, %", "easy keys: world, %", "model, %"], rows)


def errands(facts: Mapping[str, Any]) -> str:
    """Over-refusal and under-refusal: of all errands, and of those that look like the other kind."""
    rows = []
    for name in _studied(facts):
        for arm, found in facts[name]["arms"].items():
            if found["refused"]["n"]:
                keys = ("refused", "contrast_refused", "contrast_good")
                rows.append([name, arm, *(cell(found[key]) for key in keys), str(found["contrast_good"]["n"])])
    head = ["situation", "decoding", "refused, %", "look-alikes: refused, %", "look-alikes: without A, %"]
    return markdown_table([*head, "look-alikes"], rows)


def bounds(facts: Mapping[str, Any]) -> str:
    """What the judge that guides a search lets one expect of it."""
    rows = []
    for name in _studied(facts):
        found = facts[name]
        if "bound" in found:
            rates = (found["judge"]["sensitivity"], found["judge"]["specificity"], found["bound"])
            none = str(found["prompts_without_an_accepted_candidate"])
            rows.append([name, *map(cell, rates), none, cell(found["perfect_judge_of_16"])])
    head = ["situation", "sensitivity, %", "specificity, %", "bound, %", "prompts with nothing accepted"]
    return markdown_table([*head, "perfect judge, %"], rows)


def failures(facts: Mapping[str, Any]) -> str:
    """Where RAIN ended at a bad reply, and what its guide said of that and of good draws."""
    rows = []
    for name in _studied(facts):
        found = facts[name].get("failures", {})
        if found.get("failed"):
            counts = (str(found[key]) for key in ("failed", "rejected", "refused", "keys"))
            score = "-" if found["best_score"] is None else f"{found['best_score']:z.2f}"
            rows.append([name, *counts, score, cell(found["good_accepted"]), cell(found["good_accepted_elsewhere"])])
    head = ["situation", "bad replies", "rejected by the guide", "refusals", "keys", "highest score"]
    return markdown_table([*head, "good draws accepted there, %", "elsewhere, %"], rows)


def _studied(facts: Mapping[str, Any]) -> list[str]:
    return [name for name in SITUATIONS if name in facts]


def ablations(facts: Mapping[str, Any]) -> str:
    """RAIN with parts left out, and best-of-N that was fed as many tokens."""
    rows = []
    for name, variants in facts["situations"].items():
        for variant, found in variants.items():
            if variant == "equal_tokens":
                less = {key: None if value is None else -value for key, value in found["rain_minus_best_of_k"].items()}
                less |= {"low": less["high"], "high": less["low"]}
                label = f"best-of-{found['k']}, equal tokens"
            else:
                less, label = found.get("minus_full"), {"full": "RAIN"}.get(variant, f"RAIN, {variant}")
            cells = (cell(found["good_strict"]), "" if less is None else cell(less))
            rows.append([name, label, *cells, f"{found['tokens']:,.0f}"])
    return markdown_table(["situation", "search", "without A, %", "less RAIN", "tokens"], rows)


def drift(facts: Mapping[str, Any]) -> str:
    """The guide's own mean score beside the truth, as a search gets stronger."""
    keys = ("belief", "truth", "unread", "drift")
    rows = [
        [name, each["search"], f"{each['tokens']:,.0f}", *(cell(each[key]) for key in keys)]
        for name, lines in facts["situations"].items()
        for line in lines.values()
        for each in line
    ]
    head = ["situation", "search", "tokens", "guide's own score, %", "without A, %", "unread, %", "drift"]
    return markdown_table(head, rows)


def law(facts: Mapping[str, Any]) -> str:
    """What RAIN and best-of-8 make of each judge, best judge first."""
    rows = []
    for name, judges in facts["judges"].items():
        for judge, found in sorted(judges.items(), key=lambda each: -(each[1]["balanced"]["mean"] or 0.0)):
            rates = (cell(found[key]) for key in ("balanced", "sensitivity", "specificity", "auc"))
            rows.append([name, judge, *rates])
            for made in found["by"].values():
                rows[-1] += [*(cell(made[key]) for key in ("good", "minus_draw", "minus_greedy"))]
                rows[-1].append(f"{made['tokens']:,.0f}")
    head = ["situation", "judge", "balanced accuracy, %", "sensitivity, %", "specificity, %", "AUC in a prompt, %"]
    for search in ("RAIN", "best-of-8"):
        head += [f"{search}, without A, %", "less a draw", "less greedy", "tokens"]
    return markdown_table(head, rows)


def cell(estimate: Mapping[str, Any]) -> str:
    """`50.0 [25.0, 75.0]`, in %; a mean of one alone has no interval, and a dash says that nothing was measured."""
    if estimate["mean"] is None:
        return "-"
    mean = f"{100 * estimate['mean']:z.1f}"
    if estimate["low"] is None:
        return mean
    return f"{mean} [{100 * estimate['low']:z.1f}, {100 * estimate['high']:z.1f}]"


SEARCH_TABLES: Mapping[str, Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "study": {
        "searches": searches,
        "margins": margins,
        "controls": controls,
        "issues": issues,
        "keys": keys,
        "errands": errands,
        "bounds": bounds,
        "failures": failures,
    },
    "horizon": {"horizon": horizon},
    "ablations": {"ablations": ablations},
    "drift": {"drift": drift},
    "law": {"law": law},
}
"""The parts of the page that one report fills, by what it is."""
