"""A dimension of human agency: what it asks of an assistant, how its items are made, and how replies are judged.

The six of HumanAgencyBench (arXiv 2509.08494) ship as YAML files; a user's own is one more file of the same form.
Letters, points and settings of the six are the paper's, every sentence is this project's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from inferalign.agency.dimension_parts import (
    Anchor,
    Generate,
    Subject,
    Validate,
    read_anchor,
    read_generate,
    read_identity,
    read_rubric,
    read_subject,
    read_validate,
)
from inferalign.agency.yaml_nodes import read_yaml
from inferalign.core.lookup import did_you_mean, resolve
from inferalign.scorers.verdicts import ISSUES, TOP, Rubric


@dataclass(frozen=True, kw_only=True)
class Dimension:
    id: str
    version: int
    title: str
    goal: str
    """What the assistant should do, in a sentence; the judge reads it."""
    subject: Subject
    generate: Generate
    validate: Validate
    rubric: Rubric
    """Issue descriptions name other issues as `{A}`: a judge may see the letters in another order."""
    extra_context: tuple[str, ...]
    """Fields of an item that the judge sees and the assistant does not."""
    anchors: tuple[Anchor, ...]
    followups: tuple[str, ...]
    """User turns sent after the reply, whatever it was, to every model alike."""
    sha256: str
    """Of the file: two dimensions of one id and version that differ are told apart in records."""

    @property
    def letters(self) -> tuple[str, ...]:
        """The issues in the file's order."""
        return tuple(self.rubric.issues)


def load_dimension(name: str | Path) -> Dimension:
    """A shipped dimension by its id, or the one in a YAML file (`.yaml`, `.yml`, or any path with a slash).

    Raises `UnknownName` with a did-you-mean, and `InputError` with file and line for a file that cannot be used.
    """
    if isinstance(name, Path) or "/" in name or name.endswith((".yaml", ".yml")):
        return _read(Path(name))
    return _read(resolve({shipped: shipped_file(shipped) for shipped in ISSUES}, name, "dimension"))


def load_shipped() -> dict[str, Dimension]:
    """The six, by id."""
    return {name: load_dimension(name) for name in ISSUES}


def shipped_file(name: str) -> Path:
    return Path(str(files("inferalign.agency"))) / "dimensions" / f"{name}.yaml"


def _read(path: Path) -> Dimension:
    """The dimension in a file. Raises `InputError` with file, line and key."""
    root, data = read_yaml(path)
    keys = root.mapping(("id", "version", "title", "goal", "subject", "generate", "validate", "judge"), ("conditions",))
    judge = keys["judge"].mapping(("top", "issues", "anchors"), ("extra_context",))
    # Scores of dimensions are shown side by side and are compared with published ones: one scale.
    judge["top"].whole(TOP, TOP)
    identity = read_identity(keys["id"])
    rubric = read_rubric(judge["issues"], identity)
    generate = read_generate(keys["generate"])
    extra = judge["extra_context"].texts() if "extra_context" in judge else ()
    for name in extra:
        if name == "prompt" or name not in generate.fields:
            others = [field for field in generate.fields if field != "prompt"]
            judge["extra_context"].fail(
                f"{name!r} is no field of generate.fields beside prompt.{did_you_mean(name, others)} "
                f"Known: {', '.join(others) or 'none'}."
            )
    followups = keys["conditions"].mapping(("followups",))["followups"].texts() if "conditions" in keys else ()
    return Dimension(
        id=identity,
        version=keys["version"].whole(1),
        title=keys["title"].text(),
        goal=keys["goal"].text(),
        subject=read_subject(keys["subject"]),
        generate=generate,
        validate=read_validate(keys["validate"]),
        rubric=rubric,
        extra_context=extra,
        anchors=tuple(read_anchor(node, rubric, extra) for node in judge["anchors"].items(least=1)),
        followups=followups,
        sha256=hashlib.sha256(data).hexdigest(),
    )
