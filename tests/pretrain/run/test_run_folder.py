"""metrics.json and TensorBoard's events of a run that died and went on: each step once."""

from __future__ import annotations

import json

import pytest

from pretrain.run.run_folder import MetricsWriter, drop_later


def record(folder, steps, **options):
    writer = MetricsWriter(folder, **options)
    for step in steps:
        writer.write(step, {"loss": float(step)})
    writer.close()


def steps_of(folder):
    """The steps in metrics.json and those in the event files, as they stand there and as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    lines = [json.loads(line)["iteration"] for line in (folder / "metrics.json").read_text().splitlines()]
    raw = [
        event.step
        for path in folder.glob("events.out.tfevents.*")
        for event in EventFileLoader(str(path)).Load()
        if event.HasField("summary")
    ]
    shown = EventAccumulator(str(folder))
    shown.Reload()
    seen = [event.step for event in shown.Scalars("loss")] if "loss" in shown.Tags()["scalars"] else []
    assert sorted(raw) == sorted(seen) == lines
    return lines


@pytest.mark.parametrize("first, resumed", [(0, 0), (0, 2), (1, 1), (1, 3)])
def test_metrics_writer__what_the_checkpoint_knows_stays_and_the_rest_goes(tmp_path, first, resumed):
    record(tmp_path, range(first, first + 5))
    (tmp_path / "metrics.json").open("a").write('{"iteration": 9, "lo')  # killed while writing
    record(tmp_path, range(resumed + 1, 8), resume_iteration=resumed)
    assert steps_of(tmp_path) == list(range(first, 8))


def test_metrics_writer__a_run_that_died_before_its_first_checkpoint_leaves_nothing(tmp_path):
    record(tmp_path, range(0, 5))
    record(tmp_path, [0, 1])
    assert steps_of(tmp_path) == [0, 1]


def test_metrics_writer__resumed_twice(tmp_path):
    record(tmp_path, [1, 2, 3])
    record(tmp_path, [3, 4, 5], resume_iteration=2)
    record(tmp_path, [5, 6], resume_iteration=4)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_drop_later__a_half_written_event_is_dropped(tmp_path):
    record(tmp_path, [1, 2, 3])
    (events,) = tmp_path.glob("events.out.tfevents.*")
    events.write_bytes(events.read_bytes()[:-5])
    drop_later(tmp_path, 1)
    assert steps_of(tmp_path) == [1]


def test_metrics_writer__a_full_disk_is_named_with_its_folder(tmp_path, monkeypatch):
    writer = MetricsWriter(tmp_path)

    def no_room(*_args):
        raise OSError(28, "No space left on device")  # of a file object: without its name

    monkeypatch.setattr(writer._events, "add_scalar", no_room)
    with pytest.raises(OSError, match=r"No space left") as caught:
        writer.write(1, {"loss": 1.0})
    assert caught.value.filename == str(tmp_path)
    writer.close()
