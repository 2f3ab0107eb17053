from __future__ import annotations

import sys

import pytest

from skecg import embedding_cache as opening
from skecg.embedding_cache import (
    DiskCache,
    MemoryCache,
    default_cache_folder,
    open_cache,
)
from skecg.errors import ParameterError


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    for name in ("SKECG_CACHE", "SKECG_MEMORY_CACHE_MB", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(opening, "_memory", {})


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "./" + "y" * 300])
def test_a_name_that_no_folder_can_have_is_refused(name: str) -> None:
    with pytest.raises(ParameterError, match="which no folder can be called"):
        open_cache(name)


@pytest.mark.parametrize("none", [None, False])
def test_none_and_false_mean_no_cache(none):
    assert open_cache(none) is None


def test_memory_is_one_cache_for_the_process():
    assert open_cache("memory") is open_cache("memory")
    assert open_cache("memory").max_bytes == 256 * 2**20


@pytest.mark.parametrize(("text", "n_bytes"), [("3", 3 * 2**20), ("0.5", 2**19), ("0", 0), ("", 2**28)])
def test_the_environment_sizes_the_memory_cache(monkeypatch, text, n_bytes):
    monkeypatch.setenv("SKECG_MEMORY_CACHE_MB", text)
    assert open_cache("memory").max_bytes == n_bytes


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf", "1 GB"])
def test_a_size_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("SKECG_MEMORY_CACHE_MB", text)
    with pytest.raises(ParameterError, match="SKECG_MEMORY_CACHE_MB"):
        open_cache("memory")


def test_a_folder_gives_one_cache_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = open_cache(tmp_path / "embeddings")
    assert isinstance(cache, DiskCache)
    assert open_cache(str(tmp_path / "embeddings")) is cache
    assert open_cache("embeddings") is cache
    assert open_cache("~/x").folder == tmp_path / "home" / "x"


def test_disk_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("SKECG_CACHE", str(tmp_path / "mine"))
    assert open_cache("disk").folder == default_cache_folder() == tmp_path / "mine"


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {}, "home/.cache/skecg/embeddings"),
        ("linux", {"XDG_CACHE_HOME": "{}/xdg"}, "xdg/skecg/embeddings"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "home/.cache/skecg/embeddings"),
        ("darwin", {"XDG_CACHE_HOME": "{}/xdg"}, "home/Library/Caches/skecg/embeddings"),
        ("win32", {"LOCALAPPDATA": "{}/local"}, "local/skecg/embeddings"),
    ],
)
def test_disk_lies_in_the_platforms_cache_folder(monkeypatch, tmp_path, platform, variables, folder):
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    assert default_cache_folder() == tmp_path / folder


def test_an_object_with_get_and_put_is_itself():
    class Mine:
        def get(self, keys):
            return {}

        def put(self, items):
            pass

    for cache in (Mine(), MemoryCache()):
        assert open_cache(cache) is cache


@pytest.mark.parametrize("wrong", [True, 3, {}, MemoryCache, "", " ", "Memory", "memroy", "disc", "DISK", b"memory"])
def test_anything_else_is_refused_with_what_is_allowed(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match="'memory', 'disk', the path of a folder"):
        open_cache(wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_a_slash_may_be_called_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_cache("./Memory").folder == tmp_path / "Memory"
