import pytest
from hypothesis import given
from hypothesis import strategies as st
from pathvalidate import is_valid_filename
from pydantic import ValidationError

from millrace_worker.handlers.file_names import file_name
from millrace_worker.handlers.files_archive import ArchiveInput
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
        ("\u200b\ufeff.csv", "file.csv"),
        ("\u3164 \u200d", "file.csv"),
        ("a\u200db", "a\u200db.csv"),
        ("sales\u202efdp\x85\u2028x", "sales_fdp__x.csv"),
    ],
)
def test_any_text_makes_a_name(text: str, expected: str) -> None:
    assert file_name(text, ".csv") == expected


@pytest.mark.parametrize(
    "name", ["a/b", "a\nb", "a\x85b", "a\u2029b", "report\u202efdp.exe", "\u2066a", "a\n"]
)
def test_a_job_is_asked_for_no_name_that_could_not_be_uploaded(name: str) -> None:
    with pytest.raises(ValidationError, match="file_name"):
        ArchiveInput(file_ids=[f"file_{'0' * 32}"], file_name=name)


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
        (["..", ".", " "], ["_", "_ (2)", "_ (3)"]),
        (["CON", "nul.txt", "what?.csv", "<b>"], ["CON_", "nul_.txt", "what_.csv", "_b_"]),
        (["a", "a.", "a "], ["a", "a (2)", "a (3)"]),
        (["\u00e9", "e\u0301", "E\u0301"], ["\u00e9", "e\u0301 (2)", "E\u0301 (3)"]),
        (["reports/2027/a.csv"], ["reports_2027_a.csv"]),
        ([f"{'x' * 251}.csv"] * 2, [f"{'x' * 251}.csv", f"{'x' * 247} (2).csv"]),
        (["ä" * 127] * 2, ["ä" * 127, f"{'ä' * 125} (2)"]),
        (["a" * 1000], ["a" * 255]),
        ([f".{'b' * 250}"] * 2, [f".{'b' * 250}", f".{'b' * 250} (2)"]),
        (["..\\..\\x", "C:\\x"], [".._.._x", "C__x"]),
    ],
)
def test_names_in_an_archive_differ_and_stay_in_their_folder(names: list[str], expected: list[str]) -> None:
    assert safe_unique_names(names) == expected


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), max_size=8))
def test_whatever_an_archive_is_made_of_can_be_unpacked_everywhere(names: list[str]) -> None:
    unique = safe_unique_names(names * 2)

    assert len({name.casefold() for name in unique}) == 2 * len(names)
    for name in unique:
        assert is_valid_filename(name, platform="universal"), name
        assert len(name.encode()) <= 255


def test_ten_thousand_files_of_one_name_take_no_time() -> None:
    assert len({name.casefold() for name in safe_unique_names(["a.csv"] * 10_000)}) == 10_000
