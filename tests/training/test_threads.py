"""Threads and allocator of trainer processes."""

import os
import subprocess
import sys

import pytest

from criteria_cli.training.threads import cores, environment, share, wanted

# Twenty times 64 MiB, written and freed: with freed memory kept, pages are faulted in once.
CHURN = """
import resource, sys
{before}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
    bytearray(2**26)
before = faults()
for _ in range(20):
    bytearray(b"x") * 2**26
print(faults() - before)
"""


def page_faults(before: str = "", **environ: str) -> int:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", CHURN.format(before=before)],
        env=kept | environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_cores_are_at_least_one_and_at_most_the_affinity() -> None:
    assert 1 <= cores() <= len(os.sched_getaffinity(0))
    assert share(10_000) == 1


def test_a_user_may_ask_for_fewer_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert (wanted(), share(1)) == (cores(), cores())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert (wanted(), share(1)) == (1, 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")  # nested levels: not ours to read
    assert wanted() == cores()


def test_the_environment_keeps_freed_memory() -> None:
    plain = page_faults()
    kept = page_faults(**environment(1))
    assert plain > 20 * 2**26 / 4096 * 0.9
    assert kept < plain / 10


def test_a_process_started_without_it_settles_itself() -> None:
    settle = "from criteria_cli.training.threads import settle; settle(1)"
    assert page_faults(settle) < page_faults() / 10


def test_the_environment_sets_every_librarys_threads() -> None:
    variables = environment(3)
    assert {variables[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "RAYON")} == {"3"}
