"""Every test shows what it asserts: by ``assert``, ``pytest.raises``, or a helper whose name begins with ``assert``."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def asserts(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether the body of a function shows an assertion."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name.startswith("assert") or name in {"raises", "fail"}:
                return True
    return False


def silent_tests(tree: ast.Module) -> list[str]:
    """Return the names of the tests in a module that show no assertion."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [function.name for function in functions if function.name.startswith("test_") and not asserts(function)]


def test_every_test_shows_its_assertion() -> None:
    """No test relies on a helper of which its reader cannot see that it asserts."""
    silent = [
        f"{path.relative_to(TESTS)}::{name}"
        for path in TESTS.rglob("test_*.py")
        for name in silent_tests(ast.parse(path.read_text()))
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("body", "is_silent"),
    [
        ("assert True", False),
        ("with pytest.raises(ValueError): f()", False),
        ("bench.assert_refused(1)", False),
        ("for x in y:\n  assert_works(x)", False),
        ("refused(1)", True),
        ("works()", True),
        ("raises = 1", True),
    ],
)
def test_silent_tests_are_listed(body: str, is_silent: object) -> None:
    """Assertions count wherever they stand in a test; other helpers, and mere names, do not."""
    module = "def test_it():\n" + "\n".join(f"  {line}" for line in body.splitlines()) + "\ndef helper(): pass\n"
    assert silent_tests(ast.parse(module)) == (["test_it"] if is_silent else [])
