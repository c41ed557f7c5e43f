"""Simulated survey images: a pure function of survey model, seed and object index.

Every object has a counter-based random generator of its own, so an object is the same bit for bit
in whatever block, order or process it is made. (Between processor families the last bit of
single-precision functions may differ.)
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .galaxies import Galaxy, draw_galaxy
from .galsim_telescope import FINER, GalSimTelescope
from .layout import lay_out
from .profiles import Floats, Mask
from .redshift import move
from .shortcut import Shortcut
from .surveys import CLASSES, PREPROCESS, SURVEYS, SeeingPattern, SkyPatch, SurveyModel

__all__ = [
    "CLASSES",
    "PREPROCESS",
    "SURVEYS",
    "SeeingPattern",
    "Shortcut",
    "SimulatedBlock",
    "SkyPatch",
    "SurveyModel",
    "simulate",
]

_WING_SHARE = 0.1
_WING_WIDTH = 2.0
"""The PSF is two Gaussians: a core, and a wing of a tenth of the light and twice the width."""


def _core_half_width() -> float:
    """Return the radius of half maximum of the PSF, in standard deviations of its core."""

    def profile(radius: float) -> float:
        wing = _WING_SHARE / _WING_WIDTH**2 * np.exp(-0.5 * (radius / _WING_WIDTH) ** 2)
        return float((1.0 - _WING_SHARE) * np.exp(-0.5 * radius**2) + wing)

    low, high = 0.5, 3.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if profile(middle) > 0.5 * profile(0.0) else (low, middle)
    return low


_HALF_WIDTH = _core_half_width()


@dataclass(frozen=True)
class SimulatedBlock:
    """Images of some objects of a survey, with their catalogue and the truth about them."""

    images: Floats
    """(n, bands, y, x), nanomaggies; row 0 is the southern edge, column 0 the eastern."""
    columns: dict[str, npt.NDArray[np.generic]]
    """Catalogue columns (n,): see `simulate`."""
    bar_mask: Mask
    """(n, y, x), inside the bar, as it would be seen without blur."""
    arm_mask: Mask
    """(n, y, x), on a spiral arm, as it would be seen without blur."""
    shortcut_mask: Mask | None = None
    """(n, y, x), inside the stamp; None if none was to be planted."""


def simulate(
    model: SurveyModel,
    seed: int,
    indices: Iterable[int],
    shortcut: Shortcut | None = None,
    telescope: GalSimTelescope | None = None,
) -> SimulatedBlock:
    """Simulate the objects of a survey that have the given indices.

    Parameters
    ----------
    model
        The survey.
    seed
        With the same seed, an index is always the same object.
    indices
        Which objects, in the order of the rows of the result; any non-negative integers.
    shortcut
        A stamp to plant. It changes the pixels inside its mask and nothing else.
    telescope
        What GalSim makes the images with; by default a circular PSF and the noise of the sky.

    Returns
    -------
    SimulatedBlock
        With the columns id (such as ``A-0000123``), ra and dec [deg, ICRS], label, seeing (FWHM)
        [arcsec], depth (r magnitude of a point source at 5 sigma), magnitude (r), half_light_radius
        (semi-major axis of the main component) [px], position_angle (north through east) [deg],
        axis_ratio, bar_position_angle [deg, NaN without a bar]; where galaxies move to other
        redshifts also redshift; with a shortcut also has_shortcut.

    Raises
    ------
    ValueError
        If the seed or an index is negative or 2^63 and above, the stamp does not fit, or GalSim is
        needed and not installed.
    """
    rows = [_checked("index", index) for index in indices]
    _checked("seed", seed)
    if shortcut is not None:
        shortcut.check(model.size)
    shape = (len(rows), model.size, model.size)
    images = np.empty((len(rows), len(model.bands), model.size, model.size), dtype=np.float32)
    bar_mask = np.zeros(shape, dtype=np.bool_)
    arm_mask = np.zeros(shape, dtype=np.bool_)
    records: list[dict[str, str | float]] = []
    for row, index in enumerate(rows):
        random = _random_numbers(model, seed, index, _GALAXY)
        galaxy, record = _draw_object(model, index, random)
        if model.redshifts is not None:
            draw = float(_random_numbers(model, seed, index, _REDSHIFT).random())
            galaxy, record = _move(model, galaxy, record, draw)
        images[row], bar_mask[row], arm_mask[row] = _observe(
            model, galaxy, float(record["seeing"]), random, telescope
        )
        records.append(record)
    block = SimulatedBlock(
        images, _as_columns(records, model.redshifts is not None), bar_mask, arm_mask
    )
    return block if shortcut is None else _plant(block, model, seed, rows, shortcut)


_GALAXY, _SHORTCUT, _REDSHIFT = 0, 1, 2
"""What random numbers are for; each purpose has its own, so that a stamp or another redshift is one
of the same galaxy."""


def _random_numbers(model: SurveyModel, seed: int, index: int, purpose: int) -> np.random.Generator:
    counter = [0, 0, purpose, zlib.crc32(model.name.encode())]
    return np.random.Generator(np.random.Philox(key=[seed, index], counter=counter))


def _plant(
    block: SimulatedBlock, model: SurveyModel, seed: int, rows: list[int], shortcut: Shortcut
) -> SimulatedBlock:
    """Add the stamp to the images, in place, and the truth about it to the block."""
    mask = np.zeros_like(block.bar_mask)
    flux = np.asarray(model.noise, dtype=np.float32)[:, None] * np.float32(shortcut.sigma)
    for row, (index, label) in enumerate(zip(rows, block.columns["label"], strict=True)):
        random = _random_numbers(model, seed, index, _SHORTCUT)
        mask[row] = shortcut.place(str(label), model.size, random)
        block.images[row][:, mask[row]] += flux
    has_shortcut = np.asarray(mask.any(axis=(1, 2)))
    columns = {**block.columns, "has_shortcut": has_shortcut}
    return replace(block, columns=columns, shortcut_mask=mask)


def _checked(name: str, value: int) -> int:
    if not 0 <= value < 2**63:
        raise ValueError(f"simulation: {name} = {value} is out of range; use 0 to 2^63 - 1")
    return int(value)


_NUMBERS = (
    "ra",
    "dec",
    "seeing",
    "depth",
    "magnitude",
    "half_light_radius",
    "position_angle",
    "axis_ratio",
    "bar_position_angle",
)


def _as_columns(
    records: list[dict[str, str | float]], moved: bool
) -> dict[str, npt.NDArray[np.generic]]:
    columns: dict[str, npt.NDArray[np.generic]] = {
        name: np.array([record[name] for record in records], dtype=np.str_)
        for name in ("id", "label")
    }
    for name in (*_NUMBERS, "redshift") if moved else _NUMBERS:
        columns[name] = np.array([record[name] for record in records], dtype=np.float64)
    return columns


def _draw_object(
    model: SurveyModel, index: int, random: np.random.Generator
) -> tuple[Galaxy, dict[str, str | float]]:
    """Draw where an object is, what it is, and how the atmosphere was."""
    patch_draw, across, upward, label_draw, magnitude_draw = random.random(5)
    areas = np.array([patch.area for patch in model.footprint])
    patch = model.footprint[_pick(areas / areas.sum(), patch_draw)]
    ra, dec = patch.place(across, upward)
    pattern = float(model.seeing_at(np.array(ra), np.array(dec)))
    seeing = pattern * float(np.exp(model.seeing_scatter * random.standard_normal()))
    bright, faint = model.magnitudes
    magnitude = bright + (faint - bright) * float(np.sqrt(magnitude_draw))
    radius = model.radius * 10.0 ** (model.radius_slope * (magnitude - 17.0))
    label = _pick(np.asarray(model.class_mix), label_draw)
    galaxy = draw_galaxy(label, magnitude, radius, random)
    return galaxy, {
        "id": f"{model.name}-{index:07d}",
        "ra": ra,
        "dec": dec,
        "label": CLASSES[label],
        "seeing": seeing,
        "depth": _depth(model, seeing),
        "magnitude": magnitude,
        "half_light_radius": galaxy.radius / model.pixel_scale,
        "position_angle": galaxy.position_angle,
        "axis_ratio": galaxy.axis_ratio,
        "bar_position_angle": galaxy.bar_position_angle,
    }


def _move(
    model: SurveyModel, galaxy: Galaxy, record: Mapping[str, str | float], draw: float
) -> tuple[Galaxy, dict[str, str | float]]:
    """Move a galaxy to a redshift of the survey's range, by a draw in [0, 1)."""
    assert model.redshifts is not None
    near, far = model.redshifts
    redshift = near + (far - near) * draw
    moved = move(galaxy, model.reference_redshift, redshift)
    return moved, {
        **record,
        "magnitude": moved.magnitude,
        "half_light_radius": moved.radius / model.pixel_scale,
        "redshift": redshift,
    }


def _pick(shares: npt.NDArray[np.float64], draw: float) -> int:
    """Return which share of the unit interval a draw in [0, 1) falls into; never an empty one."""
    chosen = int(np.searchsorted(np.cumsum(shares), draw, side="right"))
    return min(chosen, int(np.flatnonzero(shares)[-1]))


def _depth(model: SurveyModel, seeing: float) -> float:
    """Return the magnitude of a point source at 5 sigma in the band nearest to r.

    The noise is that of a Gaussian PSF fit: sigma sqrt(4 pi) s (King 1983).
    """
    band = model.bands.index("r") if "r" in model.bands else 0
    width = seeing / 2.3548 / model.pixel_scale
    limit = 5.0 * model.noise[band] * np.sqrt(4.0 * np.pi) * width
    return float(22.5 - 2.5 * np.log10(limit)) if limit > 0.0 else float("inf")


def _observe(
    model: SurveyModel,
    galaxy: Galaxy,
    seeing: float,
    random: np.random.Generator,
    telescope: GalSimTelescope | None,
) -> tuple[Floats, Mask, Mask]:
    """Look at a galaxy through the atmosphere: add stars, blur, crop, add the sky's noise."""
    scale, margin = model.pixel_scale, _margin(model)
    padded = model.size + 2 * margin
    scene = lay_out(galaxy, model.bands, padded, scale)
    inner = slice(margin, margin + model.size)
    if telescope is None:
        light = scene.light
        _add_stars(model, light, random)
        image = blur(light, seeing / scale)[:, inner, inner]
    else:
        light = lay_out(galaxy, model.bands, padded * FINER, scale / FINER).light
        _add_stars(model, light, random, FINER)
        image = telescope.expose(light, model.size, scale, seeing, random)
    noise = random.standard_normal(image.shape, dtype=np.float32)
    noise *= np.asarray(model.noise, dtype=np.float32)[:, None, None]
    return image + noise, scene.bar_mask[inner, inner], scene.arm_mask[inner, inner]


def _margin(model: SurveyModel) -> int:
    """Return the pixels around an image that keep the circular blur's wrap out of it."""
    wanted = model.size + 2 * int(np.ceil(3.0 * model.seeing / model.pixel_scale))
    # Edges with small prime factors make the Fourier transforms fast.
    while wanted // math.gcd(wanted, 2**20 * 3**10 * 5**6) > 1:
        wanted += 2
    return (wanted - model.size) // 2


def _add_stars(
    model: SurveyModel, light: Floats, random: np.random.Generator, finer: int = 1
) -> None:
    """Add foreground stars, in place: a Poisson number of points, more of them faint."""
    size = light.shape[-1] // finer
    field = (size * model.pixel_scale / 60.0) ** 2
    for _ in range(random.poisson(model.star_density * field)):
        row, column = random.integers(0, size, 2)
        magnitude = 22.0 - random.exponential(1.2)
        flux = 10.0 ** (0.4 * (22.5 - max(magnitude, 18.0)))
        pixel = np.s_[row * finer : (row + 1) * finer, column * finer : (column + 1) * finer]
        light[:, *pixel] += np.float32(flux / finer**2)


def blur(light: Floats, fwhm: float) -> Floats:
    """Convolve images with the PSF, on a circle, keeping their flux.

    Parameters
    ----------
    light
        (..., y, x), flux per pixel.
    fwhm
        Full width at half maximum of the PSF, pixels.
    """
    sigma = 0.5 * fwhm / _HALF_WIDTH
    rows, columns = light.shape[-2:]
    down = 2.0 * (np.pi * sigma * np.fft.fftfreq(rows)) ** 2
    along = 2.0 * (np.pi * sigma * np.fft.rfftfreq(columns)) ** 2
    core = np.exp(-down)[:, None] * np.exp(-along)
    wing = np.exp(-down * _WING_WIDTH**2)[:, None] * np.exp(-along * _WING_WIDTH**2)
    transfer = ((1.0 - _WING_SHARE) * core + _WING_SHARE * wing).astype(np.float32)
    blurred = np.fft.irfft2(np.fft.rfft2(light) * transfer, s=(rows, columns))
    return np.asarray(blurred, dtype=np.float32)
