"""The shorthand of the aws CLI, compared with the aws CLI's own parser."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cli_site import PROGRAMS
from hypothesis import given
from hypothesis import strategies as st

from hsmkms.cli.api.shorthand import ShorthandError, parse

Parse = Callable[[str], Any]

KEYS = st.text("abcXYZ019_-./:#", min_size=1, max_size=4)
TEXTS = st.text("ab1 ,=[]{}'\"\\:/ü", max_size=8)
BARE = st.text("ab1:/.ü-", min_size=1, max_size=5)


def quoted(text: str, mark: str) -> str:
    """Put a text between quotation marks."""
    escaped = text.replace("\\", "\\\\").replace(mark, f"\\{mark}")
    return f"{mark}{escaped}{mark}"


WRITTEN = st.one_of(
    BARE.map(lambda text: (text, text)),
    st.tuples(TEXTS, st.sampled_from("'\"")).map(lambda pair: (quoted(*pair), pair[0])),
)


def as_list(values: list[tuple[str, Any]]) -> tuple[str, Any]:
    """Write an explicit list."""
    return f"[{','.join(text for text, _ in values)}]", [value for _, value in values]


def as_members(members: dict[str, tuple[str, Any]]) -> tuple[str, Any]:
    """Write members one after another."""
    return ",".join(f"{key}={text}" for key, (text, _) in members.items()), {
        key: value for key, (_, value) in members.items()
    }


def as_structure(members: dict[str, tuple[str, Any]]) -> tuple[str, Any]:
    """Write a structure within another."""
    text, value = as_members(members)
    return f"{{{text}}}", value


VALUES = st.recursive(
    WRITTEN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(as_list),
        st.dictionaries(KEYS, inner, min_size=1, max_size=3).map(as_structure),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def aws_parse() -> Iterator[Parse]:
    """The aws CLI's own parser."""
    with subprocess.Popen(
        [sys.executable, PROGRAMS / "aws_shorthand.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def parse_there(text: str) -> Any:  # noqa: ANN401 - JSON
            print(json.dumps(text), file=stdin, flush=True)
            return json.loads(stdout.readline())

        yield parse_there
        stdin.close()


@given(written=st.dictionaries(KEYS, VALUES, min_size=1, max_size=4).map(as_members))
def test_reads_what_the_aws_cli_reads(aws_parse: Parse, written: tuple[str, Any]) -> None:
    """Nested members, lists and quotes are read as they were meant, and as the aws CLI reads them."""
    text, meant = written
    assert parse(text) == meant
    if "\\" not in text:  # the aws CLI ends a quoted text too late if a backslash is its last character
        assert aws_parse(text) == meant


@pytest.mark.parametrize(
    "text",
    ["a=b,c", "a=b,c,d=e", "a=x , y", "a=", "a=,b=c", "a=b=c", "a=b\\,c", "a={b=c\\,d}", "a=[x,]", "a= b , c = d "],
)
def test_forms_without_brackets(aws_parse: Parse, text: str) -> None:
    """Lists without brackets, escaped commas, blanks and empty values are read as the aws CLI reads them."""
    assert parse(text) == aws_parse(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a", "'a' is not key=value"),
        ("", "'' is not key=value"),
        ("a=[b", "']' is missing"),
        ("a={b=c", "'}' is missing"),
        ("a={b=c}x", "'x' is too much"),
        ("a='b", "not closed"),
        ("a='b'c", "a comma must stand between"),
        ("a=b,", "nothing stands after a comma"),
        ("a=b,,c", "nothing stands after a comma"),
        ("a=b,a=c", "'a' is there twice"),
    ],
)
def test_refused(text: str, named: str) -> None:
    """What is no shorthand is refused with the place or the reason."""
    with pytest.raises(ShorthandError, match=named.replace("[", r"\[").replace("}", r"\}")):
        parse(text)
