"""Screens fit every width, say the same in a pipe, and never trust a name from the store."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest

from criteria_cli.cli import failures
from criteria_cli.cli.app import app
from criteria_cli.cli.definition_screen import folds_screen
from criteria_cli.cli.event_lines import PROGRESS_EVERY_S, EventLines, event_sentence
from criteria_cli.cli.layout import Column, Line, Span, line, listed, sides, table, wrapped
from criteria_cli.cli.live import event_line, screen
from criteria_cli.cli.status_screen import study_screen
from criteria_cli.cli.studies_screen import studies_screen
from criteria_cli.data.folds import FoldCount
from criteria_cli.data.summary import DataSummary
from criteria_cli.errors import UsageError
from criteria_cli.hpo.events import (
    EpochEnded,
    FoldEnded,
    LiveWorker,
    SignalSeen,
    StoreAway,
    StoreBack,
    StudyView,
    TrainerRestarted,
    TrialEnded,
    TrialStarted,
    WorkerReady,
    WorkerStarting,
    WorkerStopped,
)
from criteria_cli.hpo.facts import StudyStatus, TrialCounts, Trouble

AT = "2026-11-23T14:02:11Z"
WIDTHS = [40, 60, 80, 100, 120, 200]


def texts(lines: list[Line]) -> list[str]:
    return [item.text for item in lines]


@pytest.mark.parametrize("width", WIDTHS)
def test_status_fits(study_status: StudyStatus, width: int) -> None:
    for lines in (
        study_screen(study_status, "sqlite:///criteria.db", width),
        studies_screen([study_status, study_status], "sqlite:///criteria.db", width),
    ):
        assert all(len(text) <= width for text in texts(lines))
        assert all(text.isascii() for text in texts(lines))


def test_status_at_80_columns_answers_every_question(study_status: StudyStatus) -> None:
    text = "\n".join(texts(study_screen(study_status, "sqlite:///criteria.db", 80)))
    for expected in (
        "140/200 done",
        "70%",
        "61 complete  79 pruned  3 failed  |  3 running  1 waiting",
        "0.7412 f1   trial 118, 5 h 12 m ago",
        "learning_rate 1.9e-05",
        "3 h 10 m  (2 h 40 m to 4 h 05 m)   3 workers at 18 trials/h",
        "LOST",
        "79 of 140 (56%)",
        "46% saved",
        "hyperband fold 1: 44",
        "2 cuda_oom on a100-03 (trial 12, 13)",
        "! a100-03:0 sent no heartbeat for 64 m",
        "! trial 96 is within one fold deviation (0.007) of trial 118",
    ):
        assert expected in text


def test_a_pipe_gets_every_column(study_status: StudyStatus) -> None:
    text = "\n".join(texts(study_screen(study_status, "sqlite:///criteria.db", None)))
    for title in ("TRIAL", "FOLD", "EPOCH", "LAST", "WORKER", "DEVICE", "EX/S", "MEMORY", "DONE"):
        assert title in text
    assert "..." not in text


def test_leaders_stand_side_by_side(study_status: StudyStatus) -> None:
    lines = texts(study_screen(study_status, "s", 80))
    head = next(text for text in lines if "FOLD SD" in text)
    assert head.split() == [
        "TRIAL", "F1", "FOLD", "SD", "FINISHED", "LEARNING_RATE", "BATCH_SIZE", "WEIGHT_DECAY",
    ]  # fmt: skip
    assert "1.9e-05          16         0.011" in lines[lines.index(head) + 1]
    wide = "\n".join(texts(study_screen(study_status, "s", None)))
    assert "WORKER  LEARNING_RATE" in wide.replace("WORKER   ", "WORKER")
    assert "SCHEDULER" in wide


def test_a_finished_study_names_the_next_commands(study_status: StudyStatus) -> None:
    done = replace(study_status, state="finished", name="demo")
    assert texts(study_screen(done, "s", 80))[-2:] == [
        "NEXT     criteria train demo --from best",
        "         criteria report demo",
    ]
    own = replace(done, name="some-name")
    assert texts(study_screen(own, "s", 80))[-2] == (
        "NEXT     criteria train STUDY --name some-name --from best"
    )


def test_names_from_the_store_cannot_move_the_cursor(study_status: StudyStatus) -> None:
    evil = "x\x1b]0;evil\x07\u202e[red]"
    study = replace(
        study_status,
        name=evil,
        workers=tuple(replace(worker, name=evil) for worker in study_status.workers),
    )
    for width in (80, None):
        text = "\n".join(
            texts(study_screen(study, "s", width)) + texts(studies_screen([study], "s", width))
        )
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "\x07" not in text


def test_an_error_that_names_one_cannot_either(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "there are: x\x1b]0;evil\x07\u202e"
    assert failures.report(UsageError(evil, hint=evil), arguments=[], debug=False) == 2
    assert capsys.readouterr().err == "error: there are: x]0;evil\n  hint: there are: x]0;evil\n"


def test_a_new_study_says_what_comes(study_status: StudyStatus) -> None:
    new = replace(
        study_status,
        trials=TrialCounts(complete=2),
        best=None,
        leaders=(),
        eta_s=None,
        eta_range_s=None,
        workers=(),
        failures=(),
        troubles=(),
    )
    text = "\n".join(texts(study_screen(new, "s", 80)))
    assert "none complete yet" in text
    assert "after 3 more trials" in text


def view(study: StudyStatus, workers: int = 2) -> StudyView:
    return StudyView(
        study=study,
        workers=tuple(
            LiveWorker(
                name=f"here:{number}",
                device=f"cuda:{number}",
                device_name="NVIDIA A100",
                state="train" if number % 2 == 0 else "eval",
                trial=147 + number,
                attempt=1 + number,
                fold=2,
                folds=5,
                epoch=7,
                epochs=100,
                step=120,
                steps=340,
                loss=0.2143,
                last_score=0.7108,
                best_score=0.716,
                mean_score=0.702,
                examples_per_s=183.2,
                memory_bytes=33_500_000_000,
                seconds=1263.0,
                next_cut="fold 3",
            )
            for number in range(workers)
        ),
        elapsed_s=4364.0,
        store_away_s=12.0,
        spooled=3,
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("height", [8, 12, 24, 50])
@pytest.mark.parametrize("workers", [1, 2, 16])
def test_the_live_screen_fits(
    study_status: StudyStatus, width: int, height: int, workers: int
) -> None:
    events = [line(f"event {number} " + "x" * 150) for number in range(20)]
    lines = screen(view(study_status, workers), events, "runs/x/hpo.log", width, height)
    assert len(lines) <= height
    assert all(len(text) <= width for text in texts(lines))


def test_the_live_screen_says_that_a_worker_starts(study_status: StudyStatus) -> None:
    found = view(study_status)
    starting = replace(found.workers[0], state="load", trial=None)
    lines = texts(screen(replace(found, workers=(starting,)), [], "runs/x/hpo.log", 80, 30))
    assert "cuda:0 starting: reads the data, loads the model" in lines


def test_the_live_screen_shows_what_a_worker_does(study_status: StudyStatus) -> None:
    for width in (80, 120, 160):
        text = "\n".join(texts(screen(view(study_status), [], "runs/x/hpo.log", width, 30)))
        for expected in (
            "140/200",
            "best f1 0.7412 (trial 118)",
            "ETA 3 h 10 m (2 h 40 m to 4 h 05 m)",
            "trial 147  fold 2/5  epoch   7/100",
            "f1 0.7108",
            "loss 0.214",
            "183 ex/s",
            "31.2 GiB",
            "next cut fold 3",
            "1 elsewhere",
            "3 records wait",
            "runs/x/hpo.log",
        ):
            assert expected in text, expected


@pytest.mark.parametrize("width", [80, 120, None])
def test_the_fold_table_counts_positives_and_pairs(width: int | None) -> None:
    """Trap 9: what each fold holds out of each criterion."""
    table = tuple(
        FoldCount(name, f"CRITERION_{name}", fold, pairs=200 + fold, posts=200 + fold, positives=7)
        for name in ("A.1", "A.2")
        for fold in range(1, 6)
    )
    data = DataSummary(
        posts=1015, pairs=2030, positives=70, groups=1015, criteria=2, folds=5, table=table,
        baseline=0.1, sha256="", warnings=(),
    )  # fmt: skip
    head, first, _, every, *_ = texts(folds_screen(data, width))
    assert head.endswith("FOLD 4  FOLD 5")
    assert first.split()[-5:] == ["7/201", "7/202", "7/203", "7/204", "7/205"]
    assert every.split()[-5:] == ["14/402", "14/404", "14/406", "14/408", "14/410"]
    if width is None:
        assert first.split()[2:5] == ["1015", "1015", "35"]


EVENTS = [
    WorkerStarting(AT, "w", device="cuda:0", device_name="NVIDIA A100-SXM4-40GB"),
    WorkerReady(AT, "w", device="cpu", device_name="AMD EPYC", precision="fp32", pairs=10),
    TrialStarted(AT, "w", trial=3, params={"learning_rate": 1e-5, "scheduler": "linear"}),
    TrialStarted(AT, "w", trial=3, attempt=2, adopted_from="other", folds_done=2),
    EpochEnded(AT, "w", trial=3, epoch=2, score=0.5, loss=0.2),
    FoldEnded(AT, "w", trial=3, fold=1, folds=5, score=0.5, best_epoch=2, epochs=4),
    TrialEnded(AT, "w", trial=3, state="pruned", score=0.41, fold=1, reason="below 0.45"),
    TrialEnded(AT, "w", trial=4, state="failed", cause="nan_loss", reason="the loss is nan"),
    TrialEnded(AT, "w", trial=5, state="complete", score=0.61, best=True, seconds=70.0),
    TrainerRestarted(AT, "w", cause="killed", message="out of memory?"),
    StoreAway(AT, "", cause="connection refused"),
    StoreBack(AT, "", seconds=42.0, sent=3),
    SignalSeen(AT, "", signal="SIGTERM"),
    WorkerStopped(AT, "w", reason="done", message="the budget is spent"),
]


def test_a_pipe_gets_one_clean_line_per_event(study_status: StudyStatus) -> None:
    stream = io.StringIO()
    lines = EventLines(stream)
    for event in EVENTS:
        lines(event)
    written = stream.getvalue()
    assert "\r" not in written
    assert "\x1b" not in written
    # an epoch is progress, not an event
    assert len(written.splitlines()) == len(EVENTS) - 1
    assert all(item.startswith(AT) for item in written.splitlines())
    assert 'worker starting device=cuda:0 name="NVIDIA A100-SXM4-40GB"' in written
    assert "trial n=3 start learning_rate=1e-05 scheduler=linear" in written
    assert "trial n=3 goes on after other attempt=2 folds_done=2" in written
    assert "trial n=4 failed time_s=0 cause=nan_loss: the loss is nan" in written
    assert "trial n=5 complete score=0.6100 best time_s=70" in written


def test_what_a_pruned_trial_was_compared_with_fits_a_narrow_window() -> None:
    for reason, epoch, value in (
        ("hyperband < 0.4822", 12, 0.431), ("hyperband 0.4310 < 0.4822", 12, None),
        ("patience, behind trial 96", None, 0.431), ("racing, chance 0.4%", 12, 0.431),
    ):  # fmt: skip
        ended = TrialEnded(
            AT, "w", trial=147, state="pruned", score=value, fold=3, epoch=epoch, seconds=3900.0,
            reason=reason,
        )  # fmt: skip
        found = event_line(ended)
        assert found is not None
        assert reason in found.fitted(79).text
        assert event_sentence(ended).endswith(f": {reason}")


def test_cut_posts_and_collapsed_models_are_said() -> None:
    """Traps 6 and 38."""

    def listed(event: WorkerReady | FoldEnded) -> str:
        found = event_line(event)
        return "" if found is None else found.text

    ready = WorkerReady(AT, "w", device="cpu", precision="fp32", cut_posts=7, unread=0.034)
    fold = FoldEnded(AT, "w", trial=3, fold=1, folds=5, score=0.0, epochs=21)
    assert "cut_posts=7 unread=0.0340" in event_sentence(ready)
    assert "7 posts cut, 3% unread" in listed(ready)
    assert "cut" not in listed(replace(ready, cut_posts=0, unread=0.0))
    assert "collapsed" not in event_sentence(fold)
    assert listed(fold) == ""
    collapsed = replace(fold, collapsed=True)
    assert event_sentence(collapsed).endswith("epochs=21 collapsed=yes")
    assert "collapsed=yes" in listed(collapsed)


def test_a_pipe_gets_one_progress_line_a_minute_for_each_trial(study_status: StudyStatus) -> None:
    stream, clock = io.StringIO(), [0.0]
    lines = EventLines(stream, now=lambda: clock[0])
    for second in range(601):
        clock[0] = float(second)
        lines(view(study_status))
    first, *written = stream.getvalue().splitlines()
    assert first == (
        f"{AT} study name=deberta-nli-5fold done=140/200 pruned=79 failed=3 best=0.7412 "
        "best_trial=118 workers=3 eta_s=9600-14700"
    )
    assert len(written) == 2 * 600 // PROGRESS_EVERY_S
    assert "trial n=147 fold=2/5 epoch=7/100 step=120/340" in written[0]
    assert "memory_bytes=33500000000 time_s=1263" in written[0]


def test_a_pipe_hears_of_the_study_when_it_gets_on(study_status: StudyStatus) -> None:
    stream, clock = io.StringIO(), [0.0]
    lines = EventLines(stream, now=lambda: clock[0])
    for second in range(301):
        clock[0] = float(second)
        counts = TrialCounts(complete=second // 20 if second < 200 else 10)
        lines(view(replace(study_status, trials=counts), workers=0))
    # a trial every 20 s, a line every 60 s, none any more when nothing ends
    done = [item.split("done=")[1].split()[0] for item in stream.getvalue().splitlines()]
    assert done == ["0/200", "3/200", "6/200", "9/200", "10/200"]


def test_a_study_of_weeks_is_warned_about_once(study_status: StudyStatus) -> None:
    hint = "more workers, a lower --trials or fewer epochs make it shorter"
    trouble = Trouble("long", "at this pace it takes 156 more days", hint, serious=False)
    long = replace(study_status, troubles=(trouble,))
    stream = io.StringIO()
    lines = EventLines(stream)
    for _ in range(3):
        lines(view(long))
    assert stream.getvalue().count(f"warning: at this pace it takes 156 more days: {hint}") == 1
    assert any("156 more days" in text for text in texts(screen(view(long), [], "log", 80, 30)))
    shown = "\n".join(texts(study_screen(long, "s", 80)))
    assert shown.count("156 more days") == 1


def test_every_event_has_a_line_for_the_screen() -> None:
    for event in EVENTS:
        told = event_line(event)
        assert told is None or (told.text.startswith("14:02:11Z") and "\n" not in told.text)


def test_columns_fall_away_by_rank_and_the_rest_shrinks() -> None:
    columns = [Column("NAME", shrink=True), Column("A", rank=1), Column("B", rank=2)]
    rows = [["x" * 20, "a" * 10, "b" * 10]]
    assert texts(table(columns, rows, 50))[0].split() == ["NAME", "A", "B"]
    assert texts(table(columns, rows, 42))[1] == f"{'x' * 15}...  aaaaaaaaaa  bbbbbbbbbb"
    assert texts(table(columns, rows, 39))[0].split() == ["NAME", "A"]
    assert texts(table(columns, rows, 20))[0].split() == ["NAME"]
    assert texts(table(columns, rows, 10))[1] == "xxxxxxx..."


def test_a_part_of_a_list_is_never_broken() -> None:
    parts = ["forward 43%", "backward 31%", "store 1%"]
    assert texts(listed(parts, 30, head="TIME     ", hang=" " * 9)) == [
        "TIME     forward 43%,", "         backward 31%,", "         store 1%",
    ]  # fmt: skip
    assert texts(listed(parts, None)) == ["forward 43%, backward 31%, store 1%"]


def test_lines_are_cut_with_a_mark() -> None:
    assert line("abcdef", Span("ghij", "bad")).fitted(8).text == "abcde..."
    assert sides(line("left"), line("right"), 20).text == "left           right"
    assert texts(wrapped("one two three", 8, "  ")) == ["  one", "  two", "  three"]
    assert texts(wrapped("fits     one  two three", 17, hang="> ")) == [
        "fits     one  two",
        "> three",
    ]
    assert texts(wrapped("a" * 12 + " b", 10)) == ["aaaaaaa...", "b"]


HELPED = ["probe-vram", "hpo", "train", "status", "predict", "report", "doctor", "init"]


@pytest.mark.parametrize("command", [[], *([name] for name in HELPED), ["storage", "upgrade"]])
def test_help_fits_80_columns_and_shows_an_example(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    app([*command, "--help"], prog_name="criteria", standalone_mode=False)
    text = capsys.readouterr().out
    assert [item for item in text.splitlines() if len(item) > 80] == []
    assert "..." not in text.replace("[ARGS]...", ""), "a summary was cut"
    assert re.search(r"(Examples?|Start with):\n +criteria ", text)
    assert command == ["storage", "upgrade"] or "<str>" not in text
