"""One arena for all modules of this folder: a golden run costs half a minute."""

import pytest

from benchmarks.arena import Arena


@pytest.fixture(scope="session")
def arena(tmp_path_factory):
    return Arena(tmp_path_factory.mktemp("arena"))


@pytest.fixture
def run(arena, request):
    """Return where the test's own run goes."""
    return arena.folder / request.node.name.replace("[", "-").rstrip("]")
