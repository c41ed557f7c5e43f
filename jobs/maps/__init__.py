"""Survey-wide maps of a finished run, aggregated with Dask: the sky, and mean attributions."""

from .build import aggregate_maps, build_maps, spec_of
from .product import MapsProduct, read_store

__all__ = ["MapsProduct", "aggregate_maps", "build_maps", "read_store", "spec_of"]
