"""The files of deploy/ keep what they promise: exit codes, signals, time to save, no secrets."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from criteria_cli.cli.environment import VARIABLES
from criteria_cli.cli.failures import EXIT_CODES

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SBATCH = (DEPLOY / "slurm.sbatch").read_text()


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


@pytest.fixture(scope="module")
def job(documents: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [document["spec"] for document in documents if document["kind"] == "Job"]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def pod(job: dict[str, Any]) -> dict[str, Any]:
    spec = job["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def test_the_job_starts_stopped_workers_again_and_ends_at_wrong_use(job: dict[str, Any]) -> None:
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"]
    codes = {
        rule["action"]: rule["onExitCodes"]["values"]
        for rule in job["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }
    assert codes == {"Ignore": [75], "FailJob": [2]}
    assert "everything saved" in EXIT_CODES[75]
    assert "wrong use" in EXIT_CODES[2]
    assert {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]} in job[
        "podFailurePolicy"
    ]["rules"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # or the policy is not read


def test_a_pod_has_no_rights_and_a_place_for_everything_it_writes(pod: dict[str, Any]) -> None:
    (worker,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    assert worker["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {mount["mountPath"]: mount for mount in worker["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"
    writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    environment = variables(worker)
    assert {environment["CRITERIA_RUNS"], environment["HF_HOME"], environment["HOME"]} <= writable
    assert "exec criteria hpo" in worker["args"][0]  # or no signal reaches it


def test_the_password_comes_from_a_secret_and_the_server_is_verified(pod: dict[str, Any]) -> None:
    (worker,) = pod["containers"]
    (password,) = [entry for entry in worker["env"] if entry["name"] == "PGPASSWORD"]
    assert "secretKeyRef" in password["valueFrom"]
    storage = variables(worker)["CRITERIA_STORAGE"]
    assert "sslmode=verify-full" in storage
    assert ":" not in storage.partition("://")[2].partition("@")[0]


def test_saving_has_less_time_than_the_scheduler_gives(pod: dict[str, Any]) -> None:
    (worker,) = pod["containers"]
    drain = int(variables(worker)["CRITERIA_DRAIN_S"])
    assert drain + 30 <= pod["terminationGracePeriodSeconds"]
    signal = re.search(r"^#SBATCH --signal=B:USR1@(\d+)$", SBATCH, re.MULTILINE)
    given = re.search(r"CRITERIA_DRAIN_S:-(\d+)", SBATCH)
    assert signal
    assert given
    assert int(given[1]) + 30 <= int(signal[1])


def test_every_variable_of_ours_exists(pod: dict[str, Any]) -> None:
    (worker,) = pod["containers"]
    named = {name for name in variables(worker) if name.startswith("CRITERIA_")}
    named |= set(re.findall(r"CRITERIA_[A-Z_]+", SBATCH))
    assert named <= set(VARIABLES)


def test_the_array_script_is_bash_private_and_without_a_password() -> None:
    subprocess.run(["bash", "-n", str(DEPLOY / "slurm.sbatch")], check=True)
    assert "\numask 077" in SBATCH
    assert "#SBATCH --requeue\n" in SBATCH
    assert re.search(r"://\w+:\w+@", SBATCH) is None


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}
