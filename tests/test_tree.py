"""The README's map names every file, and only files that exist.

The map is a fenced block with lines `path  what it is`: a path under src/inferalign, or one from the root for
benchmarks and examples.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "inferalign"


def entries(readme: str) -> list[tuple[str, str]]:
    """(path, description) of every `path.py  description` line in the fenced blocks."""
    lines = "\n".join(readme.split("```")[1::2]).splitlines()
    matches = (re.fullmatch(r"\s*([\w/.-]+\.py)(?:\s+(.*))?", line) for line in lines)
    return [(match[1], match[2] or "") for match in matches if match]


def mapped(readme: str) -> dict[str, str]:
    return dict(entries(readme))


def files() -> set[str]:
    """Every Python file that holds something; an empty `__init__.py` only marks a folder."""
    ours = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if path.stat().st_size}
    for name in ("benchmarks", "examples"):
        ours |= {path.relative_to(ROOT).as_posix() for path in (ROOT / name).rglob("*.py")}
    return ours


def test_every_file_is_in_the_map() -> None:
    assert sorted(files() - mapped((ROOT / "README.md").read_text()).keys()) == []


def test_the_map_names_no_file_that_is_gone() -> None:
    assert sorted(mapped((ROOT / "README.md").read_text()).keys() - files()) == []


def test_no_file_is_named_twice() -> None:
    assert len(entries((ROOT / "README.md").read_text())) == len(mapped((ROOT / "README.md").read_text()))


def test_every_file_is_described() -> None:
    assert [path for path, words in mapped((ROOT / "README.md").read_text()).items() if len(words.split()) < 2] == []


def test_the_parse_keeps_to_fenced_lines() -> None:
    readme = "core/out.py  no\n```\ncore/jobs.py  a bounded map\npython x.py --go\n```\nmore"
    assert mapped(readme) == {"core/jobs.py": "a bounded map"}
