import subprocess
import sys

_PROGRAM = """
import resource
from pathlib import Path

from millrace_runtime.allocator import return_free_memory

MEBIBYTE = 1 << 20


def resident_mebibytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // MEBIBYTE


def blocks():
    return [b"x" * (4 * MEBIBYTE) for _ in range(32)]


return_free_memory()
before = resident_mebibytes()
blocks()
several = blocks()
last = bytes(500_000)
assert resident_mebibytes() - before > 100
del several
print(resident_mebibytes() - before)
"""


def test_memory_of_long_blocks_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 10
