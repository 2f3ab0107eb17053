from __future__ import annotations

import io
import json
import math
import os
import sys

import pytest
from small_runs import small_config

from pretraining.monitoring.callbacks import TensorBoard
from pretraining.monitoring.journal import JOURNAL, Journal, duration, read_events, read_journal


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch):
    """Whether it is installed is no matter of these tests."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def quiet(folder, **options) -> Journal:
    return Journal(folder, stream=io.StringIO(), **options)


def steps(folder) -> list[int]:
    return [line["step"] for line in read_journal(folder)]


def test_what_is_written_is_read_back(tmp_path):
    with quiet(tmp_path) as journal:
        journal.write(10, {"loss": 0.5, "lr": 1e-3})
        journal.write(20, {"loss": 0.4})
    first, second = read_journal(tmp_path)
    assert (first["step"], first["loss"], first["lr"]) == (10, 0.5, 1e-3)
    assert second["loss"] == 0.4
    assert second["elapsed_seconds"] >= first["elapsed_seconds"] >= 0


def test_values_of_one_step_come_together(tmp_path):
    with quiet(tmp_path) as journal:
        journal.write(10, {"loss": 0.5})
        journal.write(10, {"rank": 12.0})
        journal.note(10, "collapse", "no spread")
    (entry,) = read_journal(tmp_path)
    assert (entry["loss"], entry["rank"]) == (0.5, 12.0)
    (event,) = read_events(tmp_path)
    assert (event["event"], event["text"]) == ("collapse", "no spread")


def test_scores_are_written_with_what_they_are_of_and_nothing_else_is(tmp_path):
    asked = {"key": "ab", "measure": "r2"}
    with quiet(tmp_path, asked=asked) as journal:
        journal.write(10, {"loss": 0.5})
        journal.write(20, {"probe": 0.5, "probe_key": 0.4})
    with quiet(tmp_path, resume_step=20) as journal:
        journal.write(30, {"probe": 0.6})
    first, second, third = read_journal(tmp_path)
    assert (second["asked"], second["probe_key"]) == (asked, 0.4)
    assert "asked" not in first
    assert "asked" not in third


def test_lines_are_there_before_the_journal_is_closed(tmp_path):
    journal = quiet(tmp_path)
    journal.write(1, {"loss": 1.0})
    assert steps(tmp_path) == [1]
    journal.close()


def test_resuming_takes_back_what_came_after(tmp_path):
    with quiet(tmp_path) as journal:
        for step in (10, 20, 30):
            journal.write(step, {"loss": float(step)})
        journal.note(30, "stop", "killed")
    with quiet(tmp_path, resume_step=20) as journal:
        assert steps(tmp_path) == [10, 20]
        assert read_events(tmp_path) == []
        journal.write(30, {"loss": -1.0})
    assert [entry["loss"] for entry in read_journal(tmp_path)] == [10.0, 20.0, -1.0]


def test_a_run_that_begins_begins_its_journal(tmp_path):
    with quiet(tmp_path) as journal:
        journal.write(30, {"loss": 1.0})
    with quiet(tmp_path) as journal:
        journal.write(10, {"loss": 1.0})
    assert steps(tmp_path) == [10]


def test_time_goes_on_where_it_stopped(tmp_path):
    (tmp_path / JOURNAL).write_text('{"step": 10, "elapsed_seconds": 1e3}\n{"step": 20, "elapsed_seconds": 2e3}\n')
    with quiet(tmp_path, resume_step=10) as journal:
        journal.write(20, {"loss": 1.0})
    assert 1000 <= read_journal(tmp_path)[-1]["elapsed_seconds"] < 1100


@pytest.mark.parametrize("torn", ['{"step": 20, "lo', "\x00\x00\x00", "[]", '{"loss": 1.0}'])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    (tmp_path / JOURNAL).write_text('{"step": 10, "loss": 1.0}\n' + torn)
    assert steps(tmp_path) == [10]
    with quiet(tmp_path, resume_step=20) as journal:
        journal.write(20, {"loss": 2.0})
    assert steps(tmp_path) == [10, 20]


def test_values_that_are_not_finite_stay_valid_json(tmp_path):
    with quiet(tmp_path) as journal:
        journal.write(1, {"loss": math.nan, "gradient_norm": math.inf})
    text = (tmp_path / JOURNAL).read_text()
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None
    assert math.isnan(read_journal(tmp_path)[0]["loss"])


def test_the_line_for_people_says_what_matters(tmp_path):
    stream = io.StringIO()
    with Journal(tmp_path, total_steps=5000, stream=stream) as journal:
        journal.write(100, {"rank": 34.12, "probe": 0.8614})
        assert stream.getvalue() == ""
        journal.write(100, {"loss": 0.41234, "lr": 5e-4, "momentum": 0.9971, "records_per_second": 812.4})
        journal.write(120, {"loss": 0.4, "lr": 5e-4, "momentum": 0.9971, "records_per_second": 812.4})
    first, second = stream.getvalue().splitlines()
    words = "step    100/5000  loss 0.4123  lr 5.0e-04  momentum 0.9971  records/s 812  rank 34.1  probe 0.861"
    assert first == words
    assert second.endswith(" left")


def test_what_was_measured_at_an_earlier_step_is_printed_with_its_number(tmp_path):
    with quiet(tmp_path) as journal:
        journal.write(100, {"rank": 34.1})
    stream = io.StringIO()
    with Journal(tmp_path, resume_step=100, stream=stream) as journal:
        journal.write(100, {"probe": 0.9})
        journal.write(120, {"loss": 0.4})
        journal.write(120, {"rank": 35.0})
        journal.write(120, {"loss": 0.4})
    first, second = stream.getvalue().splitlines()
    assert first.endswith("loss 0.4000  rank 34.1 (step 100)  probe 0.900 (step 100)")
    assert second.endswith("loss 0.4000  rank 35.0  probe 0.900 (step 100)")


def test_lines_for_people_come_at_intervals_and_at_the_end(tmp_path):
    stream = io.StringIO()
    with Journal(tmp_path, total_steps=25, print_every=10, stream=stream) as journal:
        for step in range(1, 26):
            journal.write(step, {"loss": 1.0})
    assert [line.split("/")[0].split()[1] for line in stream.getvalue().splitlines()] == ["10", "20", "25"]
    assert len(read_journal(tmp_path)) == 25


def test_without_a_journal_there_is_nothing_to_read(tmp_path):
    assert read_journal(tmp_path) == []
    assert read_events(tmp_path) == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (60, "1 min"), (3599, "59 min 59 s"), (3600, "1 h"), (90061, "1 d 1 h")]
)
def test_durations_are_put_in_two_units(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(("first", "kept"), [(20, [(10, 0.9), (20, 0.8), (30, 0.5)]), (0, [(30, 0.5)])])
def test_tensorboard_reads_every_value_once_after_a_run_went_on_or_began_again(first, kept, tmp_path, monkeypatch):
    monkeypatch.undo()  # the real one, which the other tests go without
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, values in ((0, {10: 0.9, 20: 0.8, 30: 0.7}), (first, {30: 0.5})):
        board = TensorBoard()
        board.start(small_config(), tmp_path, start)
        for step, value in values.items():
            board.step(step, {"loss": value})
        board.end(30)
        for number, path in enumerate(sorted((tmp_path / "tensorboard").glob("events*"), key=os.path.getmtime)):
            path.rename(path.with_name(f"events.out.tfevents.{number}"))  # runs of one second have no order by name

    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, pytest.approx(event.value)) for event in log.Scalars("loss")] == kept
