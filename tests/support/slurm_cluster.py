"""A real SLURM on this machine alone: controller, one node with two false GPUs, two partitions.

Debian's packages `slurmctld slurmd slurm-client munge`, without systemd, on loopback; root starts
it. Jobs of the partition `urgent` take the node from jobs of the partition `all`, which are
requeued, as a cluster does that lends its idle nodes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from processes import is_running, wait_until

_NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_CONF = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge/socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SwitchType=switch/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
DefMemPerCPU=100
ReturnToService=2
KillWait=20
MinJobAge=3600
SlurmdTimeout=30
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str:
    """Why SLURM cannot be started here; empty where it can."""
    missing = [name for name in _NEEDED if shutil.which(name, path=_PATH) is None]
    if missing:
        return f"no SLURM here (`{missing[0]}` is missing): apt-get install slurmctld slurmd munge"
    return "" if os.geteuid() == 0 else "SLURM's daemons are started by root alone"


class SlurmCluster:
    """Daemons of our own, in a folder of their own, on free ports."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="crslurm-"))
        self.home.chmod(0o755)
        self._host = socket.gethostname().partition(".")[0]
        self._munge: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What SLURM's commands need to find this cluster."""
        return {"SLURM_CONF": str(self.home / "slurm.conf")}

    def start(self) -> SlurmCluster:
        """Start everything and wait until the node takes jobs."""
        for name in ("state", "spool", "munge"):
            (self.home / name).mkdir(mode=0o755)
        key = self.home / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        self._configure()
        names = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._munge = subprocess.Popen(
            [
                self._find("munged"), "--foreground", "--force", f"--key-file={key}",
                *(f"--{flag}={self.home / 'munge' / name}" for flag, name in names.items()),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until((self.home / "munge" / "socket").exists, what="munged")
        self.run("slurmctld", "-c")
        self.run("slurmd", "-c")
        wait_until(lambda: "idle" in self.run("sinfo", "-h", "-o", "%T"), what="an idle node")
        return self

    def _configure(self) -> None:
        controller, daemon = _free_ports(2)
        conf = _CONF.format(host=self._host, home=self.home, controller=controller, daemon=daemon)
        (self.home / "slurm.conf").write_text(conf)
        cards = "".join(f"Name=gpu Type=fake File={file}\n" for file in ("/dev/zero", "/dev/full"))
        (self.home / "gres.conf").write_text(cards)

    def run(self, command: str, *arguments: str, env: dict[str, str] | None = None) -> str:
        """A command of SLURM's; its standard output."""
        done = subprocess.run(
            [self._find(command), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.home,
            env={**(env or os.environ), **self.environment},
        )
        assert done.returncode == 0, f"{command} {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def _find(self, command: str) -> str:
        found = shutil.which(command, path=_PATH)
        assert found is not None, command
        return found

    def stop(self) -> None:
        """End every job and daemon, and remove the folder."""
        with contextlib.suppress(AssertionError):
            self.run("scancel", "--user=root")
            self.run("scancel", "--user=root", "--signal=KILL", "--full")
            wait_until(lambda: not self.run("squeue", "-h"), 40, "the end of all jobs")
        for name in ("slurmctld", "slurmd"):
            self._end(self.home / f"{name}.pid")
        if self._munge is not None:
            self._munge.terminate()
            self._munge.wait(20)
        shutil.rmtree(self.home, ignore_errors=True)

    def _end(self, pid_file: Path) -> None:
        with contextlib.suppress(OSError, ValueError):
            pid = int(pid_file.read_text())
            os.kill(pid, signal.SIGTERM)
            try:
                wait_until(lambda: not is_running(pid), 20, "the end of a daemon")
            except AssertionError:
                os.kill(pid, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
