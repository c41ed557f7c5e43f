from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from training.fit import FitSettings, fit
from training.networks import build
from training.tensorboard import EVENTS, events_of

SETTINGS = FitSettings(epochs=2, batch_size=16, tensorboard=True)


@pytest.fixture
def parts(easy_examples):
    return easy_examples(40, seed=1), easy_examples(20, seed=2)


def scalars(path):
    """Read what TensorBoard would show: {(tag, step): value}."""
    found = {}
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            number = value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value
            found[value.tag, event.step] = number
    return found


def test_tensorboard_reads_the_history(parts, tmp_path):
    result = fit(build("occulta:small_cnn", 2, 1, {"width": 4}), *parts, SETTINGS, tmp_path)
    found = scalars(tmp_path / EVENTS)
    for record in result.history:
        assert found["loss/train", record.epoch] == pytest.approx(record.train_loss)
        assert found["loss/validation", record.epoch] == pytest.approx(record.validation_loss)
        assert found["loss/still_train", record.epoch] == pytest.approx(record.still_train_loss)
        assert found["accuracy/validation", record.epoch] == pytest.approx(
            record.validation_accuracy
        )
        assert found["gap", record.epoch] == pytest.approx(record.gap)
    assert len(found) == 2 * 9
    assert (tmp_path / EVENTS).read_bytes() == events_of(result.history)


def test_no_events_unless_asked(parts, tmp_path):
    settings = replace(SETTINGS, tensorboard=False)
    fit(build("occulta:small_cnn", 2, 1, {"width": 4}), *parts, settings, tmp_path)
    assert not (tmp_path / EVENTS).exists()


def test_without_the_package_a_fit_is_refused_before_it_begins(parts, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    with pytest.raises(ValueError, match=r"pip install 'occulta\[tensorboard\]'"):
        fit(build("occulta:small_cnn", 2, 1, {"width": 4}), *parts, SETTINGS, tmp_path)
    assert list(tmp_path.iterdir()) == []
