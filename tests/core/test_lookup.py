import pytest

from inferalign.core.errors import InputError, UnknownName
from inferalign.core.lookup import did_you_mean, load, resolve

TABLE = {"rain": 1, "best-of-n": 2, "sample": 3}


def test_resolve_returns_the_value() -> None:
    assert resolve(TABLE, "best-of-n") == 2


def test_unknown_name_says_what_was_given_the_nearest_and_the_list() -> None:
    with pytest.raises(UnknownName, match=r"unknown scorer 'ran'\. Did you mean 'rain'\? Known: best-of-n, rain, samp"):
        resolve(TABLE, "ran", "scorer")


def test_no_hint_when_nothing_is_near() -> None:
    with pytest.raises(UnknownName) as caught:
        resolve(TABLE, "zzz")
    assert "Did you mean" not in str(caught.value)


def test_hint_ignores_case() -> None:
    assert did_you_mean("RAIN", TABLE) == " Did you mean 'rain'?"


def test_load_imports_the_object() -> None:
    assert load("inferalign.core.lookup:resolve") is resolve


@pytest.mark.parametrize("target", ["", "json", ":loads", "json:", "json:lo ads"])
def test_load_refuses_other_forms(target: str) -> None:
    with pytest.raises(InputError, match="expected the form"):
        load(target)


def test_load_names_the_missing_library_and_the_install_command() -> None:
    with pytest.raises(InputError, match=r"'no_such_library' is not installed\. Type: pip install 'no_such_library'"):
        load("no_such_library:Thing")


def test_load_names_the_extra_of_a_known_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)  # what Python does for a blocked import
    with pytest.raises(InputError, match=r"pip install 'inferalign\[local\]'"):
        load("safetensors:safe_open")


def test_load_names_the_nearest_attribute() -> None:
    with pytest.raises(InputError, match=r"has no 'resolv'\. Did you mean 'resolve'"):
        load("inferalign.core.lookup:resolv")
