"""Every Ray cluster of the tests asks for a token; modules are spread over processes."""

import os
import secrets
import signal

import pytest

# Before Ray is imported, which then keeps them; processes that tests start inherit them.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
# A shell that put us into the background made us, and all that we start, deaf to it.
signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: threads of processes that share the cores wait for each other.
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep tests that share costly fixtures in one process: those of a module, or of chaos."""
    for item in items:
        module = item.path
        group = module.parent if module.parent.name == "chaos" else module
        item.add_marker(pytest.mark.xdist_group(str(group)))
