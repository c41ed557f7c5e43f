from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from training.augmentation import NO_AUGMENTATION
from training.checkpoints import network_digest
from training.fit import Examples, FitSettings, fit, predict_logits
from training.fit_state import learning_rate_at
from training.metrics import accuracy
from training.networks import build

SETTINGS = FitSettings(epochs=4, batch_size=16, seed=5)


class StopHereError(Exception):
    pass


def stop_after(epoch):
    def callback(record):
        if record.epoch == epoch:
            raise StopHereError

    return callback


def new_network(seed=0):
    torch.manual_seed(seed)
    return build("occulta:small_cnn", 2, 1, {"width": 4})


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def parts(easy_examples):
    return easy_examples(100, seed=1), easy_examples(40, seed=2)


@pytest.fixture
def undisturbed(parts, tmp_path):
    network = new_network()
    result = fit(network, *parts, SETTINGS, tmp_path / "undisturbed")
    return network_digest(network), result


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_stopped_fit_goes_on_to_the_same_bits(parts, undisturbed, tmp_path, stop):
    folder = tmp_path / "stopped"
    with pytest.raises(StopHereError):
        fit(new_network(), *parts, SETTINGS, folder, on_epoch=stop_after(stop))
    # What a process killed in the middle of a write leaves behind.
    (folder / ".checkpoint.pt.half.tmp").write_bytes((folder / "checkpoint.pt").read_bytes()[:1000])
    torch.manual_seed(99)
    network = build("occulta:small_cnn", 2, 1, {"width": 4})
    seen = []
    result = fit(network, *parts, SETTINGS, folder, on_epoch=lambda r: seen.append(r.epoch))
    assert seen == list(range(stop + 1, 5))
    assert network_digest(network) == undisturbed[0]
    assert [replace(r, seconds=0.0) for r in result.history] == [
        replace(r, seconds=0.0) for r in undisturbed[1].history
    ]


def test_a_fit_killed_in_its_first_epoch_starts_from_the_same_weights(
    parts, undisturbed, tmp_path, monkeypatch
):
    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.fit.augment", kill)
        with pytest.raises(KeyboardInterrupt):
            fit(new_network(), *parts, SETTINGS, tmp_path / "killed")
    network = new_network(seed=77)
    fit(network, *parts, SETTINGS, tmp_path / "killed")
    assert network_digest(network) == undisturbed[0]


def test_a_finished_fit_called_again_trains_no_more(parts, undisturbed, tmp_path):
    network = new_network(seed=3)
    result = fit(network, *parts, SETTINGS, tmp_path / "undisturbed", on_epoch=stop_after(1))
    assert network_digest(network) == undisturbed[0]
    assert result == undisturbed[1]


def test_the_caller_s_random_numbers_are_left_alone(parts, tmp_path):
    network = new_network()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    fit(network, *parts, replace(SETTINGS, epochs=1), tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_it_learns_an_easy_task(easy_examples, tmp_path):
    network = new_network()
    fit(network, easy_examples(200, 1), easy_examples(50, 2), SETTINGS, tmp_path)
    held_out = easy_examples(200, 3)
    predicted = predict_logits(network, held_out.images).argmax(1)
    assert accuracy(held_out.labels, predicted) > 0.9


def test_history_is_a_table_of_the_epochs(undisturbed, tmp_path):
    with (tmp_path / "undisturbed" / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    for row, record in zip(rows, undisturbed[1].history, strict=True):
        assert float(row["validation_loss"]) == record.validation_loss
        assert 0.0 <= float(row["train_accuracy"]) <= 1.0
    assert files(tmp_path / "undisturbed") == ["checkpoint.pt", "history.csv"]


def test_best_weights_come_back_after_early_stopping(parts, tmp_path):
    """A validation set with the labels swapped gets worse as training gets better."""
    train, validation = parts
    swapped = Examples(validation.images, 1 - validation.labels)
    settings = replace(SETTINGS, epochs=9, patience=2, schedule="constant")
    digests = []
    network = new_network()
    result = fit(
        network, train, swapped, settings, tmp_path,
        on_epoch=lambda _: digests.append(network_digest(network)),
    )  # fmt: skip
    assert result.stopped_early
    assert len(result.history) == result.best_epoch + 2 < 9
    losses = [record.validation_loss for record in result.history]
    assert int(np.argmin(losses)) + 1 == result.best_epoch
    assert network_digest(network) == digests[result.best_epoch - 1]
    logits = torch.from_numpy(predict_logits(network, swapped.images))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(swapped.labels))
    assert float(loss) == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "name"), [({"learning_rate": 0.1}, "learning_rate"), ({"seed": 6}, "seed")]
)
def test_a_folder_of_another_fit_is_refused(parts, undisturbed, tmp_path, change, name):
    with pytest.raises(ValueError, match=f"belongs to another fit: {name} changed"):
        fit(new_network(), *parts, replace(SETTINGS, **change), tmp_path / "undisturbed")


def test_other_data_or_another_network_is_refused(parts, undisturbed, tmp_path):
    train, validation = parts
    with pytest.raises(ValueError, match="training set changed"):
        fit(new_network(), validation, validation, SETTINGS, tmp_path / "undisturbed")
    wide = build("occulta:small_cnn", 2, 1, {"width": 5})
    with pytest.raises(ValueError, match="network changed"):
        fit(wide, train, validation, SETTINGS, tmp_path / "undisturbed")


def test_a_damaged_checkpoint_is_refused(parts, undisturbed, tmp_path):
    path = tmp_path / "undisturbed" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged; remove it"):
        fit(new_network(), *parts, SETTINGS, tmp_path / "undisturbed")


def test_a_loss_that_is_not_finite_names_its_place(parts, tmp_path):
    train, validation = parts
    train.images[:] = np.nan
    with pytest.raises(FloatingPointError, match="loss is nan at epoch 1, step 1; lower"):
        fit(new_network(), train, validation, SETTINGS, tmp_path)


def test_a_batch_of_one_is_never_left_over(easy_examples, tmp_path):
    settings = replace(SETTINGS, epochs=1, batch_size=16)
    fit(new_network(), easy_examples(17, 1), easy_examples(4, 2), settings, tmp_path)


def test_predictions_do_not_depend_on_mode_or_batch(parts):
    network = new_network().train()
    images = parts[0].images
    whole = predict_logits(network, images)
    assert whole.shape == (100, 2)
    assert network.training
    np.testing.assert_allclose(predict_logits(network, images, batch_size=7), whole, atol=1e-5)
    np.testing.assert_allclose(predict_logits(network.eval(), images), whole, atol=1e-5)


def test_learning_rate_schedules():
    one_cycle = [learning_rate_at(FitSettings(learning_rate=1.0), s, 100) for s in range(100)]
    assert one_cycle[0] == pytest.approx(0.04)
    assert int(np.argmax(one_cycle)) == 30
    assert one_cycle[-1] < 0.001
    cosine = FitSettings(learning_rate=1.0, schedule="cosine")
    assert learning_rate_at(cosine, 50, 100) == pytest.approx(0.5)
    constant = FitSettings(learning_rate=1.0, schedule="constant")
    assert learning_rate_at(constant, 99, 100) == 1.0


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (np.zeros((20, 1, 32, 32)), np.zeros(20, int), "training images are float64"),
        (np.zeros((20, 32, 32), np.float32), np.zeros(20, int), r"give float32 \(N, C, H, W\)"),
        (np.zeros((20, 1, 32, 32), np.float32), np.zeros(19, int), "give one integer for each"),
        (np.zeros((20, 1, 32, 32), np.float32), np.zeros(20), "give one integer for each"),
        (np.zeros((1, 1, 32, 32), np.float32), np.zeros(1, int), "has 1 images, it needs"),
    ],
)
def test_what_is_no_training_data_is_refused(parts, tmp_path, images, labels, match):
    with pytest.raises(ValueError, match=match):
        fit(new_network(), Examples(images, labels), parts[1], SETTINGS, tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"learning_rate": -1.0}, {"schedule": "step"}, {"label_smoothing": 1.0}],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=f"fit settings: {next(iter(change))} = "):
        replace(SETTINGS, **change)


def test_settings_without_augmentation_train_on_the_images_themselves(parts, tmp_path, monkeypatch):
    shown = []

    def watch(images, augmentation, generator):
        shown.append(augmentation)
        return images

    monkeypatch.setattr("training.fit.augment", watch)
    settings = replace(SETTINGS, epochs=1, augmentation=NO_AUGMENTATION)
    fit(new_network(), *parts, settings, tmp_path)
    assert set(shown) == {NO_AUGMENTATION}


def test_read_only_arrays_are_data_too(parts, tmp_path):
    for part in parts:
        part.images.flags.writeable = False
        part.labels.flags.writeable = False
    network = new_network()
    fit(network, *parts, replace(SETTINGS, epochs=1), tmp_path)
    assert predict_logits(network, parts[1].images).shape == (40, 2)


def test_tensors_train_like_arrays(parts, undisturbed, tmp_path):
    tensors = [Examples(torch.tensor(part.images), torch.tensor(part.labels)) for part in parts]
    network = new_network()
    fit(network, *tensors, SETTINGS, tmp_path / "tensors")
    assert network_digest(network) == undisturbed[0]
