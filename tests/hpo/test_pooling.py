"""Workers share few connections: those that wait hold none, and a transaction pooler is enough."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from desk import Desk, desks, identity_of, spec_of
from pgbouncer import FOUND, pgbouncer
from postgres_server import PostgresServer
from processes import wait_until

from criteria_cli.hpo.prepare import exclusive, prepare
from criteria_cli.hpo.url import read_url


def test_who_waits_for_the_tables_holds_no_connection(postgres: PostgresServer) -> None:
    database = postgres.new_database()
    url = read_url(postgres.url(database))
    with exclusive(url):
        assert postgres.clients(database) == 1
        waiting = threading.Thread(target=prepare, args=(url, identity_of(spec_of())))
        waiting.start()
        wait_until(lambda: postgres.clients(database) > 1, what="another starter")
        wait_until(lambda: postgres.clients(database) == 1, what="its going away to wait")
        assert waiting.is_alive()
    waiting.join(60)
    with desks(url.sqlalchemy.render_as_string(hide_password=False), 1) as (desk,):
        desk.whole_trial()


@pytest.mark.skipif(FOUND is None, reason="no PgBouncer here: apt-get install pgbouncer")
def test_more_starters_than_a_transaction_pool_has_connections_share_a_study(
    postgres: PostgresServer,
) -> None:
    database = postgres.new_database()
    spec = spec_of(budget={"trials": 12})
    with pgbouncer(postgres, 3) as address:
        storage = address.format(database=database)
        with ThreadPoolExecutor(8) as pool:
            uids = list(pool.map(lambda _: prepare(read_url(storage), identity_of(spec)), range(8)))
            assert len(set(uids)) == 1
            with desks(storage, 4, spec=spec) as workers:
                numbers = list(pool.map(_three_trials, workers))
        assert sorted(number for three in numbers for number in three) == list(range(12))


def _three_trials(worker: Desk) -> list[int]:
    return [worker.whole_trial() for _ in range(3)]
