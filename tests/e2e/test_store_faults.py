"""The store goes away, breaks off, freezes, fills up or says no while a study runs."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from invariants import check, trained_twice
from postgres_server import PostgresServer
from processes import Place, wait_until
from tcp_proxy import TcpProxy

from criteria_cli.hpo.engine import make_engine
from criteria_cli.hpo.tables import folds, leases
from criteria_cli.hpo.url import read_url

OwnServer = Callable[..., PostgresServer]


def own_place(tmp_path: Path, server: PostgresServer, **values: object) -> Place:
    return Place(tmp_path, server.url(server.new_database())).write(**values)


def database(place: Place) -> str:
    return place.storage.split("@/")[1].split("?")[0]


def attempts_of(server: PostgresServer, place: Place) -> list[tuple[object, ...]]:
    return server.execute(
        "select trial, token, outcome from criteria_attempts order by trial, token",
        database(place),
    )


def epochs_of(server: PostgresServer, place: Place) -> int:
    rows = server.execute("select count(*) from criteria_epochs", database(place))
    return int(str(rows[0][0]))


@pytest.mark.fault(20)
def test_a_cut_connection_costs_nothing(postgres_place: Place, postgres: PostgresServer) -> None:
    place = postgres_place.write(trials=2, epochs=10)
    worker = place.start()
    for epoch in (2, 4, 6):
        worker.wait_for(rf"EpochEnded.*trial=0, fold=1.*epoch={epoch},")
        postgres.end_clients(database(place))
    assert worker.end() == 0, worker.text
    check(place.storage, place.runs, place.name, target=2)
    assert attempts_of(postgres, place) == [(0, 1, "complete"), (1, 1, "complete")]
    assert epochs_of(postgres, place) == 2 * 2 * 10


@pytest.mark.fault(21, 22)
def test_a_crash_of_the_server_loses_no_report_and_no_lease(
    tmp_path: Path, own_server: OwnServer
) -> None:
    server = own_server()
    place = own_place(tmp_path, server, trials=2, epochs=20)
    workers = [place.start(), place.start()]
    for worker in workers:
        worker.wait_for(r"EpochEnded.*epoch=3,")
    server.crash()
    for worker in workers:
        worker.wait_for("StoreAway")
    away = time.monotonic()
    workers[0].wait_for(r"FoldEnded")  # training goes on
    while time.monotonic() - away < 2 * place.timings["lease"]:
        time.sleep(0.1)  # longer than any lease: on return nobody may be called dead
    server.start()
    for worker in workers:
        assert worker.end() == 0, worker.text
        assert "StoreBack" in worker.text
    check(place.storage, place.runs, place.name, target=2)
    assert [row[2] for row in attempts_of(server, place)] == ["complete", "complete"]
    assert epochs_of(server, place) == 2 * 2 * 20


@pytest.mark.fault(23)
def test_a_server_that_is_away_when_a_trial_ends_hears_of_it_later(
    tmp_path: Path, own_server: OwnServer
) -> None:
    server = own_server()
    place = own_place(tmp_path, server, trials=1, epochs=6)
    worker = place.start()
    worker.wait_for(r"EpochEnded.*fold=2.*epoch=2,")
    server.crash()
    worker.wait_for(r"FoldEnded.*fold=2,")
    worker.wait_for("StoreAway")
    server.start()
    assert worker.end() == 0, worker.text
    check(place.storage, place.runs, place.name, target=1)
    assert trained_twice(place.runs / place.name)["epochs_again"] == 0


@pytest.mark.fault(24)
def test_a_server_that_stays_away_ends_the_worker_with_everything_saved(
    tmp_path: Path, own_server: OwnServer
) -> None:
    server = own_server()
    place = own_place(tmp_path, server, trials=1, epochs=40)
    place.timings["patience"] = 2.0
    worker = place.start()
    worker.wait_for(r"EpochEnded.*fold=1.*epoch=3,")
    server.crash()
    assert worker.end() == 4, worker.text
    assert "refused the connection" in worker.text
    server.start()
    second = place.start()
    assert second.end() == 0, second.text
    check(place.storage, place.runs, place.name, target=1)
    assert trained_twice(place.runs / place.name)["epochs_again"] == 0


@pytest.mark.fault(25)
def test_a_frozen_server_does_not_hold_up_training(tmp_path: Path, own_server: OwnServer) -> None:
    server = own_server()
    place = own_place(tmp_path, server, trials=1, epochs=30)
    place.timings["answer"] = 0.2
    worker = place.start()
    worker.wait_for(r"EpochEnded.*fold=1.*epoch=3,")
    server.freeze()
    try:
        worker.wait_for(r"FoldEnded.*fold=1,")
        worker.wait_for(r"EpochEnded.*fold=2.*epoch=2,")
    finally:
        server.thaw()
    assert worker.end() == 0, worker.text
    check(place.storage, place.runs, place.name, target=1)
    assert attempts_of(server, place) == [(0, 1, "complete")]
    assert epochs_of(server, place) == 2 * 30


@pytest.mark.fault(26)
def test_a_bad_wire(tmp_path: Path, own_server: OwnServer) -> None:
    server = own_server()
    proxy = TcpProxy(server.socket)
    try:
        name = server.new_database()
        place = Place(tmp_path, proxy.url(name)).write(trials=2, epochs=12)
        place.timings["answer"] = 0.2
        worker = place.start()
        worker.wait_for(r"EpochEnded.*fold=1.*epoch=2,")
        proxy.delay_s = 0.1
        worker.wait_for(r"EpochEnded.*fold=1.*epoch=4,")
        proxy.cut()
        worker.wait_for(r"EpochEnded.*fold=1.*epoch=6,")
        proxy.delay_s, proxy.silent = 0.0, True
        worker.wait_for(r"EpochEnded.*fold=1.*epoch=10,")
        proxy.cut()
        proxy.silent = False
        assert worker.end() == 0, worker.text
        check(server.url(name), place.runs, place.name, target=2)
    finally:
        proxy.close()


@pytest.mark.fault(27)
def test_more_workers_than_connections_wait_their_turn(
    tmp_path: Path, own_server: OwnServer
) -> None:
    server = own_server(12)  # three of them are kept for the superuser, which our user is
    place = own_place(tmp_path, server, trials=8, epochs=2)
    held = [server.connect() for _ in range(6)]
    workers = [place.start() for _ in range(4)]
    for connection in held[:4]:
        workers[0].wait_for("TrialStarted|WorkerStopped")  # the others may have done it all
        connection.close()
    for worker in workers:
        assert worker.end() == 0, worker.text
    for connection in held[4:]:
        connection.close()
    check(place.storage, place.runs, place.name, target=8)


@pytest.mark.fault(28)
def test_a_server_that_turns_read_only_counts_as_away(
    tmp_path: Path, own_server: OwnServer
) -> None:
    server = own_server()
    place = own_place(tmp_path, server, trials=1, epochs=20)
    worker = place.start()
    worker.wait_for(r"EpochEnded.*fold=1.*epoch=3,")
    name = database(place)
    server.execute(f"alter database {name} set default_transaction_read_only = on")
    server.end_clients(name)
    worker.wait_for("StoreAway.*read-only")
    server.execute(f"alter database {name} set default_transaction_read_only = off")
    server.end_clients(name)
    assert worker.end() == 0, worker.text
    check(place.storage, place.runs, place.name, target=1)
    assert epochs_of(server, place) == 2 * 20


def test_a_worker_holds_two_connections_at_most(
    postgres_place: Place, postgres: PostgresServer
) -> None:
    place = postgres_place.write(trials=3, epochs=10)
    worker = place.start()
    seen = []
    for trial in range(3):
        worker.wait_for(rf"TrialStarted.*trial={trial},")
        seen.append(postgres.clients(database(place)))
    assert worker.end() == 0, worker.text
    assert max(seen) <= 2
    assert postgres.clients(database(place)) == 0


# -- SQLite --------------------------------------------------------------------------------------


@pytest.mark.fault(32)
def test_a_locked_file_is_waited_for(sqlite_place: Place) -> None:
    place = sqlite_place.write(trials=2, epochs=10)
    worker = place.start()
    worker.wait_for(r"EpochEnded.*fold=1.*epoch=2,")
    other = sqlite3.connect(place.folder / "store.db", isolation_level=None, timeout=30)
    other.execute("begin exclusive")
    worker.wait_for(r"EpochEnded.*fold=1.*epoch=5,")
    other.execute("rollback")
    other.close()
    assert worker.end() == 0, worker.text
    check(place.storage, place.runs, place.name, target=2)


@pytest.mark.fault(33)
def test_a_full_disk_under_the_store_counts_as_away(sqlite_place: Place) -> None:
    """`max_page_count` says "database or disk is full" as a full disk does."""
    place = sqlite_place.write(trials=1, epochs=60)
    go = place.folder / "go"
    worker = place.start(env={"CRITERIA_FAULTS": "sql:full", "CRITERIA_FAULTS_GATE": str(go)})
    worker.wait_for(r"EpochEnded.*fold=1.*epoch=3,")
    go.touch()
    worker.wait_for("StoreAway.*disk full")
    worker.wait_for(r"FoldEnded.*fold=1,")
    go.unlink()
    assert worker.end() == 0, worker.text
    check(place.storage, place.runs, place.name, target=1)


@pytest.mark.fault(61)
def test_status_looks_without_holding_anybody_up(place: Place) -> None:
    from criteria_cli.hpo import status

    place.write(trials=4, epochs=4)
    worker = place.start()
    looks = 0
    worker.wait_for("TrialStarted")
    while worker.process.poll() is None:
        found = status.read_study(place.storage, place.name)
        assert found.trials.finished <= found.target == 4
        looks += 1
    assert worker.end() == 0, worker.text
    assert looks > 5
    assert status.read_study(place.storage, place.name).state == "finished"


def test_rows_that_are_damaged_while_a_search_runs_stop_it_with_everything_saved(
    place: Place,
) -> None:
    place.timings["lease"] = 6.0
    place.write(trials=3, epochs=6)
    worker = place.start(workers=2, env={"SYNTHETIC_EPOCH_S": "0.3"})
    worker.wait_for(r"FoldEnded.*fold=1,")
    engine = make_engine(read_url(place.storage))
    before: list[sa.Row[tuple[int, int, str]]] = []

    def damaged() -> bool:
        listed = sa.select(folds.c.trial, folds.c.fold, folds.c.report).with_for_update()
        with engine.begin() as connection:
            before[:] = connection.execute(listed).all()
            for trial, fold, _ in before:
                row = sa.update(folds).where(folds.c.trial == trial, folds.c.fold == fold)
                connection.execute(row.values(report="zzz"))
        return bool(before)

    wait_until(damaged, what="the fold's way into the store")
    assert worker.end(30) == 4, worker.text
    said = [line for line in worker.lines if line.startswith("error:")]
    assert said == [
        "error: storage: what is written of study `s` is damaged, or of a newer criteria"
    ]
    assert "Traceback" not in worker.text
    with engine.begin() as connection:
        held = sa.select(sa.func.count()).where(leases.c.worker.is_not(None))
        assert connection.execute(held).scalar_one() == 0, "all trials are given back"
        for trial, fold, report in before:
            row = sa.update(folds).where(folds.c.trial == trial, folds.c.fold == fold)
            connection.execute(row.values(report=report))
    engine.dispose()
    second = place.start()
    assert second.end() == 0, second.text
    again = trained_twice(place.runs / place.name)
    assert again["folds_again"] == again["epochs_again"] == 0
    check(place.storage, place.runs, place.name, target=3)


def test_a_table_that_goes_while_a_search_runs_stops_it_in_one_line(place: Place) -> None:
    place.write(trials=3, epochs=6)
    worker = place.start(env={"SYNTHETIC_EPOCH_S": "0.3"})
    worker.wait_for(r"FoldEnded.*fold=1,")
    engine = make_engine(read_url(place.storage))
    with engine.begin() as connection:
        folds.drop(connection)
    engine.dispose()
    assert worker.end(30) == 4, worker.text
    assert len([line for line in worker.lines if line.startswith("error: storage: ")]) == 1
    assert "Traceback" not in worker.text
    assert (place.runs / "s" / "trial-0" / "fold-1.json").exists()
