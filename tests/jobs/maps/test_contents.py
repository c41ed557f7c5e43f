"""What is found in stores whose methods nobody here knows by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from astropy.io import fits

from attribution.occlusion import Occlusion
from jobs.errors import RefusedError
from jobs.maps import aggregate_maps, build_maps, read_store
from jobs.maps.contents import find_maps, find_quantities
from jobs.maps.source import open_source
from jobs.specs.maps import MapsSpec

Make, Write = Callable[..., Any], Callable[..., Path]
SPEC = MapsSpec(nside=1, min_count=2)
WINDOWS = {"window": [6, 6], "stride": [4, 4], "image_shape": [3, 12, 12]}


def put(
    root: zarr.Group, name: str, values: np.ndarray, dims: tuple[str, ...], **attributes: Any
) -> None:
    array = root.create_array(
        name, data=values, dimension_names=("object", *dims), attributes=attributes
    )
    assert array.shape == values.shape


def store(tmp_path: Path) -> zarr.Group:
    """Return a store with one array of every sort."""
    root = zarr.open_group(tmp_path / "results.zarr", mode="w")
    f4, i4 = np.zeros(1, "f4"), np.zeros(1, "i4")
    maps = ("target", "y", "x")
    window = ("window_y", "window_x")
    for name, dims, values, attributes in (
        ("catalogue/map", ("y", "x"), f4, {}),
        ("alone/map", ("y", "x"), f4, {"long_name": "a map", "units": "nat"}),
        ("kept/attribution", ("target", "channel", "y", "x"), f4, {}),
        ("kept/std", maps, f4, {}),
        ("two/mean", maps, f4, {}),
        ("two/std", maps, f4, {}),
        ("two/features", ("target", "feature", "y", "x"), f4, {}),
        ("hidden/grid", ("target", *window), f4, WINDOWS),
        ("hidden/unknown_windows", window, f4, {}),
        ("hidden/winner", window, i4, WINDOWS),
        ("mc_dropout/predictive_entropy", (), f4, {"units": "nat"}),
        ("views/entropy", (), f4, {"units": "nat"}),
        ("views/count", (), i4, {}),
        ("summary/two/gini", ("target",), f4, {}),
    ):
        put(root, name, values.reshape((1,) * (1 + len(dims))), dims, **attributes)
    return root


def test_maps_are_found_by_their_dimensions(tmp_path: Path) -> None:
    found = find_maps(store(tmp_path))
    assert list(found) == ["alone", "hidden", "kept", "kept_std", "two_mean", "two_std"]
    assert (found["alone"].long_name, found["alone"].units) == ("a map", "nat")
    assert [name for name, array in found.items() if array.explains] == ["alone", "hidden", "kept"]
    assert [name for name, array in found.items() if not array.targeted] == ["alone"]
    assert found["hidden"].windows is not None
    assert found["hidden"].windows.image_shape == (12, 12)
    assert found["kept_std"].path == "kept/std"
    assert found["kept_std"].long_name == "kept std"


def test_maps_of_classes_are_found(tmp_path: Path) -> None:
    assert list(find_maps(store(tmp_path), kinds="iu")) == ["hidden_winner"]


def test_numbers_per_object_are_found(tmp_path: Path) -> None:
    found = find_quantities(store(tmp_path))
    assert list(found) == ["predictive_entropy", "views_entropy", "concentration_two"]
    assert found["views_entropy"].axis_label == "mean views entropy [nat]"
    assert found["concentration_two"].axis_label == "mean concentration of two (Gini)"


@pytest.fixture
def content(make_content: Make) -> Any:
    return make_content()


def test_new_methods_are_stacked_and_mapped(content: Any, write_run: Write) -> None:
    run = write_run(content)
    random = np.random.default_rng(2)
    complete = content.status == 1
    plain, kept = random.normal(size=(50, 12, 12)), random.normal(size=(50, 2, 3, 12, 12))
    grid, entropy = random.normal(size=(50, 3, 3)), random.uniform(size=50)
    for values in (plain, kept, grid, entropy):
        values[~complete] = np.nan
    root = zarr.open_group(run / "results.zarr", mode="r+", use_consolidated=False)
    put(root, "new/map", plain, ("y", "x"), units="nat", long_name="new map")
    put(root, "both/mean", kept, ("target", "channel", "y", "x"))
    put(root, "both/std", np.abs(kept), ("target", "channel", "y", "x"))
    put(root, "response/layer", grid, ("window_y", "window_x"), **WINDOWS)
    put(root, "views/entropy", entropy, (), units="nat")
    zarr.consolidate_metadata(root.store)
    product = build_maps(run, SPEC)
    assert read_store(product.path).stacks.keys() == product.stacks.keys()
    chosen = complete & (content.label == "spiral")
    expanded = Occlusion.expand(grid, image_shape=(12, 12), window=(6, 6), stride=(4, 4))
    for name, maps in (
        ("new", plain),
        ("both_mean", kept[:, 0].sum(axis=1)),
        ("both_std", np.abs(kept)[:, 0].sum(axis=1)),
        ("response", expanded),
    ):
        stack = product.stacks[name]
        expected = maps[chosen].mean(axis=0)
        np.testing.assert_allclose(stack.mean[stack.groups.index("spiral")], expected, atol=1e-12)
        assert (product.path / f"mean_attribution_{name}.png").exists()
    assert (product.stacks["new"].units, product.stacks["new"].target) == ("nat", "")
    means = product.sky.means["views_entropy"]
    assert np.average(means.mean, weights=means.number) == pytest.approx(entropy[complete].mean())
    gini = product.sky.means["concentration_occlusion"]
    stored = np.asarray(root["summary/occlusion/gini"])[complete, 0]
    assert np.average(gini.mean, weights=gini.number) == pytest.approx(stored.mean())
    with fits.open(product.fits) as hdus:
        assert hdus[1].columns["VIEWS_ENTROPY"].unit == "nat"
    assert (product.path / "views_entropy.png").exists()


def test_methods_may_have_different_first_targets(content: Any, write_run: Write) -> None:
    """An object without a label has no map for it, which is no damage."""
    run = write_run(content)
    root = zarr.open_group(run / "results.zarr", mode="r+", use_consolidated=False)
    content.label[:10] = ""
    label = root["catalogue/label"]
    label[:10] = np.full(10, "", dtype=np.dtypes.StringDType())
    maps = np.ones((50, 1, 12, 12))
    maps[:10] = np.nan
    maps[content.status != 1] = np.nan
    put(root, "new/attribution", maps, ("target", "y", "x"))
    names = root.create_array("new/target", shape=(1,), dtype="string", dimension_names=("target",))
    names[:] = np.array(["label"], dtype=np.dtypes.StringDType())
    zarr.consolidate_metadata(root.store)
    product = aggregate_maps(run, MapsSpec(nside=1, group_by="predicted"))
    complete = content.status == 1
    assert product.stacks["new"].number.sum() == complete[10:].sum()
    assert product.stacks["integrated_gradients"].number.sum() == complete.sum()


def test_an_unfinished_run_has_what_its_ledger_says(content: Any, write_run: Write) -> None:
    status = content.status.copy()
    content.status[status == 1] = 0
    content.status[:] = np.where(np.arange(50) < 16, status, 0)
    run = write_run(content, finished=False)
    stored = zarr.open_array(run / "results.zarr/status", mode="r+")
    stored[:] = 0
    failure = {"index": 3, "id": "J0003", "code": "truncated_file", "reason": "it ends early"}
    receipt = {
        "key": "0000000000-0000000016",
        "shards": [],
        "failures": [failure],
        "inputs": "",
        "forward": 1,
        "backward": 0,
        "seconds": 1.0,
        "worker": "w",
        "attempt": 1,
        "left_out": [],
    }
    (run / "ledger").mkdir()
    (run / "ledger/000001.jsonl").write_text(json.dumps(receipt) + "\n")
    source = open_source(run)
    assert source.status(slice(0, 5)).tolist() == [1, 1, 1, 2, 1]
    assert source.status(slice(14, 18)).tolist() == [1, 1, 0, 0]
    with pytest.raises(RefusedError):
        aggregate_maps(run, SPEC)
    product = aggregate_maps(run, SPEC, partial=True)
    assert product.mapped == 15
    assert product.left_out == {"pending": 34, "quarantined": 1}
