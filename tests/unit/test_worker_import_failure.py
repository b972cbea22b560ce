import importlib
import sys
from pathlib import Path

import pytest

from millrace_worker.import_failure import describe_import_failure

_IMPORTS = "from millrace_worker import Backoff, JobContext, Retention, job_handler\n"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module that can be imported as `handlers_of_a_test`."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "handlers_of_a_test", raising=False)
    return tmp_path / "handlers_of_a_test.py"


def _failure(module: Path, code: str) -> str:
    module.write_text(code)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any that it may raise
        importlib.import_module("handlers_of_a_test")
    return describe_import_failure(caught.value)


@pytest.mark.parametrize(
    ("code", "line", "said"),
    [
        ("x = 1\ndef broken(:\n", 2, "SyntaxError: "),
        ("if True:\nx = 1\n", 2, "IndentationError: "),
        (
            "x = 1\nimport no_such_module_at_all\n",
            2,
            "ModuleNotFoundError: No module named 'no_such_module_at_all'",
        ),
        (
            "from json import nothing_like_it\n",
            1,
            "ImportError: cannot import name 'nothing_like_it' from 'json'",
        ),
        ("import os\n\nos.environ['NO_SUCH_VARIABLE']\n", 3, "KeyError: 'NO_SUCH_VARIABLE'"),
        ("import json\njson.loads('{')\n", 2, "JSONDecodeError: "),
        (_IMPORTS + "@job_handler('a:b', retries=3)\ndef run(context): ...\n", 2, "TypeError: "),
        (_IMPORTS + "Backoff(base=5)\n", 2, "TypeError: base and cap of a backoff are timedeltas"),
        (_IMPORTS + "Backoff(jitter='x')\n", 2, "TypeError: factor and jitter of a backoff are numbers"),
        ("raise ValueError('two\\nlines')\n", 1, "ValueError: two lines"),
        ("assert False\n", 1, "AssertionError"),
    ],
)
def test_the_line_of_the_users_code_is_named(module: Path, code: str, line: int, said: str) -> None:
    failure = _failure(module, code)
    assert failure.startswith(f"{module}:{line}: {said}")
    assert "\n" not in failure


def test_a_handler_that_is_refused_names_its_own_place_once(module: Path) -> None:
    failure = _failure(module, _IMPORTS + "@job_handler('a:b', timeout=5)\ndef run(context): ...\n")
    assert failure == (
        f"handlers_of_a_test.run ({module}:2) cannot handle 'a:b': timeout is a timedelta, not 5"
    )


def test_a_module_that_is_not_there_has_no_place() -> None:
    with pytest.raises(ImportError) as caught:
        importlib.import_module("no_such_module_of_handlers")
    # The line that asks for it is the test's own: it is not one of a handler.
    error = caught.value.with_traceback(None)
    assert (
        describe_import_failure(error) == "ModuleNotFoundError: No module named 'no_such_module_of_handlers'"
    )
