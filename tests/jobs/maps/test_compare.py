"""Two runs compared: against plain numpy, whatever the order of objects and the size of blocks."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from jobs.cli.app import app
from jobs.errors import RefusedError
from jobs.maps import source
from jobs.maps.compare import compare_runs
from jobs.maps.comparison import write_comparison


@pytest.fixture
def before(make_content):
    return make_content(objects=90)


@pytest.fixture
def after(before):
    """The same objects, with other predictions and maps."""
    random = np.random.default_rng(5)
    maps = {
        name: values + random.normal(0, 0.5, values.shape) for name, values in before.maps.items()
    }
    logit = before.logit + random.normal(0, 1.0, before.logit.shape)
    entropy = {name: values * 1.1 for name, values in before.entropy.items()}
    status = before.status.copy()
    status[[8, 9]] = 2
    return before.but(name="tuned", maps=maps, logit=logit, entropy=entropy, status=status)


def rows_of(content, order):
    def taken(values):
        return {name: array[order] for name, array in values.items()}

    fields = {name: getattr(content, name)[order] for name in ("id", "ra", "dec", "label", "logit")}
    return content.but(
        **fields,
        status=content.status[order],
        maps=taken(content.maps),
        entropy=taken(content.entropy),
        columns=taken(content.columns),
    )


def statistic(found, quantity, group="all"):
    (entry,) = (e for e in found.statistics if (e.quantity, e.group) == (quantity, group))
    return entry


def test_a_run_is_like_itself(before, write_run):
    found = compare_runs(write_run(before), write_run(before))
    for entry in found.statistics:
        wanted = {"cosine": 1.0, "correlation": 1.0}.get(entry.quantity.rpartition("_")[2], 0.0)
        assert entry.change == pytest.approx(wanted, abs=1e-12), entry
        assert np.isnan(entry.p_value) or entry.p_value == 1.0
    for maps in found.maps.values():
        assert not maps.difference.any()
        np.testing.assert_array_equal(maps.before, maps.after)


def test_statistics_are_those_of_the_paired_numbers(before, after, write_run):
    found = compare_runs(write_run(before), write_run(after))
    good = (before.status == 1) & (after.status == 1)
    assert len(found.objects["id"]) == good.sum() == 86
    assert found.left_out["quarantined or pending in one of them"] == 4
    truth = np.array([before.classes.index(name) for name in before.label])[good]
    right = [(c.logit.argmax(axis=1)[good] == truth).astype(float) for c in (before, after)]
    entry = statistic(found, "accuracy")
    assert (entry.before, entry.after) == (right[0].mean(), right[1].mean())
    better, worse = (right[1] > right[0]).sum(), (right[1] < right[0]).sum()
    assert entry.p_value == stats.binomtest(int(better), int(better + worse)).pvalue
    one, other = (
        c.entropy["mutual_information"].astype("f4")[good].astype("f8") for c in (before, after)
    )
    entry = statistic(found, "mutual_information")
    assert entry.p_value == stats.wilcoxon(other - one, method="approx").pvalue
    low, high = stats.t.interval(0.95, len(one) - 1, (other - one).mean(), stats.sem(other - one))
    assert (entry.low, entry.high) == pytest.approx((low, high))
    for group in before.classes:
        assert statistic(found, "accuracy", group).objects == (before.label[good] == group).sum()


def test_maps_are_compared_where_they_explain_the_same_class(before, after, write_run):
    names = ("predicted", "label")
    found = compare_runs(write_run(before), write_run(after))
    assert {maps.target for maps in found.maps.values()} == {"label"}
    only = [c.but(targets=("predicted", "spiral")) for c in (before, after)]
    found = compare_runs(*(write_run(c) for c in only))
    good = (before.status == 1) & (after.status == 1)
    same = good & (before.logit.argmax(axis=1) == after.logit.argmax(axis=1))
    maps = found.maps["integrated_gradients"]
    assert maps.target == "predicted" == names[0]
    assert maps.number[0] == same.sum()
    one, other = (
        values / np.abs(values).sum(axis=(1, 2), keepdims=True)
        for values in (
            c.maps["integrated_gradients"][same, 0].astype("f4").astype("f8") for c in only
        )
    )
    np.testing.assert_allclose(maps.difference[0], (other - one).mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(maps.standard_error[0], stats.sem(other - one, axis=0), atol=1e-12)
    column = found.objects["integrated_gradients_rank_correlation"]
    wanted = [
        stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one, other, strict=True)
    ]
    np.testing.assert_allclose(column[np.isfinite(column)], wanted, atol=1e-12)
    moved = found.objects["integrated_gradients_moved"]
    wanted = np.abs(other - one).sum(axis=(1, 2)) / 2
    np.testing.assert_allclose(moved[np.isfinite(moved)], wanted, atol=1e-12)


def test_neither_the_order_of_objects_nor_the_blocks_matter(before, after, write_run, monkeypatch):
    first = compare_runs(write_run(before), write_run(after))
    order = np.random.default_rng(1).permutation(len(after.id))
    shuffled = compare_runs(write_run(before), write_run(rows_of(after, order)))
    monkeypatch.setattr(source, "MIN_BLOCKS", 1)
    whole = compare_runs(write_run(before), write_run(after))
    for other in (shuffled, whole):
        for name, values in first.objects.items():
            np.testing.assert_array_equal(values, other.objects[name], err_msg=name)
        for name, maps in first.maps.items():
            np.testing.assert_allclose(maps.difference, other.maps[name].difference, atol=1e-14)
    assert first.statistics == shuffled.statistics


def test_objects_of_one_run_alone_are_counted(before, after, write_run):
    some = rows_of(after, np.arange(20, 90))
    found = compare_runs(write_run(before), write_run(some))
    assert found.left_out["only in the run before"] == 20


def test_the_product_is_read_with_xarray_and_pandas(before, after, write_run, capsys):
    one, other = write_run(before), write_run(after)
    app(["compare", str(one), str(other)], standalone_mode=False)
    files = capsys.readouterr().out.split()
    folder = other / "compare"
    assert files[0] == str(folder / "compare.zarr")
    assert all((folder / file).exists() for file in files)
    found = compare_runs(one, other)
    tree = xr.open_datatree(folder / "compare.zarr", engine="zarr")
    maps = tree["occlusion"]
    assert maps["difference"].dims == ("group", "y", "x")
    np.testing.assert_array_equal(maps["difference"].values, found.maps["occlusion"].difference)
    table = pd.read_csv(folder / "objects.csv")
    assert table["id"].tolist() == [str(name) for name in found.objects["id"]]
    assert len(pd.read_csv(folder / "statistics.csv")) == len(found.statistics)
    lines = write_comparison(found, folder).lines
    entry = statistic(found, "accuracy")
    assert f"goes from {entry.before:.3f} to {entry.after:.3f}" in lines[1]


def test_no_other_folder_is_replaced(before, after, write_run, tmp_path):
    found = compare_runs(write_run(before), write_run(after))
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(RefusedError, match="is there and no comparison; give another --out"):
        write_comparison(found, out)
    assert (out / "thesis.txt").read_text() == "years of work"
    # An older comparison is.
    other = tmp_path / "compared"
    write_comparison(found, other)
    (other / "old.txt").touch()
    write_comparison(found, other)
    assert not (other / "old.txt").exists()


def test_runs_without_results_in_common_are_refused(before, after, write_run):
    lost = after.but(status=np.full_like(after.status, 2))
    with pytest.raises(RefusedError, match="no object has results in it and in"):
        compare_runs(write_run(before), write_run(lost))


def test_a_block_without_results_in_common_changes_nothing_else(
    before, after, write_run, monkeypatch
):
    status = after.status.copy()
    status[:40] = 2
    runs = write_run(before), write_run(after.but(status=status))
    whole = compare_runs(*runs)
    monkeypatch.setattr(source, "MIN_BLOCKS", 30)
    parts = compare_runs(*runs)
    assert parts.left_out == whole.left_out
    assert parts.objects["id"].tolist() == whole.objects["id"].tolist()


def test_what_can_not_be_compared_is_refused(before, after, write_run):
    run = write_run(before)
    with pytest.raises(RefusedError, match="not finished"):
        compare_runs(run, write_run(after, finished=False))
    renamed = after.but(classes=("smooth", "spiral", "edge_on"))
    with pytest.raises(RefusedError, match=r"its classes are smooth, spiral, edge_on"):
        compare_runs(run, write_run(renamed))
    others = after.but(id=np.array([f"K{n:04d}" for n in range(90)]))
    with pytest.raises(RefusedError, match="has no object of"):
        compare_runs(run, write_run(others))
