import pytest

from millrace_worker.handlers.file_names import file_name
from millrace_worker.handlers.zip_streaming import safe_unique_names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("airports", "airports.csv"),
        ("airports.csv", "airports.csv"),
        ("AIRPORTS.CSV", "AIRPORTS.csv"),
        ("Q3/Q4\n2026", "Q3_Q4_2026.csv"),
        (".csv", "file.csv"),
        ("  ", "file.csv"),
    ],
)
def test_any_text_makes_a_name(text: str, expected: str) -> None:
    assert file_name(text, ".csv") == expected


def test_a_long_name_is_cut_between_characters() -> None:
    name = file_name("€" * 200, ".csv")
    assert len(name.encode()) <= 255
    assert name == "€" * 83 + ".csv"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.csv", "a.csv", "a.csv"], ["a.csv", "a (2).csv", "a (3).csv"]),
        (["a (2).csv", "a.csv", "A.CSV"], ["a (2).csv", "a.csv", "A (3).CSV"]),
        (["a", "a"], ["a", "a (2)"]),
        ([".env", ".env"], [".env", ".env (2)"]),
        (["a.tar.gz", "a.tar.gz"], ["a.tar.gz", "a.tar (2).gz"]),
        (["..", ".", " "], ["_..", "_.", "_ "]),
        (["..\\..\\x", "C:\\x"], [".._.._x", "C__x"]),
    ],
)
def test_names_in_an_archive_differ_and_stay_in_their_folder(names: list[str], expected: list[str]) -> None:
    assert safe_unique_names(names) == expected


def test_ten_thousand_files_of_one_name_take_no_time() -> None:
    assert len({name.casefold() for name in safe_unique_names(["a.csv"] * 10_000)}) == 10_000
