"""Which code and which packages made a result."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import platform
from functools import cache
from pathlib import Path

PACKAGES = ("jobs", "cluster", "attribution", "training")
_RECORDED = ("occulta", "numpy", "torch", "torchvision", "timm", "zarr", "ray")


@cache
def code_digest() -> str:
    """Hash the bytes of our four packages as this process imported them."""
    digest = hashlib.sha256()
    for package, folder in package_folders().items():
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def package_folders() -> dict[str, Path]:
    """Tell where each of our packages was imported from."""
    folders = {}
    for package in PACKAGES:
        source = importlib.import_module(package).__file__
        assert source is not None, f"{package} is a namespace package: something shadows it"
        folders[package] = Path(source).parent
    return folders


def versions() -> dict[str, str]:
    """List the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _RECORDED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
