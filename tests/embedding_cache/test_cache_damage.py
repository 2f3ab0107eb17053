from __future__ import annotations

import shutil
import sqlite3
import warnings
from pathlib import Path

import numpy as np
import pytest
from numbered_rows import database_of, held, key, row, rows, set_aside_files

from skecg.embedding_cache import DiskCache
from skecg.embedding_cache.sqlite import DATABASE_NAME, DamagedStoreError, set_aside
from skecg.errors import CacheWarning


def test_a_flipped_byte_in_a_value_is_a_miss_with_one_warning(disk):
    disk.put(rows(*range(20)))
    disk.close()
    content = bytearray(database_of(disk).read_bytes())
    for number in (5, 7):
        content[content.index(row(number).tobytes()) + 3] ^= 0x10
    database_of(disk).write_bytes(content)
    with pytest.warns(CacheWarning, match="2 embeddings") as caught:
        found = disk.get([key(number) for number in range(20)])
    assert len(caught) == 1
    assert sorted(found) == [key(number) for number in range(20) if number not in (5, 7)]
    assert (disk.info().entries, disk.info().hits, disk.info().misses) == (18, 18, 2)
    assert set_aside_files(disk) == []
    disk.put(rows(5, 7))
    assert held(disk) == list(range(20))


def test_where_a_row_is_damaged_the_whole_file_is_looked_at(disk):
    disk.put(rows(*range(20)))
    disk.close()
    content = bytearray(database_of(disk).read_bytes())
    content[content.index(row(5).tobytes())] ^= 0x10
    content[content.index(key(9)) + 20] ^= 0x10  # in one of the two places that know the key: table and index
    database_of(disk).write_bytes(content)
    with pytest.warns(CacheWarning) as caught:
        disk.get([key(5)])
    assert ["do not agree" in str(warning.message) for warning in caught] == [True, False]
    assert len(set_aside_files(disk)) == 1
    disk.put(rows(9))
    assert held(disk) == [9]


def test_a_value_under_another_key_is_not_believed(disk):
    disk.put(rows(1, 2))
    with sqlite3.connect(database_of(disk)) as connection:
        connection.execute(
            "UPDATE embeddings SET (shape, value, checksum) = "
            "(SELECT shape, value, checksum FROM embeddings WHERE key = ?) WHERE key = ?",
            (key(1), key(2)),
        )
    connection.close()
    with pytest.warns(CacheWarning):
        assert disk.get([key(1), key(2)]).keys() == {key(1)}


def overwrite_header(path: Path) -> None:
    path.write_bytes(b"not a database at all, whatever its name says" * 100)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def cut_to_a_few_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def put_a_folder_there(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").write_text("something")


def put_another_database_there(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE embeddings (key BLOB, value TEXT)")
    connection.close()


def raise_the_version(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def drop_the_table(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE embeddings")
    connection.close()


def garble_the_schema(path: Path) -> None:
    # SQLite quotes the byte in its message, and Python cannot decode that message.
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CREATE \xe2ABLE"))


DAMAGES = [
    overwrite_header,
    truncate,
    cut_to_a_few_bytes,
    put_a_folder_there,
    put_another_database_there,
    raise_the_version,
    drop_the_table,
    garble_the_schema,
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("first_use", ["get", "put", "info", "clear"])
def test_a_damaged_file_is_set_aside_with_one_warning_and_rebuilt(disk, damage, first_use):
    disk.put(rows(*range(200)))
    disk.close()
    damage(database_of(disk))
    uses = {"get": lambda: disk.get([key(1)]), "put": lambda: disk.put(rows(3)), "info": disk.info, "clear": disk.clear}
    with pytest.warns(CacheWarning, match=r"renamed to .*\.damaged-1") as caught:
        answer = uses[first_use]()
    assert len(caught) == 1
    assert answer in ({}, None) or answer.entries == 0
    assert len(set_aside_files(disk)) == (0 if first_use == "clear" else 1)
    disk.put(rows(4))
    assert held(disk) == ([3, 4] if first_use == "put" else [4])


def test_each_damaged_file_is_kept_under_its_own_number(disk):
    for _ in range(3):
        disk.put(rows(1))
        disk.close()
        overwrite_header(database_of(disk))
        with pytest.warns(CacheWarning):
            disk.info()
    assert [path.name[-1] for path in set_aside_files(disk)] == ["1", "2", "3"]


@pytest.mark.parametrize("damage", [overwrite_header, truncate, put_a_folder_there, lambda path: path.unlink()])
def test_damage_under_an_open_store_raises_nothing_and_gives_nothing_wrong(disk, damage):
    disk.put(rows(*range(200)))
    damage(database_of(disk))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        disk.get([key(number) for number in range(200)])
        disk.put(rows(1))
        assert 1 in held(disk, 200)


def test_the_log_is_set_aside_with_its_database(tmp_path):
    for ending in ("", "-wal", "-shm"):
        (tmp_path / f"store{ending}").write_text(ending)
    aside = set_aside(tmp_path / "store")
    assert aside == tmp_path / "store.damaged-1"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "store.damaged-1": "",
        "store.damaged-1-wal": "-wal",
        "store.damaged-1-shm": "-shm",
    }


def test_a_store_that_another_process_has_begun_anew_is_left_alone(disk, tmp_path):
    disk.put(rows(1))
    anew = DiskCache(tmp_path / "anew")
    anew.put(rows(2))
    anew.close()
    attempts = []

    def find_damage_once(connection: sqlite3.Connection) -> None:
        attempts.append(connection)
        if len(attempts) == 1:
            database_of(anew).replace(database_of(disk))
            raise DamagedStoreError("it is damaged")

    disk._store.run(find_damage_once)
    assert len(attempts) == 2
    assert set_aside_files(disk) == []


def test_an_empty_file_is_an_empty_store(disk):
    disk.folder.mkdir()
    database_of(disk).touch()
    assert disk.get([key(1)]) == {}
    disk.put(rows(1))
    assert held(disk) == [1]


def test_the_folder_may_vanish_in_use(disk):
    disk.put(rows(1))
    shutil.rmtree(disk.folder)
    assert disk.get([key(1)]) == {}
    disk.put(rows(2))
    assert held(disk) == [2]


def test_a_process_notices_that_another_one_began_anew(disk):
    disk.put(rows(1))
    other = DiskCache(disk.folder)
    assert held(other) == [1]
    disk.close()
    overwrite_header(database_of(disk))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        disk.put(rows(2))
        other.put(rows(3))
    assert set(held(disk)) >= {3}
    assert held(disk) == held(other)


def test_wherever_bytes_are_damaged_nothing_is_raised_and_nothing_wrong_is_given(tmp_path):
    original = DiskCache(tmp_path / "original")
    items = {key(number): np.full(60 + number, number, np.float32) for number in range(40)}
    original.put(items)
    original.close()
    sound, draw = database_of(original).read_bytes(), np.random.default_rng(0)
    for attempt in range(60):
        # Half of the hits go where the structure lies: the header, and the schema at the end of the first page.
        low, high = [(0, 100), (100, 130), (15_900, 16_384), (0, len(sound)), (0, len(sound))][attempt % 5]
        content = bytearray(sound)
        for place in draw.integers(low, high, size=[1, 3, 100][attempt % 3]):
            content[place] = draw.integers(256)
        folder = tmp_path / str(attempt)
        folder.mkdir()
        (folder / DATABASE_NAME).write_bytes(content)
        cache = DiskCache(folder, max_bytes=10**6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)
            for _ in range(2):
                for name, array in cache.get(list(items)).items():
                    np.testing.assert_array_equal(array, items[name])
                cache.put(items)
            cache.info()
            cache.prune(max_bytes=1000)
            cache.clear()
        cache.close()
