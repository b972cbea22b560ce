"""What services do not load, as each copy of them would pay for it."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("service", ["millrace_jobs", "millrace_scheduler", "millrace_worker"])
def test_a_service_loads_nothing_that_draws_for_terminals(service: str) -> None:
    program = f"import sys, millrace_runtime.serve_command, {service}.service; print('rich' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert loaded.stdout == "False\n"
