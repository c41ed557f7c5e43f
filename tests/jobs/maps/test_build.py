from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import healpy
import numpy as np
import pytest
import xarray as xr
import zarr
from astropy.io import fits

from attribution.occlusion import Occlusion
from cluster.errors import StorageError, VerificationError
from jobs.errors import RefusedError
from jobs.maps import MapsProduct, aggregate_maps, build_maps, read_store
from jobs.maps.source import open_source
from jobs.specs.maps import MapsSpec

SPEC = MapsSpec(nside=8, min_count=3)
Make, Write = Callable[..., Any], Callable[..., Path]


@pytest.fixture(scope="module")
def built(make_content: Make, write_run: Write) -> tuple[Any, MapsProduct]:
    content = make_content()
    content.ra[5] = np.nan
    content.label[7] = ""
    return content, build_maps(write_run(content), SPEC)


def healpy_cells(content: Any) -> np.ndarray:
    return np.asarray(healpy.ang2pix(8, content.ra, content.dec, nest=True, lonlat=True))


def on_sky(content: Any) -> np.ndarray:
    return (content.status == 1) & np.isfinite(content.ra)


def test_sky_means_equal_a_plain_loop_over_objects(built: tuple[Any, MapsProduct]) -> None:
    content, product = built
    shown = on_sky(content)
    cells = np.full(len(shown), -1)
    cells[shown] = healpy.ang2pix(8, content.ra[shown], content.dec[shown], nest=True, lonlat=True)
    assert product.sky.cells.tolist() == sorted(set(cells[shown].tolist()))
    right = np.array(content.classes)[content.logit.argmax(axis=1)] == content.label
    masked = 0
    for i, cell in enumerate(product.sky.cells):
        here = cells == cell
        assert product.sky.count[i] == here.sum()
        labelled = here & (content.label != "")
        for name, values, known in (
            ("accuracy", right.astype(float), labelled),
            ("predictive_entropy", content.entropy["predictive_entropy"].astype("f4"), here),
            ("mutual_information", content.entropy["mutual_information"].astype("f4"), here),
        ):
            means = product.sky.means[name]
            assert means.number[i] == known.sum()
            if known.sum() < 3:
                masked += 1
                assert np.isnan(means.mean[i])
                assert np.isnan(means.standard_error[i])
                continue
            chosen = values[known].astype(float)
            assert means.mean[i] == pytest.approx(chosen.mean(), rel=1e-12)
            expected = chosen.std(ddof=1) / np.sqrt(len(chosen))
            assert means.standard_error[i] == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert masked > 0
    assert np.isfinite(product.sky.means["accuracy"].mean).any()


def test_objects_off_the_map_are_counted(built: tuple[Any, MapsProduct]) -> None:
    content, product = built
    assert product.left_out == {"quarantined": 2, "without position": 1}
    assert product.mapped == on_sky(content).sum() == 47
    assert product.sky.count.sum() == 47


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients", "gradient_x_input"])
def test_mean_attribution_equals_the_mean_of_the_pixel_maps(
    built: tuple[Any, MapsProduct], method: str
) -> None:
    content, product = built
    stack = product.stacks[method]
    assert stack.groups == content.classes
    assert stack.target == "predicted"
    pixels = content.maps[method][:, 0].astype("f4").astype(float)
    if method == "occlusion":
        pixels = Occlusion.expand(pixels, image_shape=(12, 12), window=(6, 6), stride=(4, 4))
    for i, group in enumerate(stack.groups):
        chosen = pixels[(content.status == 1) & (content.label == group)]
        assert stack.number[i] == len(chosen) > 3
        np.testing.assert_allclose(stack.mean[i], chosen.mean(axis=0), rtol=1e-9, atol=1e-12)
        expected = chosen.std(axis=0, ddof=1) / np.sqrt(len(chosen))
        np.testing.assert_allclose(stack.standard_error[i], expected, rtol=1e-9)


def test_the_maps_do_not_depend_on_how_the_run_is_cut_into_shards(
    make_content: Make, write_run: Write
) -> None:
    content = make_content(objects=300)
    whole = aggregate_maps(write_run(content), SPEC)
    first, second = slice(0, 160), slice(160, 300)
    number, total = np.zeros(3), np.zeros((3, 12, 12))
    for name, rows in (("one", first), ("two", second)):
        cut = content.but(
            **{
                k: getattr(content, k)[rows]
                for k in ("id", "ra", "dec", "label", "logit", "status")
            },
            maps={k: v[rows] for k, v in content.maps.items()},
            entropy={k: v[rows] for k, v in content.entropy.items()},
            columns={},
        )
        stack = aggregate_maps(write_run(cut, name), SPEC).stacks["integrated_gradients"]
        number += stack.number
        total += stack.mean * stack.number[:, None, None]
    mean = total / number[:, None, None]
    np.testing.assert_allclose(whole.stacks["integrated_gradients"].mean, mean, rtol=1e-12)


def test_fits_is_read_exactly_by_astropy_and_healpy(built: tuple[Any, MapsProduct]) -> None:
    _, product = built
    with fits.open(product.fits) as hdus:
        table, header = hdus[1].data, hdus[1].header
        expected = {
            "PIXTYPE": "HEALPIX",
            "ORDERING": "NESTED",
            "COORDSYS": "C",
            "NSIDE": 8,
            "INDXSCHM": "EXPLICIT",
            "OBJECT": "PARTIAL",
        }
        assert {key: header[key] for key in expected} == expected
        assert header["UNFINISH"] is False
        names = [column.name for column in hdus[1].columns]
        units = {column.name: column.unit for column in hdus[1].columns}
        np.testing.assert_array_equal(table["PIXEL"], product.sky.cells)
        np.testing.assert_array_equal(table["COUNT"], product.sky.count)
        for name, means in product.sky.means.items():
            np.testing.assert_array_equal(table[name.upper()], means.mean)
            np.testing.assert_array_equal(table[f"{name.upper()}_SE"], means.standard_error)
            np.testing.assert_array_equal(table[f"{name.upper()}_N"], means.number)
    assert units["PREDICTIVE_ENTROPY"] == "nat"
    field = names.index("PREDICTIVE_ENTROPY") - 1
    full = healpy.read_map(product.fits, field=field, nest=True)
    assert full.size == 12 * 8 * 8
    here = full[product.sky.cells]
    np.testing.assert_array_equal(here, product.sky.means["predictive_entropy"].mean)
    assert set(np.delete(full, product.sky.cells)) == {healpy.UNSEEN}
    count = healpy.read_map(product.fits, field=0, nest=True)
    np.testing.assert_array_equal(count[product.sky.cells], product.sky.count)


def test_the_store_opens_with_xarray_and_says_what_the_cells_are(
    built: tuple[Any, MapsProduct],
) -> None:
    _, product = built
    sky = xr.open_zarr(product.zarr, group="healpix", decode_coords="all")
    assert (
        sky["cell_ids"].attrs.items()
        >= {"grid_name": "healpix", "level": 3, "indexing_scheme": "nested"}.items()
    )
    assert sky["crs"].attrs["grid_mapping_name"] == "healpix"
    assert sky["accuracy"].dims == ("cells",)
    assert {"cell_ids", "ra", "dec", "crs"} <= set(sky.coords)
    np.testing.assert_array_equal(sky["accuracy"], product.sky.means["accuracy"].mean)
    lon, lat = healpy.pix2ang(8, product.sky.cells, nest=True, lonlat=True)
    np.testing.assert_allclose(sky["ra"], lon, atol=1e-10)
    np.testing.assert_allclose(sky["dec"], lat, atol=1e-10)
    stack = xr.open_zarr(product.zarr, group="mean_attribution/occlusion")
    assert stack["mean"].dims == ("group", "y", "x")
    assert stack["group"].values.tolist() == ["smooth", "spiral", "barred"]
    assert stack["mean"].attrs["units"] == "logit"


def test_the_product_is_read_back_as_it_was_built(built: tuple[Any, MapsProduct]) -> None:
    _, product = built
    again = read_store(product.path)
    assert (again.left_out, again.mapped, again.notes) == (product.left_out, 47, product.notes)
    assert again.results_digest == "ab" * 32
    assert (again.origin, again.quantities.keys()) == ("lower", product.quantities.keys())
    np.testing.assert_array_equal(again.sky.cells, product.sky.cells)
    for name, means in product.sky.means.items():
        assert again.quantities[name].axis_label == means.quantity.axis_label
        np.testing.assert_array_equal(again.sky.means[name].mean, means.mean)
    for name, stack in product.stacks.items():
        np.testing.assert_array_equal(again.stacks[name].standard_error, stack.standard_error)
        assert again.stacks[name].groups == stack.groups


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_the_same_store_gives_the_same_bytes_whatever_the_threads(
    make_content: Make, write_run: Write
) -> None:
    run = write_run(make_content(objects=400))
    seen = []
    for workers in (1, 4):
        with dask.config.set(num_workers=workers):
            product = build_maps(run, SPEC)
        seen.append(digests(product.path))
    assert seen[0] == seen[1]
    assert len(seen[0]) > 30


def test_every_figure_is_a_png_and_nothing_else_is_left_behind(
    built: tuple[Any, MapsProduct],
) -> None:
    _, product = built
    names = {path.name for path in product.figures}
    assert {"count.png", "accuracy.png", "mean_attribution_occlusion.png"} <= names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in product.figures)
    assert {p.name for p in product.path.iterdir()} == names | {"maps.zarr", "healpix.fits"}
    assert not [p for p in product.path.parent.iterdir() if p.name.startswith(".maps")]


def test_a_run_without_dropout_has_no_uncertainty_maps_and_says_so(
    make_content: Make, write_run: Write
) -> None:
    product = aggregate_maps(write_run(make_content().but(entropy={})), SPEC)
    assert {name.split("_")[0] for name in product.sky.means} == {"accuracy", "concentration"}
    assert any("no mc_dropout" in note for note in product.notes)


def test_without_labels_there_is_no_accuracy_and_the_prediction_groups(
    make_content: Make, write_run: Write
) -> None:
    content = make_content()
    product = aggregate_maps(write_run(content.but(label=np.full(50, ""))), SPEC)
    assert "accuracy" not in product.sky.means
    assert {"predictive_entropy", "mutual_information"} < set(product.sky.means)
    assert product.group_by == "predicted"
    assert any("No object has a value of label" in note for note in product.notes)
    predicted = content.logit.argmax(axis=1)[content.status == 1]
    assert product.stacks["occlusion"].number.tolist() == np.bincount(predicted).tolist()


def test_groups_are_any_text_column_and_objects_without_one_are_left_out(
    make_content: Make, write_run: Write
) -> None:
    field = np.array(["west", "east", ""] * 16 + ["east"] * 2)
    content = make_content().but(columns={"field": field})
    product = aggregate_maps(write_run(content), MapsSpec(nside=8, group_by="field"))
    complete = content.status == 1
    stack = product.stacks["gradient_x_input"]
    assert stack.groups == ("east", "west")
    assert stack.number.tolist() == [(field[complete] == g).sum() for g in stack.groups]
    assert f"{(field[complete] == '').sum()} complete objects belong to no group" in " ".join(
        product.notes
    )


def test_objects_whose_first_target_is_missing_have_no_map_to_stack(
    make_content: Make, write_run: Write
) -> None:
    content = make_content().but(targets=("label", "predicted"))
    content.label[:10] = ""
    product = aggregate_maps(write_run(content), MapsSpec(nside=8, group_by="predicted"))
    explained = (content.status == 1) & (content.label != "")
    assert product.stacks["integrated_gradients"].number.sum() == explained.sum()
    assert np.isfinite(product.stacks["integrated_gradients"].mean).all()


def test_maps_that_keep_their_channels_are_stacked_as_their_sum(
    make_content: Make, write_run: Write
) -> None:
    content = make_content()
    plain = content.maps["integrated_gradients"].astype("f4")
    kept = np.stack([plain / 4, plain / 2, plain / 4], axis=2)
    one = aggregate_maps(write_run(content.but(maps={"integrated_gradients": plain})), SPEC)
    two = aggregate_maps(write_run(content.but(maps={"integrated_gradients": kept}), "kept"), SPEC)
    np.testing.assert_allclose(
        one.stacks["integrated_gradients"].mean, two.stacks["integrated_gradients"].mean, rtol=1e-12
    )


def test_progress_reaches_the_number_of_blocks(make_content: Make, write_run: Write) -> None:
    seen: list[tuple[int, int]] = []
    aggregate_maps(write_run(make_content()), SPEC, on_progress=lambda *step: seen.append(step))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_unfinished_run_is_refused_and_nothing_is_written(
    make_content: Make, write_run: Write
) -> None:
    run = write_run(make_content(), finished=False)
    with pytest.raises(RefusedError, match=r"not finished.*occulta resume.*--partial"):
        build_maps(run, SPEC)
    assert not (run / "maps").exists()


def test_maps_of_an_unfinished_run_are_marked_as_partial(
    make_content: Make, write_run: Write
) -> None:
    content = make_content()
    content.status[20:] = 0
    product = build_maps(write_run(content, finished=False), SPEC, partial=True)
    assert product.partial
    assert product.left_out["pending"] == 30
    root = zarr.open_group(product.zarr, mode="r")
    assert root.attrs["partial"] is True
    assert root["healpix"].attrs["partial"] is True
    assert fits.getheader(product.fits, 1)["UNFINISH"] is True


def refusal(run: Path, spec: MapsSpec = SPEC) -> str:
    with pytest.raises(RefusedError) as caught:
        build_maps(run, spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_grouping_that_cannot_be_done_is_refused_with_what_can(
    make_content: Make, write_run: Write
) -> None:
    run = write_run(make_content())
    assert "group_by: morphology: no such column" in refusal(run, MapsSpec(group_by="morphology"))
    assert refusal(run, MapsSpec(group_by="seeing")).endswith("use one of: label, predicted")
    many = make_content(300).but(columns={"tile": np.array([f"t{i}" for i in range(300)])})
    assert "at most 256" in refusal(write_run(many, "many"), MapsSpec(group_by="tile"))


def test_what_is_no_attribution_run_is_refused(
    make_content: Make, write_run: Write, tmp_path: Path
) -> None:
    assert "not a run folder" in refusal(tmp_path)
    run = write_run(make_content())
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"kind": "training"}))
    assert "kind training" in refusal(run)
    (run / "manifest.json").write_text("{")
    assert "can't be read" in refusal(run)


@pytest.mark.parametrize(
    ("array", "shard"),
    [
        ("integrated_gradients/attribution", "c.1.0.0.0"),
        ("prediction/logit", "c.1.0"),
        ("mc_dropout/mutual_information", "c.1"),
        ("summary/occlusion/gini", "c.1.0"),
        ("status", "c.1"),
    ],
)
def test_a_lost_shard_is_named_and_not_averaged(
    make_content: Make, write_run: Write, array: str, shard: str
) -> None:
    run = write_run(make_content())
    (run / "results.zarr" / array / shard).unlink()
    with pytest.raises(VerificationError) as caught:
        build_maps(run, SPEC)
    assert f"results.zarr/{array}: shard {shard} (objects 16 to 31) is lost" in str(caught.value)
    assert "object 16" in str(caught.value)
    assert str(caught.value).endswith(f"occulta verify {run} --repair")
    assert not (run / "maps").exists()


@pytest.mark.parametrize(
    ("array", "shard"),
    [("occlusion/grid", "c.3.0.0.0"), ("status", "c.3")],
)
def test_a_flipped_bit_is_named(
    make_content: Make, write_run: Write, array: str, shard: str
) -> None:
    # A block has two shards here, and the second one is damaged.
    run = write_run(make_content(objects=1100))
    path = run / "results.zarr" / array / shard
    content = bytearray(path.read_bytes())
    content[10] ^= 4
    path.write_bytes(content)
    with pytest.raises(VerificationError) as caught:
        build_maps(run, SPEC)
    assert f"results.zarr/{array}: shard {shard} (objects 48 to 63) is lost" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_store_that_may_not_be_read_is_no_damage(
    make_content: Make, write_run: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(array: object, selection: object) -> None:
        raise PermissionError(13, "Permission denied")

    source = open_source(write_run(make_content()))
    monkeypatch.setattr(zarr.Array, "__getitem__", refuse)
    with pytest.raises(StorageError, match=r"status: objects 0 to 15 can't be read \(Permission"):
        source.read("status", slice(0, 16))


def test_a_second_build_replaces_the_first(make_content: Make, write_run: Write) -> None:
    run = write_run(make_content())
    build_maps(run, SPEC)
    build_maps(run, MapsSpec(nside=16))
    assert read_store(run / "maps").sky.nside == 16
    assert fits.getheader(run / "maps/healpix.fits", 1)["NSIDE"] == 16


def test_nside_is_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="nside 100 is not a power of two; use 64 or 128"):
        MapsSpec(nside=100)
