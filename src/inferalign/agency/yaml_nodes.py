"""YAML read node by node, so that every complaint names the file, the line and the key.

Only plain data: strings, numbers, truth values, lists and mappings, resolved by PyYAML's safe loader. Aliases, tags
and keys that stand twice are refused. What the keys mean is not known here: `dimension_parts` knows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from inferalign.core.errors import InputError
from inferalign.core.lookup import did_you_mean, load

_STRING = "tag:yaml.org,2002:str"
_NULL = "tag:yaml.org,2002:null"
_PLAIN = {
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "seq", "map", "timestamp", "merge", "value")
}
"""What the resolver makes of data without a tag."""


@dataclass(frozen=True)
class Node:
    """A place in a YAML file."""

    path: Path
    where: str
    """The keys that lead here, as in `judge.issues.A`."""
    yaml: Any
    """PyYAML's node, which knows its line."""

    def fail(self, problem: str) -> NoReturn:
        """Raises `InputError`: file, line, key, problem."""
        key = f"{self.where}: " if self.where else ""
        raise InputError(f"{self.path}:{self.line}: {key}{problem}")

    @property
    def line(self) -> int:
        return int(self.yaml.start_mark.line) + 1

    def mapping(self, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Node]:
        """The values by key: all of `required`, perhaps some of `optional`, and no other."""
        found = self.table()
        known = (*required, *optional)
        for key, value in found.items():
            if key not in known:
                value.fail(f"unknown key.{did_you_mean(key, known)} Known: {', '.join(known)}.")
        if missing := [key for key in required if key not in found]:
            self.fail(f"key {missing[0]!r} is missing. Needed: {', '.join(required)}.")
        return found

    def table(self) -> dict[str, Node]:
        """The values by key, whatever the keys are; in the file's order."""
        if self.yaml.id != "mapping":
            self.fail(f"expected keys with values, got {self._found()}")
        found: dict[str, Node] = {}
        for key, value in self.yaml.value:
            name = self._key(key)
            inner = Node(self.path, f"{self.where}.{name}" if self.where else name, value)
            if name in found:
                # The line of the second key: it is the one to take out.
                Node(self.path, inner.where, key).fail(f"stands twice, first on line {found[name].line}")
            found[name] = inner
        return found

    def _key(self, key: Any) -> str:
        if key.id != "scalar" or key.tag != _STRING:
            Node(self.path, self.where, key).fail("a key must be a text: quote a number, and words like yes and no")
        return str(key.value)

    def items(self, *, least: int = 0) -> list[Node]:
        if self.yaml.id != "sequence":
            self.fail(f"expected a list, got {self._found()}")
        if len(self.yaml.value) < least:
            self.fail(f"expected {least} or more entries, got {len(self.yaml.value)}")
        return [Node(self.path, f"{self.where}[{i}]", value) for i, value in enumerate(self.yaml.value)]

    def texts(self, *, least: int = 0) -> tuple[str, ...]:
        return tuple(item.text() for item in self.items(least=least))

    def text_table(self) -> Mapping[str, str]:
        return {name: value.text() for name, value in self.table().items()}

    def text(self) -> str:
        """A text that is not empty, without blanks around it."""
        if self.yaml.id != "scalar" or self.yaml.tag != _STRING:
            self.fail(f"expected a text, got {self._found()}")
        if not self.yaml.value.strip():
            self.fail("the text is empty")
        return str(self.yaml.value).strip()

    def text_or_null(self) -> str | None:
        return None if self.yaml.id == "scalar" and self.yaml.tag == _NULL else self.text()

    def whole(self, low: int, high: int | None = None) -> int:
        value = self._scalar()
        # Not isinstance: to Python, true is an int.
        if type(value) is not int:
            self.fail(f"expected a whole number, got {self._found()}")
        self._in_range(value, low, high)
        return value

    def number(self, low: float, high: float | None = None) -> float:
        value = self._scalar()
        if type(value) not in (int, float):
            self.fail(f"expected a number, got {self._found()}")
        self._in_range(value, low, high)
        return float(value)

    def truth(self) -> bool:
        value = self._scalar()
        if type(value) is not bool:
            self.fail(f"expected true or false, got {self._found()}")
        return value

    def _in_range(self, value: float, low: float, high: float | None) -> None:
        # Written so that a NaN, which compares with nothing, is refused.
        if not (value >= low and (high is None or value <= high)):
            self.fail(f"expected {low} {f'to {high}' if high is not None else 'or more'}, got {value}")

    def _scalar(self) -> Any:
        if self.yaml.id != "scalar":
            self.fail(f"expected one value, got {self._found()}")
        loader = load("yaml:SafeLoader")("")
        try:
            return loader.construct_object(self.yaml)
        except (load("yaml:YAMLError"), ValueError) as error:
            raise InputError(f"{self.path}:{self.line}: {self.where}: cannot read {self.yaml.value!r}") from error
        finally:
            loader.dispose()

    def _found(self) -> str:
        if self.yaml.id == "scalar":
            return f"{self.yaml.value!r}" if self.yaml.value else "nothing"
        return {"sequence": "a list", "mapping": "keys with values"}[self.yaml.id]


def read_yaml(path: Path) -> tuple[Node, bytes]:
    """The root of a YAML file, and its bytes. Raises `InputError` (missing, not YAML, tagged, aliased, empty)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Expected a YAML file; check the path.") from error
    compose, safe, yaml_error = (load(f"yaml:{name}") for name in ("compose", "SafeLoader", "YAMLError"))
    try:
        root = compose(data.decode("utf-8"), Loader=safe)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except yaml_error as error:
        raise InputError(f"{path}{_line_of(error)}: not YAML: {_problem_of(error)}.") from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply.") from error
    if root is None:
        raise InputError(f"{path} is empty: expected a YAML file.")
    seen: set[int] = set()
    for node in _walk(root):
        if id(node) in seen:
            Node(path, "", node).fail("this value is used again by an alias (*name): write it out")
        seen.add(id(node))
        if node.tag not in _PLAIN:
            Node(path, "", node).fail(f"the tag {node.tag!r} is not allowed: write plain data")
    return Node(path, "", root), data


def _walk(root: Any) -> Iterator[Any]:
    """Every node, one that an alias repeats once more; an alias inside itself ends at the second sight of it."""
    todo, seen = [root], set()
    while todo:
        node = todo.pop()
        yield node
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node.id == "mapping":
            todo.extend(child for pair in node.value for child in pair)
        elif node.id == "sequence":
            todo.extend(node.value)


def _line_of(error: Any) -> str:
    mark = getattr(error, "problem_mark", None)  # errors of the reader (control characters) have none
    return "" if mark is None else f":{mark.line + 1}"


def _problem_of(error: Any) -> str:
    return str(getattr(error, "problem", None) or error).replace("\n", " ")
