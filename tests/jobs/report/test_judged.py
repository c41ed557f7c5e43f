"""What the report says of how good a trained network is."""

import json

import numpy as np
import pytest

from cluster.place import open_place
from jobs.errors import RefusedError
from jobs.report.judged import read_judgement
from training.domain_gap import domain_auc
from training.judgement import judge_classes, judge_numbers

CLASSES = ("smooth", "spiral")


def judge(shift, objects, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, objects)
    score = random.standard_normal(objects) + shift * (2 * labels - 1)
    return judge_classes(labels, np.stack([-score, score], axis=1), CLASSES, resamples=50)


def write_card(folder, metrics, classes=CLASSES):
    card = {"classes": classes, "metrics": {"best_epoch": 3, "temperature": 1.0, **metrics}}
    (folder / "card.json").write_text(json.dumps(card, sort_keys=True))
    return open_place(str(folder))


def test_the_table_has_the_numbers_of_the_card_with_their_intervals(tmp_path):
    test, other = judge(1.0, 400, seed=1), judge(0.2, 300, seed=2)
    random = np.random.default_rng(0)
    gap = domain_auc(random.standard_normal((50, 2)), random.standard_normal((50, 2)) + 2)
    other["domain_auc"] = vars(gap)
    found = read_judgement(write_card(tmp_path, {"b": other, "test": test}))
    assert found.parts == ("test set", "b")
    assert found.objects == (400, 300)
    rows = dict(found.rows)
    accuracy = test["accuracy"]
    assert rows["accuracy"][0] == (
        accuracy["value"],
        f"{accuracy['value']:.3f} ({accuracy['low']:.3f} to {accuracy['high']:.3f})",
    )
    assert rows["area under the ROC curve, spiral"][1][0] == other["roc_auc"]["spiral"]["value"]
    told = rows["told from the test set: area under the ROC curve"]
    assert told[0][1] == "–"
    assert told[1][0] == gap.value
    counts = [[cell[0] for cell in cells] for _, cells in found.confusions[1].rows]
    assert counts == other["confusion"]
    points = 100 * (accuracy["value"] - other["accuracy"]["value"])
    assert f"{points:.0f} points less" in found.reading
    assert f"with an AUC of {gap.value:.2f}" in found.reading


def test_numbers_have_no_accuracy_and_no_confusion(tmp_path):
    wanted = np.arange(20.0).reshape(10, 2)
    judged = judge_numbers(wanted, wanted + 0.1, ("mass", "redshift"), resamples=20)
    found = read_judgement(write_card(tmp_path, {"test": judged}, ("mass", "redshift")))
    assert dict(found.rows)["root mean squared error, mass"][0][0] == pytest.approx(0.1)
    assert not found.confusions
    assert found.reading == ""


def test_a_network_that_nothing_judged_has_no_table(tmp_path):
    assert read_judgement(write_card(tmp_path, {})) is None
    assert read_judgement(open_place(str(tmp_path / "elsewhere"))) is None


def test_a_damaged_card_is_told_with_its_cure(tmp_path):
    (tmp_path / "card.json").write_text('{"classes": [')
    with pytest.raises(RefusedError, match=r"card\.json: can't be read .* --repair"):
        read_judgement(open_place(str(tmp_path)))
