"""The work of a simulation job: galaxies with their catalogue and the truth about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from attribution.arrays import ArraySpec
from attribution.partials import Array
from cluster.unit import UnitKey, WorkUnit
from cluster.workload import UnitResult
from training.profiles import Mask
from training.simulation import SimulatedBlock, simulate

from ..specs.jobs import SimulationJob

_UNITS = {
    "ra": "deg",
    "dec": "deg",
    "seeing": "arcsec",
    "half_light_radius": "pixel",
    "position_angle": "deg",
    "magnitude": "mag",
}


@dataclass(frozen=True)
class SimulationWorkload:
    """A simulation job; an object is a pure function of preset, seed and row."""

    job: SimulationJob

    @cached_property
    def template(self) -> Mapping[str, ArraySpec]:
        """The cutouts, the catalogue and the truth masks."""
        block = self._simulate(UnitKey(0, 1))
        _, bands, height, width = block.images.shape
        images = ArraySpec(
            "image", ("band", "y", "x"), (bands, height, width), "flux", units="nanomaggy"
        )
        masks = {
            f"truth/{name}": ArraySpec(
                name, ("y", "x"), (height, width), f"inside the {name}", dtype="bool"
            )
            for name in _masks(block)
        }
        columns = {
            f"catalogue/{name}": ArraySpec(
                name,
                (),
                (),
                name.replace("_", " "),
                units=_UNITS.get(name, "1"),
                dtype="str" if column.dtype.kind in "OTU" else column.dtype.name,
            )
            for name, column in block.columns.items()
        }
        return {"cutout/image": images, **masks, **columns}

    @property
    def separable(self) -> bool:
        """Nothing is read, so no object can be at fault."""
        return False

    def open(self) -> SimulationWorkload:
        """Return itself: there is nothing to load."""
        return self

    def compute(self, unit: WorkUnit) -> UnitResult:
        """Simulate the objects of a unit."""
        block = self._simulate(unit.key)
        masks: dict[str, Array] = {f"truth/{name}": mask for name, mask in _masks(block).items()}
        columns: dict[str, Array] = {
            f"catalogue/{name}": column for name, column in block.columns.items()
        }
        return UnitResult({"cutout/image": block.images, **masks, **columns})

    def partial(self, unit: WorkUnit, share: int) -> UnitResult | None:
        """Simulate everything in the first share: an object has no parts."""
        return self.compute(unit) if share == 0 else None

    def probe(self, unit: WorkUnit, rows: range) -> None:
        """Simulate nothing: a unit can't be computed without some of its objects."""
        raise NotImplementedError

    def finish(self, unit: WorkUnit, partials: Sequence[UnitResult | None]) -> UnitResult:
        """Return the first share."""
        assert partials[0] is not None
        return partials[0]

    def _simulate(self, key: UnitKey) -> SimulatedBlock:
        rows = range(key.start, key.stop)
        job = self.job
        return simulate(job.survey_model, job.seed, rows, job.shortcut, job.galsim)


def _masks(block: SimulatedBlock) -> dict[str, Mask]:
    """Name the truth masks (n, y, x) of a block."""
    masks = {"bar": block.bar_mask, "arms": block.arm_mask}
    return masks if block.shortcut_mask is None else {**masks, "shortcut": block.shortcut_mask}
