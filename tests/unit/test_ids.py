import time

import pytest

from millrace_database.ids import format_id, new_id, parse_id


def test_ids_sort_by_the_time_they_were_made() -> None:
    ids = []
    for _ in range(5):
        ids.append(new_id())
        time.sleep(0.002)
    assert ids == sorted(ids)
    assert [str(id_) for id_ in ids] == sorted(str(id_) for id_ in ids)
    assert {id_.version for id_ in ids} == {7}


def test_an_id_comes_back_from_its_public_form() -> None:
    id_ = new_id()
    text = format_id("job", id_)
    assert text == f"job_{id_.hex}"
    assert parse_id("job", text) == id_


@pytest.mark.parametrize(
    "text",
    [
        "",
        "job_",
        "0192e4b1a5d27c3e8f00112233445566",
        "file_0192e4b1a5d27c3e8f00112233445566",
        "job_0192e4b1a5d27c3e8f0011223344556",
        "job_0192e4b1a5d27c3e8f00112233445566f",
        "job_0192E4B1A5D27C3E8F00112233445566",
        "job_0192e4b1-a5d2-7c3e-8f00-112233445566",
        "job_0192e4b1a5d27c3e8f0011223344556\n",
        "job_0192e4b1a5d27c3e8f0011223344556g",
        "job_job_0192e4b1a5d27c3e8f00112233445566",
        "JOB_0192e4b1a5d27c3e8f00112233445566",
    ],
)
def test_anything_else_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="not an id"):
        parse_id("job", text)
