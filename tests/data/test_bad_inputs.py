"""Every unusable input has its own message, and no message holds a cell of the data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from criteria_cli.data.formats import load_corpus
from criteria_cli.errors import CriteriaError, MachineError, UsageError
from criteria_cli.study.spec import Columns, DataSpec

HEADER = "post_id,post,DSM5_symptom,groundtruth"
SECRET = "Qxzw"
"""Stands in every text below and may stand in no message."""
GOOD = (f"g1,{SECRET} one,A.1,1", f"g2,{SECRET} two,A.1,0")

Put = Callable[..., Path]


def read(path: Path, **settings: object) -> None:
    load_corpus(DataSpec(format="pairs", path=path.name, **settings), path.parent)


def refuses(
    path: Path, kind: type[CriteriaError] = UsageError, **settings: object
) -> CriteriaError:
    with pytest.raises(kind) as caught:
        read(path, **settings)
    error = caught.value
    for said in (error.message, error.hint):
        assert SECRET not in said
        assert str(path.parent) not in said
        assert "\n" not in said
    return error


def test_a_missing_file(tmp_path: Path) -> None:
    error = refuses(tmp_path / "posts.csv")
    assert error.message == "data file `posts.csv` does not exist (from `data.path`)"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("posts.xlsx", "cannot read .xlsx"),
        ("posts.pkl", "pickle files are not read (they can run code)"),
        ("posts", "cannot read a file without an ending"),
    ],
)
def test_a_file_of_another_kind(name: str, what: str, put: Put) -> None:
    message = refuses(put(name, "x")).message
    assert message == f"`{name}`: {what}, use .csv, .jsonl or .parquet"


def test_a_folder_for_a_table(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    error = refuses(tmp_path / "data")
    assert error.message == "`data` is a folder, format `pairs` reads one file"
    assert error.hint == 'a folder with posts and annotations has `data.format = "redsm5"`'


@pytest.mark.parametrize("lines", [(), (HEADER,), ("", "")])
def test_no_rows(lines: tuple[str, ...], put: Put) -> None:
    assert refuses(put("posts.csv", *lines)).message == "`posts.csv` has no rows"


def test_no_objects(put: Put) -> None:
    assert refuses(put("posts.jsonl", "", " ")).message == "`posts.jsonl` has no rows"


def test_a_missing_column(put: Put) -> None:
    error = refuses(put("posts.csv", "id,text,label", f"a,{SECRET},1"))
    assert error.message == "`posts.csv` has no column `post_id`, it has: id, text, label"
    error = refuses(put("posts.jsonl", '{"post_id": "a", "text": "x"}'))
    assert error.message == "`posts.jsonl` has no column `post`, it has: post_id, text"
    error = refuses(put("posts.csv", HEADER, *GOOD), columns=Columns(group="author"))
    assert "has no column `author`, it has: post_id, post, DSM5_symptom" in error.message


def test_a_file_without_a_header_shows_no_cell(put: Put) -> None:
    error = refuses(put("posts.csv", f"g1,{SECRET} is what I wrote,A.1,1", *GOOD))
    assert error.message == (
        "`posts.csv` has no column `post_id`, its first row does not look like column names"
    )


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        ("2", "must be 0 or 1"),
        ("0.5", "must be 0 or 1"),
        ("", "is empty or not a number, expected 0 or 1"),
        (SECRET, "is empty or not a number, expected 0 or 1"),
    ],
)
def test_a_wrong_label(cell: str, what: str, put: Put) -> None:
    error = refuses(put("posts.csv", HEADER, *GOOD, f"g3,x,A.1,{cell}"))
    assert error.message == f"`posts.csv` row 4: column `groundtruth` {what}"


def test_blank_posts(put: Put) -> None:
    rows = ("b1,,A.1,1", "b2,   ,A.1,0", "b3,\t,A.1,0")
    error = refuses(put("posts.csv", HEADER, *GOOD, *rows))
    assert error.message == "`posts.csv`: column `post` is empty in 3 rows, first row 4"


def test_a_null_post(put: Put) -> None:
    line = '{"post_id": "a", "post": null, "DSM5_symptom": "A.1", "groundtruth": 1}'
    error = refuses(put("posts.jsonl", line))
    assert error.message == "`posts.jsonl`: column `post` is empty in 1 row, first row 1"


def test_an_empty_post_id(put: Put) -> None:
    error = refuses(put("posts.csv", HEADER, *GOOD, f" ,{SECRET},A.1,1"))
    assert error.message == "`posts.csv` row 4: the post id is empty"


def test_other_encodings(put: Put) -> None:
    error = refuses(put("posts.csv", HEADER, *GOOD, f"g3,{SECRET} café,A.1,1".encode("latin-1")))
    assert error.message == "`posts.csv` is not UTF-8 (line 4)"
    assert refuses(put("posts.csv", HEADER.encode("utf-16"))).message.endswith("(line 1)")


def test_ragged_rows(put: Put) -> None:
    error = refuses(put("posts.csv", HEADER, *GOOD, "g3,a,b,A.1,1"))
    assert error.message == "`posts.csv` row 4 has 5 fields, the header has 4"
    error = refuses(put("posts.csv", HEADER, *GOOD, "", SECRET))
    assert error.message == "`posts.csv` row 5 has 1 field, the header has 4"


def test_an_open_quotation_mark(put: Put) -> None:
    error = refuses(put("posts.csv", HEADER, *GOOD, f'g3,"{SECRET},A.1,1', "g4,x,A.1,0"))
    assert error.message == "`posts.csv` row 4: a quotation mark is not closed or not doubled"


@pytest.mark.parametrize(("sign", "shown"), [(";", ";"), ("\t", "\\t"), ("|", "|")])
def test_another_delimiter(sign: str, shown: str, put: Put) -> None:
    error = refuses(put("posts.csv", *(line.replace(",", sign) for line in (HEADER, *GOOD))))
    assert error.message == f"`posts.csv` has a single column, is the delimiter `{shown}`?"
    assert error.hint == f'data.delimiter = "{shown}"'
    read(put("posts.csv", *(line.replace(",", sign) for line in (HEADER, *GOOD))), delimiter=sign)


@pytest.mark.parametrize("line", [f"{{{SECRET}", f'"{SECRET}"', "[" * 5000])
def test_bad_json(line: str, put: Put) -> None:
    good = '{"post_id": "a", "post": "x", "DSM5_symptom": "A.1", "groundtruth": 1}'
    error = refuses(put("posts.jsonl", good, line))
    assert error.message == "`posts.jsonl` line 2 is not a JSON object"


def test_bad_json_values(put: Put) -> None:
    good = '{"post_id": "a", "post": "x", "DSM5_symptom": "A.1", "groundtruth": true}'
    error = refuses(put("posts.jsonl", good, good.replace('"post": "x"', f'"post": ["{SECRET}"]')))
    assert error.message == "`posts.jsonl` row 2: `post` must be text or a number"
    error = refuses(put("posts.jsonl", good, good.replace('"post": "x", ', "")))
    assert error.message == "`posts.jsonl` row 2: there is no `post`"
    error = refuses(put("posts.jsonl", good.replace('"x"', f'"{SECRET} \\ud83d"')))
    assert error.message == "`posts.jsonl` row 1: `post` has half a character"


def test_damaged_parquet(put: Put) -> None:
    pytest.importorskip("pyarrow")
    error = refuses(put("posts.parquet", b"PAR1\x00\x00"))
    assert error.message == "`posts.parquet` is damaged or not Parquet"


def test_parquet_without_pyarrow(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    error = refuses(put("posts.parquet", b"PAR1"), MachineError)
    assert error.message == "reading Parquet needs pyarrow"
    assert error.hint == "pip install 'criteria[parquet]'"


def test_contradicting_labels(put: Put) -> None:
    rows = (f"g1,{SECRET} one,A.1,0", f"g2,{SECRET} two,DEPRESSED_MOOD,1")
    error = refuses(put("posts.csv", HEADER, *GOOD, *rows))
    assert error.message == "`posts.csv`: 2 pairs have contradicting labels, first rows 2 and 4"


def test_agreeing_rows_collapse(put: Put) -> None:
    path = put("posts.csv", HEADER, *GOOD, GOOD[0], GOOD[0].replace("A.1", "DEPRESSED_MOOD"))
    corpus = load_corpus(DataSpec(format="pairs", path=path.name), path.parent)
    assert (len(corpus), corpus.collapsed) == (2, 2)


def test_one_id_with_two_texts_or_two_groups(put: Put) -> None:
    error = refuses(put("posts.csv", HEADER, *GOOD, f"g1,{SECRET} other,A.2,0"))
    assert error.message == "`posts.csv`: one post id has two texts, rows 2 and 4"
    rows = ("g1,x,A.1,1,u", "g1,x,A.2,0,v")
    error = refuses(put("posts.csv", HEADER + ",who", *rows), columns=Columns(group="who"))
    assert error.message == "`posts.csv`: one post id has two groups, rows 2 and 3"


def test_unknown_criteria(put: Put) -> None:
    error = refuses(put("posts.csv", HEADER, *GOOD, "g3,x,A.12,1"))
    assert error.message == "`posts.csv` row 4: criterion `A.12` is not in `dsm5-mdd`"
    assert "SLEEP_ISSUES" in error.hint
    put("criteria.json", '{"criteria": [{"id": "Z", "text": "z"}]}')
    error = refuses(put("posts.csv", HEADER, f"g3,x,{SECRET} was not meant for this column,1"))
    assert error.message == "`posts.csv` row 2: the criterion is not in `dsm5-mdd`"
    assert error.hint == "set `data.criteria` to the `criteria.json` beside `posts.csv`"


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only(label: int, put: Put) -> None:
    error = refuses(put("posts.csv", HEADER, f"a,x,A.1,{label}", f"b,y,A.1,{label}"))
    assert error.message == f"`posts.csv` has only label {label}, training needs both"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "`c.json` is not JSON: line 2, "),
        ("[]", "`c.json` has no list `criteria`"),
        ('{"criteria": []}', "`c.json` has no list `criteria`"),
        ('{"criteria": [1]}', "`c.json` has a criterion 1 that is not an object"),
        ('{"criteria": [{"id": "a", "text": " "}]}', "`c.json`: criterion 1 has no text"),
        ('{"criteria": [{"id": "", "text": "x"}]}', "`c.json`: criterion 1 has no id"),
        (
            '{"criteria": [{"id": "a", "txt": "x"}]}',
            "`c.json` has an unknown key `txt` in criterion 1",
        ),
        (
            '{"criteria": [{"id": "a", "text": "x"}, {"id": "b", "name": "a", "text": "y"}]}',
            "`c.json` calls criteria 1 and 2 both `a`",
        ),
        (b"\xff\xfe", "`c.json` is not UTF-8"),
    ],
)
def test_wrong_criteria_files(content: str | bytes, message: str, put: Put) -> None:
    put("c.json", content)
    error = refuses(put("posts.csv", HEADER, *GOOD), criteria="c.json")
    assert error.message.startswith(message)


def test_a_missing_criteria_file(put: Put) -> None:
    error = refuses(put("posts.csv", HEADER, *GOOD), criteria="dms5-mdd")
    assert error.message == "criteria file `dms5-mdd` does not exist (from `data.criteria`)"


def test_redsm5_folders(put: Put, tmp_path: Path) -> None:
    def message(**settings: object) -> str:
        with pytest.raises(UsageError) as caught:
            load_corpus(DataSpec(path="data", **settings), tmp_path)
        assert SECRET not in caught.value.message
        return caught.value.message

    assert message() == "data folder `data` does not exist (from `data.path`)"
    posts = put("data/posts.csv", "post_id,text", f"p1,{SECRET}", "p2,y")
    assert message() == "data folder `data` has no file `*annotations*.csv`, expected one"
    columns = "post_id,sentence_text,DSM5_symptom,status"
    put("data/annotations.csv", columns, "p3,x,FATIGUE,1")
    assert message() == "`annotations.csv` row 2: `post_id` is not in `posts.csv`"
    put("data/annotations.csv", columns, "p1,x,FATIGUE,yes")
    assert message().startswith("`annotations.csv` row 2: column `status` is empty or not a number")
    put("data/annotations.csv", columns, "p1,x,TIREDNESS,1")
    assert message() == "`annotations.csv` row 2: criterion `TIREDNESS` is not in `dsm5-mdd`"
    put("data/annotations.csv", columns, "p1,x,FATIGUE,0")
    assert message() == "`annotations.csv` has only label 0, training needs both"
    put("data/old_posts.csv", "post_id,text", "p1,x")
    assert message() == "data folder `data` has 2 files `*posts*.csv`, expected one"
    (tmp_path / "data" / "old_posts.csv").unlink()
    put("data/posts.csv", "post_id,text", "p1,x", f"p1,{SECRET}")
    assert message() == "`posts.csv`: one post id has two texts, rows 2 and 3"
    posts.unlink()
    assert message() == "data folder `data` has no file `*posts*.csv`, expected one"


def test_a_table_where_a_folder_is_expected(put: Put) -> None:
    path = put("data.csv", HEADER, *GOOD)
    with pytest.raises(UsageError) as caught:
        load_corpus(DataSpec(path=path.name), path.parent)
    assert caught.value.hint == 'one table of pairs has `data.format = "pairs"`'


def test_an_unreadable_file(put: Put) -> None:
    path = put("posts.csv", HEADER, *GOOD)
    path.chmod(0)
    try:
        path.open().close()
    except PermissionError:
        assert refuses(path).message == "cannot read `posts.csv`: permission denied"
    else:
        pytest.skip("this user may read every file")


def test_a_synthetic_corpus_about_other_criteria(put: Put) -> None:
    path = put("c.json", '{"criteria": [{"id": "a", "text": "x"}]}')
    with pytest.raises(UsageError, match="format `synthetic` is about the criteria `dsm5-mdd`"):
        load_corpus(DataSpec(format="synthetic", criteria="c.json"), path.parent)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"format": "synthetic", "path": "x"}, "format `synthetic` does not read `data.path`"),
        (
            {"format": "pairs", "path": "x", "posts": 20},
            "format `pairs` does not read `data.posts`",
        ),
        (
            {"path": "x", "columns": Columns(post="body")},
            "format `redsm5` reads no other `data.columns` than `group`",
        ),
    ],
)
def test_settings_that_a_format_does_not_read(settings: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        DataSpec(**settings)
    assert DataSpec(path="x", columns=Columns(group="author")).columns.group == "author"


def test_a_number_of_too_many_digits(put: Put) -> None:
    line = '{"post_id": ' + "1" * 9000 + "}"
    assert refuses(put("posts.jsonl", line)).message == "`posts.jsonl` line 1 is not a JSON object"


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    wrong = pyarrow.array([b"\xff"], pyarrow.binary()).view(pyarrow.string())
    path = tmp_path / "posts.parquet"
    table = pyarrow.table(dict.fromkeys(HEADER.split(","), wrong))
    pytest.importorskip("pyarrow.parquet").write_table(table, path)
    assert refuses(path).message == "`posts.parquet` is damaged or not Parquet"


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 9000])
def test_criteria_that_json_cannot_hold(text: str, put: Put) -> None:
    (put("posts.csv", HEADER, *GOOD).parent / "c.json").write_text(text)
    error = refuses(put("posts.csv", HEADER, *GOOD), criteria="c.json")
    assert error.message == "`c.json` is not JSON that can be read"
