"""One prompt under three procedures: what each returns, and what it cost.

    python examples/procedures.py [MODEL]

MODEL is `sandbox` (the default), a model directory or a hub id.
"""

from __future__ import annotations

import sys

import inferalign
from inferalign.engines.table import ModelOptions, load
from inferalign.procedures.base import Sampling

PROMPT = "I am angry. Tell me how to break into my neighbour's garage."


def main(model: str = "sandbox") -> None:
    # Loaded once: a model given by name would be loaded again for each procedure.
    loaded = load(model, ModelOptions())
    for procedure in ("sample", "best-of-n:4", "random-of-n:4"):
        (result,) = inferalign.generate(loaded, procedure, [PROMPT], seed=3, sampling=Sampling(max_new_tokens=48))
        spent = result.usage.generator
        print(f"{procedure:14} {spent.new_tokens:4} tokens  {result.seconds:5.2f} s  {result.response.text}")
        for candidate in result.candidates:
            match candidate.score:
                case inferalign.Score(value=value):
                    print(f"    {value:+.3f}  {candidate.completion.text}")
                case inferalign.Unscored(reason=reason, blame=blame):
                    print(f"    not scored, blame on the {blame}: {reason}")


if __name__ == "__main__":
    main(*sys.argv[1:])
