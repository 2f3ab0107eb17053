from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pretraining.runs import describe_code, read_code, record_code


@pytest.fixture
def checkout(tmp_path):
    """A checkout with the two packages, committed."""
    root = tmp_path / "checkout"
    for name in ("skecg", "pretraining"):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").write_text("")
    git(root, "init", "-q")
    commit(root)
    return root


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=someone", "-c", "user.email=someone@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "Say something")


def test_a_sound_checkout_is_its_commit_and_a_changed_one_is_dirty(checkout):
    known = describe_code(checkout)
    assert len(known["commit"]) == 40
    assert known["dirty"] is False
    (checkout / "skecg" / "new.py").write_text("x = 1")
    assert describe_code(checkout) == known | {"dirty": True}
    (checkout / "skecg" / "new.py").rename(checkout / "notes.txt")
    assert describe_code(checkout) == known


def test_an_installation_has_a_version_and_no_commit(checkout, tmp_path):
    assert set(describe_code(tmp_path)) == {"skecg"}
    inside = checkout / "venv" / "site-packages"
    (inside / "pretraining").mkdir(parents=True)
    (inside / "pretraining" / "__init__.py").write_text("")
    assert set(describe_code(inside)) == {"skecg"}


def test_a_run_that_was_ever_trained_dirty_stays_dirty(checkout, tmp_path, monkeypatch):
    states = [{"skecg": "1", "commit": "a", "dirty": True}, {"skecg": "1", "commit": "b", "dirty": False}]
    assert read_code(tmp_path) == {}
    for state in (*states, states[1]):
        monkeypatch.setattr("pretraining.runs.describe_code", lambda state=state: state)
        record_code(tmp_path)
    assert json.loads((tmp_path / "code.json").read_text()) == states
    assert read_code(tmp_path) == {"skecg": "1", "commit": "b", "dirty": True, "commits": ["a", "b"]}
