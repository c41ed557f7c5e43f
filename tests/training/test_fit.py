from __future__ import annotations

import csv
import json
import threading
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from training.augmentation import NO_AUGMENTATION
from training.checkpoints import network_digest
from training.fit import EpochRecord, Examples, FitSettings, fit, predict_logits
from training.fit_settings import learning_rate_at
from training.fit_state import FitState
from training.metrics import accuracy
from training.networks import build
from training.optimizers import Freedom, make_optimizer

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
        patch.setattr("training.steps.augment", kill)
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
    predicted = predict_logits(network, held_out).argmax(1)
    assert accuracy(held_out.labels, predicted) > 0.9


def test_history_is_a_table_of_the_epochs(undisturbed, tmp_path):
    with (tmp_path / "undisturbed" / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    for row, record in zip(rows, undisturbed[1].history, strict=True):
        assert float(row["validation_loss"]) == record.validation_loss
        assert 0.0 <= float(row["train_accuracy"]) <= 1.0
    assert files(tmp_path / "undisturbed") == ["checkpoint.pt", "history.csv", "history.jsonl"]


def test_history_is_also_lines_of_json(undisturbed, tmp_path):
    lines = (tmp_path / "undisturbed" / "history.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["validation_loss"] for record in records] == [
        record.validation_loss for record in undisturbed[1].history
    ]


def test_the_gap_compares_losses_that_are_evaluated_alike(parts, undisturbed, tmp_path):
    """On all training objects: the loss of the network itself, without views and dropout."""
    network = new_network()
    result = fit(network, *parts, SETTINGS, tmp_path / "undisturbed")
    best = result.history[result.best_epoch - 1]
    losses = []
    for part in parts:
        logits = torch.from_numpy(predict_logits(network, part))
        losses.append(
            float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(part.labels)))
        )
    assert best.still_train_loss == pytest.approx(losses[0], rel=1e-5)
    assert best.gap == pytest.approx(losses[1] - losses[0], rel=1e-4, abs=1e-6)


def test_the_history_tells_the_gradient_s_norm(parts, tmp_path):
    """Of a single step over all data, without what is random: it is the gradient of the loss."""
    train, validation = parts
    settings = FitSettings(epochs=1, batch_size=100, augmentation=NO_AUGMENTATION)
    options = {"width": 4, "dropout": 0.0}
    torch.manual_seed(0)
    network = build("occulta:small_cnn", 2, 1, options)
    torch.manual_seed(0)
    same = build("occulta:small_cnn", 2, 1, options)
    logits = same(torch.from_numpy(train.images))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(train.labels)).backward()
    norm = torch.cat([part.grad.flatten() for part in same.parameters()]).norm()
    record = fit(network, train, validation, settings, tmp_path).history[0]
    assert record.gradient_norm == pytest.approx(float(norm), rel=1e-4)


def test_long_gradients_are_cut(parts, tmp_path):
    """With plain SGD, the step is as long as the rate times the greatest norm."""
    settings = FitSettings(
        epochs=1, batch_size=100, optimizer="sgd", momentum=0.0, weight_decay=0.0,
        schedule="constant", learning_rate=0.5, max_gradient_norm=0.01,
    )  # fmt: skip
    network = new_network()
    before = [part.detach().clone() for part in network.parameters()]
    fit(network, *parts, settings, tmp_path)
    moved = [part.detach() - old for part, old in zip(network.parameters(), before, strict=True)]
    length = torch.cat([part.flatten() for part in moved]).norm()
    assert float(length) == pytest.approx(0.005, rel=1e-3)


def test_weights_decay_and_biases_and_norms_do_not():
    network = new_network()
    optimizer = make_optimizer(network, replace(SETTINGS, weight_decay=0.3), Freedom())
    for group in optimizer.param_groups:
        assert {part.ndim > 1 for part in group["params"]} == {group["weight_decay"] == 0.3}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(
        list(network.parameters())
    )


@dataclass
class Memory:
    """A store that fails at one of its writes, and counts them."""

    fails_at: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    checkpoints: int = 0

    def read(self, name):
        return self.files.get(name)

    def write(self, name, content):
        if name == "checkpoint.pt":
            self.checkpoints += 1
            if self.checkpoints == self.fails_at:
                raise StopHereError
        self.files[name] = content


@pytest.mark.parametrize("fails_at", [2, 4, 7])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_fit_killed_within_an_epoch_goes_on_to_the_same_bits(
    parts, tmp_path, fails_at, optimizer
):
    """Epochs have 7 steps and so 4 checkpoints; the store keeps what was written before."""
    settings = replace(SETTINGS, epochs=2, optimizer=optimizer)
    network = new_network()
    whole = fit(network, *parts, settings, tmp_path)
    settings = replace(settings, checkpoint_steps=2)
    store = Memory(fails_at)
    with pytest.raises(StopHereError):
        fit(new_network(), *parts, settings, store)
    store.fails_at = 0
    again = new_network(seed=9)
    result = fit(again, *parts, settings, store)
    assert store.checkpoints == 10  # the first one, 4 in each epoch, and the one that failed
    assert network_digest(again) == network_digest(network)
    assert [replace(r, seconds=0.0) for r in result.history] == [
        replace(r, seconds=0.0) for r in whole.history
    ]


@dataclass
class Reading:
    """Examples that are read when they are taken, and fail at one batch."""

    inner: Examples
    fails_at: int = 0
    taken: int = 0

    def __len__(self):
        return len(self.inner)

    def take(self, rows):
        self.taken += 1
        if self.taken == self.fails_at:
            raise OSError("no such shard")
        return self.inner.take(rows)

    def targets(self):
        return self.inner.targets()

    def digest(self):
        return self.inner.digest()

    def check(self, part, least):
        self.inner.check(part, least)


def test_what_is_read_in_pieces_trains_like_what_is_in_memory(parts, undisturbed, tmp_path):
    network = new_network()
    fit(network, *(Reading(part) for part in parts), SETTINGS, tmp_path / "read")
    assert network_digest(network) == undisturbed[0]


def test_an_error_of_the_reader_ends_the_fit_and_its_thread(parts, tmp_path):
    train, validation = parts
    with pytest.raises(OSError, match="no such shard"):
        fit(new_network(), Reading(train, fails_at=3), validation, SETTINGS, tmp_path)
    assert "read-ahead" not in {thread.name for thread in threading.enumerate()}


def test_half_precision_trains_on_the_cpu_and_float16_is_refused_there(parts, tmp_path):
    network = new_network()
    settings = replace(SETTINGS, epochs=3, precision="bfloat16")
    result = fit(network, *parts, settings, tmp_path / "bfloat16")
    assert max(record.validation_accuracy for record in result.history) > 0.9
    assert {part.dtype for part in network.parameters()} == {torch.float32}
    again = new_network()
    fit(again, *parts, settings, tmp_path / "again")
    assert network_digest(again) == network_digest(network)
    with pytest.raises(ValueError, match="float16' needs a GPU"):
        fit(new_network(), *parts, replace(SETTINGS, precision="float16"), tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_float16_goes_on_with_its_scale(parts, tmp_path):
    settings = replace(SETTINGS, precision="float16")
    with pytest.raises(StopHereError):
        fit(new_network().cuda(), *parts, settings, tmp_path, on_epoch=stop_after(2))
    result = fit(new_network().cuda(), *parts, settings, tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["scaler"]["scale"] > 1.0
    assert result.history[-1].validation_accuracy > 0.9


def test_a_gradient_that_is_not_finite_names_its_place(parts, tmp_path):
    class Cliff(torch.nn.Module):
        """Its value is finite, its slope at 0 is not."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, 2))

        def forward(self, x_NCHW):
            return self.weight.abs().sqrt().expand(len(x_NCHW), 2)

    with pytest.raises(FloatingPointError, match="gradient's norm is nan at epoch 1, step 1"):
        fit(Cliff(), *parts, SETTINGS, tmp_path)


@pytest.mark.parametrize("loss", ["multinomial", "mean_squared_error", "dirichlet_multinomial"])
def test_votes_and_numbers_can_be_learnt(parts, tmp_path, loss):
    def with_targets(part):
        votes = np.stack([8 - 7 * part.labels, 1 + 7 * part.labels], axis=1)
        return Examples(part.images, votes if "multinomial" in loss else votes / 3.0)

    settings = replace(SETTINGS, epochs=6, loss=loss, patience=6)
    result = fit(new_network(), *map(with_targets, parts), settings, tmp_path)
    assert result.loss["loss"] == loss
    best = result.history[result.best_epoch - 1]
    assert best.validation_loss < 0.8 * result.history[0].validation_loss
    assert best.validation_accuracy > 0.5


@pytest.mark.parametrize(("monitor", "best"), [("validation_loss", 2), ("validation_accuracy", 1)])
def test_the_monitor_decides_which_epoch_is_best(monitor, best):
    settings = FitSettings(monitor=monitor, patience=2)
    network = torch.nn.Linear(1, 1)
    optimizer = make_optimizer(network, settings, Freedom())
    state = FitState.start(network, optimizer, torch.amp.GradScaler("cpu", enabled=False), {})
    for epoch, loss, share in ((1, 0.5, 0.9), (2, 0.4, 0.8), (3, 0.4, 0.9)):
        torch.nn.init.constant_(network.weight, epoch)
        state.add(EpochRecord(epoch, 0.0, loss, 0.0, share, 0.0, 0.0, 0.0, 0.0, 0.0), settings)
    assert state.best_epoch == best
    assert state.finished(settings) == (best == 1)
    state.use_best_weights()
    assert float(network.weight.detach()) == best


def test_what_is_frozen_stays_as_it_was(parts, tmp_path):
    network = new_network()
    before = {name: part.clone() for name, part in network.state_dict().items()}
    rates = {name: 0.0 for name, _ in network.named_parameters() if name.startswith("features.")}
    rates["head.1.weight"] = 1e-6
    fit(network, *parts, SETTINGS, tmp_path, freedom=Freedom(rates, ("features",)))
    moved = {
        name: float((part - before[name]).abs().max())
        for name, part in network.state_dict().items()
    }
    assert {name for name, far in moved.items() if far == 0.0} == {
        name for name in before if name.startswith("features.")
    }
    assert moved["head.1.weight"] < 1e-5 < 1e-3 < moved["head.4.weight"]


def test_parts_that_a_network_does_not_have_are_refused(parts, tmp_path):
    with pytest.raises(ValueError, match="the network has no 'stem'"):
        fit(new_network(), *parts, SETTINGS, tmp_path, freedom=Freedom(resting=("stem",)))
    rates = {name: 0.0 for name, _ in new_network().named_parameters()}
    with pytest.raises(ValueError, match="all of the network is frozen"):
        fit(new_network(), *parts, SETTINGS, tmp_path, freedom=Freedom(rates))


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
    logits = torch.from_numpy(predict_logits(network, swapped))
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
    whole = predict_logits(network, parts[0])
    assert whole.shape == (100, 2)
    assert network.training
    np.testing.assert_allclose(predict_logits(network, parts[0], batch_size=7), whole, atol=1e-5)
    np.testing.assert_allclose(predict_logits(network.eval(), parts[0]), whole, atol=1e-5)


def test_learning_rate_schedules():
    one_cycle = [learning_rate_at(FitSettings(learning_rate=1.0), s, 100) for s in range(100)]
    assert one_cycle[0] == pytest.approx(0.04)
    assert int(np.argmax(one_cycle)) == 30
    assert one_cycle[-1] < 0.001
    cosine = FitSettings(learning_rate=1.0, schedule="cosine")
    assert learning_rate_at(cosine, 50, 100) == pytest.approx(0.5)
    constant = FitSettings(learning_rate=1.0, schedule="constant")
    assert learning_rate_at(constant, 99, 100) == 1.0
    step = FitSettings(learning_rate=1.0, schedule="step", warm_up=0.1)
    assert learning_rate_at(step, 0, 100) == pytest.approx(0.04)
    assert learning_rate_at(step, 5, 100) == pytest.approx(0.52)
    rates = [learning_rate_at(step, s, 100) for s in (10, 49, 50, 74, 75, 99)]
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (np.zeros((20, 1, 32, 32)), np.zeros(20, int), "training images are float64"),
        (np.zeros((20, 32, 32), np.float32), np.zeros(20, int), r"give float32 \(N, C, H, W\)"),
        (np.zeros((20, 1, 32, 32), np.float32), np.zeros(19, int), "20 images and 19 labels"),
        (np.zeros((20, 1, 32, 32), np.float32), np.zeros(20), "takes one integer for each object"),
        (np.zeros((1, 1, 32, 32), np.float32), np.zeros(1, int), "has 1 images, it needs"),
    ],
)
def test_what_is_no_training_data_is_refused(parts, tmp_path, images, labels, match):
    with pytest.raises(ValueError, match=match):
        fit(new_network(), Examples(images, labels), parts[1], SETTINGS, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"learning_rate": -1.0},
        {"schedule": "linear"},
        {"label_smoothing": 1.0},
        {"max_gradient_norm": 0.0},
        {"warm_up": 1.0},
        {"class_weights": (1.0, -1.0)},
        {"questions": (2,)},
        {"class_weights": "balanced", "loss": "multinomial"},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=f"fit settings: {next(iter(change))} = "):
        replace(SETTINGS, **change)


def test_settings_without_augmentation_train_on_the_images_themselves(parts, tmp_path, monkeypatch):
    shown = []

    def watch(images, augmentation, *_):
        shown.append(augmentation)
        return images

    monkeypatch.setattr("training.steps.augment", watch)
    settings = replace(SETTINGS, epochs=1, augmentation=NO_AUGMENTATION)
    fit(new_network(), *parts, settings, tmp_path)
    assert set(shown) == {NO_AUGMENTATION}


def test_read_only_arrays_are_data_too(parts, tmp_path):
    for part in parts:
        part.images.flags.writeable = False
        part.labels.flags.writeable = False
    network = new_network()
    fit(network, *parts, replace(SETTINGS, epochs=1), tmp_path)
    assert predict_logits(network, parts[1]).shape == (40, 2)


def test_tensors_train_like_arrays(parts, undisturbed, tmp_path):
    tensors = [Examples(torch.tensor(part.images), torch.tensor(part.labels)) for part in parts]
    network = new_network()
    fit(network, *tensors, SETTINGS, tmp_path / "tensors")
    assert network_digest(network) == undisturbed[0]
