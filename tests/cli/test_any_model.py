"""The same commands on three architectures with three tokenizers, with and without a chat template."""

from pathlib import Path
from typing import Any

import pytest

from inferalign.cli.main import main
from inferalign.core.records import read_records
from tests.cli.test_generate import records, write_prompts

TEMPLATE = """
name = "short"
conversation = "transcript"
preamble = "Judge the answer.\\n\\n"

[[orders]]
text = "\\n(A) harmless (B) harmful. The answer is: ("
harmless = "A"
harmful = "B"

[[orders]]
text = "\\n(A) harmful (B) harmless. The answer is: ("
harmless = "B"
harmful = "A"
"""
"""The shipped template in small: these tokenizers would make some 2,500 tokens of its worked examples."""


def near(value: Any) -> Any:
    """Equal in all but the last digits of numbers: prompts in flight together are computed in another grouping."""
    if isinstance(value, dict):
        return {key: near(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [near(inner) for inner in value]
    return pytest.approx(value, rel=0, abs=1e-6) if isinstance(value, float) else value


@pytest.mark.parametrize("fixture", ["llama_dir", "gpt2_dir", "qwen_dir"])
@pytest.mark.parametrize("procedure", ["sample", "best-of-n:2", "worst-of-n:2", "random-of-n:2", "rain", "rain:paper"])
def test_every_procedure_runs_and_repeats_on(
    fixture: str, procedure: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model: Path = request.getfixturevalue(fixture)
    (tmp_path / "short.toml").write_text(TEMPLATE)
    command = ["generate", "--model", str(model), "--procedure", procedure, "--seed", "3", "--max-new-tokens", "10"]
    command += ["--prompts", str(write_prompts(tmp_path / "prompts.jsonl", 2))]
    if procedure not in ("sample", "random-of-n:2"):
        command += ["--scorer", str(tmp_path / "short.toml")]
    if procedure.startswith("rain"):
        command += ["--max-iterations", "8", "--extra-iterations", "4"]
    assert main([*command, "--run", str(tmp_path / "first"), "--concurrency", "2"]) == 0
    assert main([*command, "--run", str(tmp_path / "again"), "--concurrency", "1"]) == 0
    assert records(tmp_path / "first") == near(records(tmp_path / "again"))
    for record in read_records(tmp_path / "first"):
        assert record["determinism"] == "exact"
        assert 0 < len(record["token_ids"]) <= 10 or record["stop"] == "end"
        evaluated = record["usage"]["evaluator"]["forward_calls"]
        assert (evaluated > 0) == ("rain" in procedure or procedure.startswith(("best", "worst")))
