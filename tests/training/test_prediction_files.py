import csv
import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest

from criteria_cli.errors import MachineError, Saved, UsageError
from criteria_cli.study.prediction import PredictOrder, PredictProgress
from criteria_cli.training.predict import Predictor
from criteria_cli.training.prediction_files import predict_file
from criteria_cli.training.prediction_writer import Counts

POSTS = {
    f"p{number}": f"I cannot sleep since day {number}. The bus was late." for number in range(66)
}


def go_on(progress: PredictProgress) -> bool:
    return True


@pytest.fixture
def order(model_dir: Path, tmp_path: Path) -> PredictOrder:
    source = tmp_path / "posts.csv"
    write_posts(source, 8)
    return PredictOrder(model_dir, source, tmp_path / "scores.csv", device="cpu")


@pytest.fixture
def many(order: PredictOrder) -> PredictOrder:
    """More posts than are scored between two saves."""
    write_posts(order.input, len(POSTS))
    return order


def write_posts(path: Path, number: int) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("post_id", "text"), *list(POSTS.items())[:number]])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_every_post_and_criterion(order: PredictOrder) -> None:
    heard: list[PredictProgress] = []
    result = predict_file(order, lambda progress: bool(heard.append(progress)) or True)
    rows = rows_of(order.out)
    assert list(rows[0]) == ["post_id", "criterion_id", "probability", "prediction"]
    assert (result.posts, result.pairs, len(rows)) == (8, 72, 72)
    assert [row["post_id"] for row in rows[::9]] == list(POSTS)[:8]
    expected = Predictor(order.model_dir).predict(dict(list(POSTS.items())[:8]))
    for row, each in zip(rows, expected, strict=True):
        assert float(row["probability"]) == pytest.approx(each.probability, abs=1e-6)
        assert row["prediction"] == each.prediction
    assert (heard[-1].posts, heard[-1].total) == (8, 8)
    assert sorted(path.name for path in order.out.parent.iterdir()) == ["posts.csv", "scores.csv"]
    assert order.out.stat().st_mode & 0o077 == 0


def test_no_text_unless_asked(order: PredictOrder) -> None:
    predict_file(replace(order, evidence=True), go_on)
    content = order.out.read_text()
    assert "sleep" not in content
    assert '""start"": ' in content
    predict_file(replace(order, evidence=True, include_text=True, overwrite=True), go_on)
    rows = rows_of(order.out)
    assert rows[0]["post"] == POSTS["p0"]
    named = [json.loads(row["evidence"]) for row in rows]
    assert any(each["text"] in POSTS["p0"] for each in named[0] + named[1] + named[2])


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_other_formats_say_the_same(ending: str, order: PredictOrder) -> None:
    predict_file(replace(order, evidence=True), go_on)
    other = replace(order, out=order.out.with_suffix(ending), evidence=True)
    predict_file(other, go_on)
    if ending == ".jsonl":
        rows = [json.loads(line) for line in other.out.read_text().splitlines()]
    else:
        rows = pyarrow.parquet.read_table(other.out).to_pylist()
    expected = rows_of(order.out)
    assert len(rows) == len(expected)
    for row, like in zip(rows, expected, strict=True):
        assert row["probability"] == float(like["probability"])
        assert (row["post_id"], row["prediction"]) == (like["post_id"], like["prediction"])
        places = [each["start"] for each in row["evidence"]]
        assert places == [each["start"] for each in json.loads(like["evidence"])]
    assert len(list(other.out.parent.iterdir())) == 3


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(
    ending: str, many: PredictOrder
) -> None:
    whole = replace(many, out=many.out.with_name(f"whole{ending}"))
    predict_file(whole, go_on)
    many = replace(many, out=many.out.with_suffix(ending))
    with pytest.raises(Saved, match="32 of 66 posts"):
        predict_file(many, lambda progress: False)
    assert not many.out.exists()
    result = predict_file(many, go_on)
    assert (result.resumed, result.posts, result.pairs) == (32, 66, 594)
    assert many.out.read_bytes() == whole.out.read_bytes()


KILLED = """
import os, sys
from pathlib import Path
from criteria_cli.study.prediction import PredictOrder
from criteria_cli.training import prediction_writer
from criteria_cli.training.prediction_files import predict_file
prediction_writer._SAVE_S = 0.0
model, source, out = map(Path, sys.argv[1:])
def report(progress):
    if progress.posts >= 64:
        os.kill(os.getpid(), 9)
    return True
predict_file(PredictOrder(model, source, out, device="cpu"), report)
"""


def test_a_killed_run_goes_on(many: PredictOrder) -> None:
    whole = replace(many, out=many.out.with_name("whole.csv"))
    predict_file(whole, go_on)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, many.model_dir, many.input, many.out],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    partial = many.out.with_name(".scores.csv.partial")
    with partial.open("ab") as file:
        file.write(b"p64,A.1,0.9,pres")  # what the kernel still wrote
    result = predict_file(many, go_on)
    assert result.resumed == 64
    assert many.out.read_bytes() == whole.out.read_bytes()


def test_half_of_another_result_is_not_gone_on_from(many: PredictOrder) -> None:
    with pytest.raises(Saved):
        predict_file(many, lambda progress: False)
    assert predict_file(replace(many, abstain=True), go_on).resumed == 0


def stopped_halfway(order: PredictOrder) -> tuple[Path, Path, bytes]:
    """The half of a result, its note, and what the whole will be."""
    whole = replace(order, out=order.out.with_name("whole.csv"))
    predict_file(whole, go_on)
    with pytest.raises(Saved, match="32 of 66 posts"):
        predict_file(order, lambda progress: False)
    partial = order.out.with_name(".scores.csv.partial")
    return partial, partial.with_name(".scores.csv.partial.json"), whole.out.read_bytes()


@pytest.mark.parametrize("damage", ["zeros", "a digit", "cut", "gone", "other rows"])
def test_a_half_that_was_changed_is_made_anew(damage: str, many: PredictOrder) -> None:
    partial, _, whole = stopped_halfway(many)
    half = partial.read_bytes()
    if damage == "gone":
        partial.unlink()
    else:
        at = half.index(b"0.", len(half) // 2) + 4
        partial.write_bytes(
            {
                "zeros": bytes(len(half)),
                "a digit": half[:at] + bytes([half[at] ^ 1]) + half[at + 1 :],
                "cut": half[:-1],
                "other rows": half[::-1] * 2,
            }[damage]
        )
    assert predict_file(many, go_on).resumed == 0
    assert many.out.read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    [
        {"posts": 33},
        {"posts": -1},
        {"posts": 0},
        {"posts": 67},
        {"posts": "32"},
        {"posts": True},
        {"bytes": -1},
        {"bytes": 0},
        {"bytes": 1.5},
        {"bytes": None},
        {"bytes": 10**30},
        {"pairs": -9},
        {"pairs": 0},
        {"positives": 10**6},
        {"cut": 33},
        {"abstained": [1]},
        {"more": 1},
        None,
        [],
    ],
)
def test_a_note_that_cannot_be_true_is_not_believed(change: object, many: PredictOrder) -> None:
    _, path, whole = stopped_halfway(many)
    note = json.loads(path.read_text())
    note["counts"] = note["counts"] | change if isinstance(change, dict) else change
    path.write_text(json.dumps(note))
    result = predict_file(many, go_on)
    assert (result.resumed, result.posts, result.pairs, result.cut) == (0, 66, 594, 0)
    assert many.out.read_bytes() == whole


@pytest.mark.parametrize("counts", [{"posts": 67}, {"bytes": 0}, {"posts": 40, "pairs": 39}])
def test_impossible_counts(counts: dict[str, int]) -> None:
    possible = {"posts": 66, "bytes": 9, "pairs": 594, "positives": 500, "abstained": 94, "cut": 66}
    assert Counts(**possible).possible(66)
    assert not Counts(**possible | counts).possible(66)


@pytest.mark.parametrize("ending", [".partial", ".partial.json", ".partial.parquet"])
def test_a_folder_beside_the_result_is_told_before_the_work(
    ending: str, order: PredictOrder
) -> None:
    order.out.with_name(f".scores.csv{ending}").mkdir()
    with pytest.raises(UsageError, match=r"^cannot write beside `scores.csv`: is a directory$"):
        predict_file(order, lambda progress: pytest.fail("posts were scored"))


def test_a_run_that_ended_while_its_parquet_got_its_name_goes_on(
    order: PredictOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = replace(order, out=order.out.with_suffix(".parquet"))
    real = Path.replace

    def replace_file(path: Path, target: Path) -> Path:
        if target == order.out:
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_file)
        with pytest.raises(KeyboardInterrupt):
            predict_file(order, go_on)
    assert predict_file(order, go_on).resumed == 8
    assert pyarrow.parquet.read_table(order.out).num_rows == 72
    assert sorted(path.name for path in order.out.parent.iterdir()) == [
        "posts.csv",
        "scores.parquet",
    ]


def test_a_post_that_stands_there_twice_is_scored_once(order: PredictOrder) -> None:
    order.input.write_text(
        "post_id,post,DSM5_symptom\n1,I sleep badly,A.1\n1,I sleep badly,A.2\n2,fine,A.1\n"
    )
    assert predict_file(order, go_on).posts == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("post_id,text\n1,a\n1,b\n", r"`posts.csv` row 3: the post id has had another text"),
        ("post_id,text\n1,a\n2, \n", r"`posts.csv` row 3: column `text` is empty"),
        ("post_id,text\n,a\n", r"`posts.csv` row 2: the post id is empty"),
        (
            "post_id,body\n1,a\n",
            r"`posts.csv` has no column `post` or `text`, it has: post_id, body",
        ),
        ("id,text\n1,a\n", r"`posts.csv` has no column `post_id`, it has: id, text"),
        ("", r"`posts.csv` has no rows"),
    ],
)
def test_input_that_cannot_be_used(content: str, message: str, order: PredictOrder) -> None:
    order.input.write_text(content)
    with pytest.raises(UsageError, match=message) as refused:
        predict_file(order, go_on)
    assert not order.out.exists()
    if "no column" in message:
        assert refused.value.hint == "name them with --id-column and --text-column"


def test_a_named_column_that_is_not_there(order: PredictOrder) -> None:
    with pytest.raises(UsageError, match=r"has no column `body`") as refused:
        predict_file(replace(order, text_column="body"), go_on)
    assert refused.value.hint == "name them with --id-column and --text-column"


def test_a_folder_is_no_input(order: PredictOrder) -> None:
    with pytest.raises(UsageError, match=r"is a folder, INPUT must be a file"):
        predict_file(replace(order, input=order.input.parent), go_on)


def test_columns_may_have_other_names(order: PredictOrder) -> None:
    order.input.write_text("id,body\n1,I sleep badly\n")
    result = predict_file(replace(order, id_column="id", text_column="body"), go_on)
    assert result.posts == 1


@pytest.mark.parametrize("name", ["scores.txt", "scores", "none/scores.csv"])
def test_output_that_cannot_be_written(name: str, order: PredictOrder) -> None:
    with pytest.raises(UsageError):
        predict_file(replace(order, out=order.out.with_name("x").parent / name), go_on)


def test_nothing_is_written_over(order: PredictOrder) -> None:
    order.out.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        predict_file(order, go_on)
    assert order.out.read_text() == "mine"


def test_a_folder_is_never_replaced(order: PredictOrder) -> None:
    order.out.mkdir()
    with pytest.raises(UsageError, match=r"`scores.csv` is a folder, the result must be a file"):
        predict_file(replace(order, overwrite=True), lambda progress: pytest.fail("scored"))


def test_the_input_is_never_written_over(order: PredictOrder) -> None:
    before = order.input.read_bytes()
    with pytest.raises(UsageError, match="is the input itself"):
        predict_file(replace(order, out=order.input, overwrite=True), go_on)
    assert order.input.read_bytes() == before


def test_what_others_can_read_is_not_written_into(order: PredictOrder) -> None:
    planted = order.out.with_name(".scores.csv.partial")
    planted.touch(0o666)
    planted.chmod(0o666)
    with planted.open("rb") as theirs:
        predict_file(replace(order, include_text=True), go_on)
        assert theirs.read() == b""
    assert order.out.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_is_the_machines_affair(
    order: PredictOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(MachineError, match=r"scores.csv`: no space left on device"):
            predict_file(order, go_on)
    assert predict_file(order, go_on).posts == 8


def test_a_planted_link_is_not_followed(order: PredictOrder, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    order.out.with_name(".scores.csv.partial").symlink_to(victim)
    with pytest.raises(UsageError, match="cannot write beside"):
        predict_file(order, go_on)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("kind", ["link", "file"])
def test_parquet_is_written_into_a_file_of_its_own(
    kind: str, order: PredictOrder, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    order = replace(order, out=tmp_path / "scores.parquet")
    planted = tmp_path / ".scores.parquet.partial.parquet"
    if kind == "link":
        planted.symlink_to(victim)
    else:
        planted.touch()
        planted.chmod(0o644)  # others could read what they made
    predict_file(order, go_on)
    assert victim.read_text() == "mine"
    assert not order.out.is_symlink()
    assert order.out.stat().st_mode & 0o777 == 0o600
    assert pyarrow.parquet.read_table(order.out).num_rows == 72


def test_how_many_posts_were_cut_is_counted(order: PredictOrder) -> None:
    order.input.write_text(f"post_id,text\n1,short\n2,{'very long ' * 80}\n")
    assert predict_file(order, go_on).cut == 1
