"""Which objects are chosen for labels: the same as by a plain sort, and what is refused."""

import csv
import io

import numpy as np
import pytest

from jobs.cli.app import app
from jobs.errors import RefusedError
from jobs.maps import source
from jobs.maps.select import select_objects, selection_csv
from jobs.survey.ids import read_ids


@pytest.fixture
def content(make_content):
    content = make_content(objects=200)
    scores = content.entropy["mutual_information"]
    scores[40:60] = scores[40]  # equal ones
    scores[7] = np.nan
    return content


def wanted(content, scores, count, exclude=()):
    rows = [
        row
        for row in range(len(scores))
        if content.status[row] == 1 and np.isfinite(scores[row]) and content.id[row] not in exclude
    ]
    best = sorted(rows, key=lambda row: (-scores[row], row))[:count]
    return [str(content.id[row]) for row in best]


def test_the_highest_come_first_and_of_equal_ones_the_first(content, write_run, monkeypatch):
    run = write_run(content)
    scores = content.entropy["mutual_information"].astype("f4")
    for blocks in (1, 32):
        monkeypatch.setattr(source, "MIN_BLOCKS", blocks)
        chosen = select_objects(run, "mutual_information", 60)
        assert [entry.id for entry in chosen] == wanted(content, scores, 60)
        assert [entry.rank for entry in chosen] == list(range(1, 61))
    place = {str(name): row for row, name in enumerate(content.id)}
    for entry in chosen:
        row = place[entry.id]
        assert entry.score == scores[row]
        assert (entry.ra, entry.dec) == (content.ra[row], content.dec[row])
        assert entry.predicted == content.classes[content.logit[row].argmax()]


def test_a_draw_takes_objects_as_often_as_their_scores_say(content, write_run):
    run = write_run(content)
    scores = content.entropy["mutual_information"].astype(float)
    usable = (content.status == 1) & np.isfinite(scores)
    place = {str(name): row for row, name in enumerate(content.id)}
    first = [
        place[entry.id]
        for seed in range(40)
        for entry in select_objects(run, "mutual_information", 5, draw=seed)
    ]
    shares = np.where(usable, scores, 0.0) / scores[usable].sum()
    likely = shares > np.median(shares[usable])
    assert np.mean(likely[first]) == pytest.approx(shares[likely].sum(), abs=0.08)


def test_a_draw_depends_on_its_seed_alone(content, write_run, monkeypatch):
    run = write_run(content)
    found = []
    for blocks in (1, 32):
        monkeypatch.setattr(source, "MIN_BLOCKS", blocks)
        found.append(select_objects(run, "mutual_information", 50, draw=3))
    assert found[0] == found[1]
    assert found[0] != select_objects(run, "mutual_information", 50, draw=4)
    # What is left when some are excluded keeps its order.
    excluded = {entry.id for entry in found[0][:10]}
    rest = select_objects(run, "mutual_information", 40, excluded, draw=3)
    assert [entry.id for entry in rest] == [entry.id for entry in found[0][10:]]


def test_objects_with_a_label_are_excluded(content, write_run, tmp_path):
    run = write_run(content)
    first = select_objects(run, "mutual_information", 30)
    (tmp_path / "first.csv").write_text(selection_csv(first))
    known = read_ids(tmp_path / "first.csv")
    second = select_objects(run, "mutual_information", 30, known)
    both = select_objects(run, "mutual_information", 60)
    assert [e.id for e in first] + [e.id for e in second] == [e.id for e in both]


@pytest.mark.parametrize(
    ("by", "score"),
    [
        ("entropy", lambda p: -(p * np.log(p)).sum(axis=1)),
        ("least_confidence", lambda p: 1 - p.max(axis=1)),
        ("margin", lambda p: 1 - (np.sort(p, axis=1)[:, -1] - np.sort(p, axis=1)[:, -2])),
    ],
)
def test_a_prediction_alone_has_scores_too(content, write_run, by, score):
    logit = content.logit.astype("f4").astype("f8")
    p = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
    chosen = select_objects(write_run(content), by, 20)
    assert [entry.id for entry in chosen] == wanted(content, score(p), 20)


def test_the_command_prints_a_table_or_writes_it(content, write_run, tmp_path, capsys):
    run, file = write_run(content), tmp_path / "next.csv"
    app(["select", str(run), "--n", "5"], standalone_mode=False)
    text = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 5
    assert all(row["label"] == "" for row in rows)
    app(["select", str(run), "--n", "5", "--out", str(file)], standalone_mode=False)
    assert capsys.readouterr().out == f"{file}\n"
    assert file.read_text() == text
    app(["select", str(run), "--n", "5", "--exclude", str(file)], standalone_mode=False)
    others = [row["id"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert not set(others) & set(read_ids(file))


def test_what_cant_be_chosen_is_refused_with_the_cure(content, write_run, tmp_path):
    run = write_run(content)
    with pytest.raises(RefusedError, match="did you mean 'mutual_information'"):
        select_objects(run, "mutual_infomation", 5)
    with pytest.raises(RefusedError, match=r"--n 500: .* has \d+ objects"):
        select_objects(run, "mutual_information", 500)
    unfinished = write_run(content, finished=False)
    with pytest.raises(RefusedError, match=r"not finished.*--partial"):
        select_objects(unfinished, "mutual_information", 5)
    assert len(select_objects(unfinished, "mutual_information", 5, partial=True)) == 5
    (tmp_path / "other.csv").write_text("name\nx\n")
    with pytest.raises(RefusedError, match="has no column id"):
        read_ids(tmp_path / "other.csv")
    with pytest.raises(RefusedError, match="can't be read as CSV"):
        read_ids(tmp_path / "absent.csv")
