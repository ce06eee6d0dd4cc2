"""Settings of all tests."""

from __future__ import annotations

import os
import signal
import threading

# One thread a worker, before anything imports torch: the workers share the cores already.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

# Shells start background jobs with Ctrl-C ignored, and children inherit that; tests of interrupts need it.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import HealthCheck, settings

# No deadlines: how long an example takes says more about the machine than about the code.
settings.register_profile("morphsearch", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("morphsearch")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    for variable in ("MORPHSEARCH_STRICT", "MORPHSEARCH_PLUGINS", "MORPHSEARCH_DISABLE_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
