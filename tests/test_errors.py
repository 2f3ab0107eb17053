from __future__ import annotations

import ast
import builtins
import pickle
import re
from pathlib import Path

import pytest

import skecg
from skecg import errors

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


def tree_in_the_docstring() -> dict[str, list[str]]:
    """Read each class's parents off the drawing: the one it hangs from, and those in parentheses."""
    found: dict[str, list[str]] = {}
    above: list[str] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"^    ([│├└─ ]*)(Skecg\w+|\w+(?:Error|Warning))(?: \((\w+)\))?", line)
        if not match:
            continue
        level = len(match[1]) // 4
        above[level:] = [match[2]]
        found[match[2]] = above[level - 1 : level] * (level > 0) + ([match[3]] if match[3] else [])
    return found


def test_the_tree_in_the_docstring_is_the_tree_of_classes():
    drawn = tree_in_the_docstring()
    drawn["SkecgError"] = ["Exception"]
    assert drawn == {cls.__name__: [base.__name__ for base in cls.__bases__] for cls in CLASSES}


def test_every_class_is_public_described_and_one_of_ours():
    assert sorted(errors.__all__) == sorted(cls.__name__ for cls in CLASSES)
    for cls in CLASSES:
        assert issubclass(cls, errors.SkecgError | errors.SkecgWarning)
        assert cls.__doc__


def test_errors_can_be_caught_as_what_python_calls_them():
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.RecordNotFoundError, FileNotFoundError)
    assert issubclass(errors.WeightsNotFoundError, FileNotFoundError)
    assert issubclass(errors.MissingDependencyError, ImportError)
    assert issubclass(errors.SkecgWarning, UserWarning)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_errors_keep_their_message_through_pickling(cls):
    assert str(pickle.loads(pickle.dumps(cls("Got this, expected that.")))) == "Got this, expected that."


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_errors_can_be_rebuilt_as_dask_rebuilds_them(cls):
    rebuilt = cls.__new__(cls, "Got this, expected that.")
    rebuilt.args = ("Got this, expected that.",)
    assert str(rebuilt) == "Got this, expected that."


def test_the_library_raises_only_errors_of_its_own():
    """Python's own errors are raised only where its protocols ask for them."""
    allowed = {"AttributeError", "NotImplementedError", "StopIteration", "SystemExit", "KeyboardInterrupt", "TypeError"}
    names = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)}
    for path in Path(skecg.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                assert node.exc.func.id not in names - allowed, f"{path.name}:{node.lineno}"
