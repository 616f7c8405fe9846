"""A Slurm of its own for tests: one machine, no system folder, ports of 127.0.0.1 only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CPUS = 4

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={controller_port}
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd-%n.pid
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool/%n
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
SlurmdTimeout=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=10
UnkillableStepTimeout=600
FirstJobId={controller_port}
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first_port} CPUs={cpus} RealMemory=1000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second_port} CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=low  Nodes=n1 Default=YES MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=n1 Default=NO  MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=both Nodes=n1,n2 Default=NO  MaxTime=60 State=UP PriorityTier=1 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why no Slurm can be started here; None if one can."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if lacking:
        return f"Slurm is not installed here ({', '.join(lacking)})"
    return None if os.geteuid() == 0 else "Slurm's daemons need root here"


class SlurmHost:
    """A controller, and two nodes with `CPUS` processors each to give away, whatever the machine has.

    Partitions: `low`, the first node's, gives way to `high`; `both` has the two nodes.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.started: list[subprocess.Popen[str]] = []  # sweeps, which are ended with it
        self.environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(home / "slurm.conf")}

    def start(self) -> None:
        """Start all of it; takes a second."""
        for name in ("state", "spool/n1", "spool/n2"):
            (self.home / name).mkdir(parents=True)
        controller_port, first_port, second_port = _free_ports(3)
        (self.home / "slurm.conf").write_text(
            _CONFIGURATION.format(
                home=self.home,
                host=socket.gethostname().partition(".")[0],
                user="root",
                cpus=CPUS,
                controller_port=controller_port,
                first_port=first_port,
                second_port=second_port,
            )
        )
        key = self.home / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        self.home.chmod(0o755)  # munge insists
        files = {"key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed", "socket": "socket"}
        self.run("munged", "--force", *(f"--{option}={self.home}/munge.{name}" for option, name in files.items()))
        self.run("slurmctld", "-c")
        for name in ("n1", "n2"):
            self.start_node(name)

    def start_node(self, name: str) -> None:
        """Start a node's daemon, and wait until the controller sees it."""
        self.run("slurmd", "-c", "-N", name)
        states = ("sinfo", "--noheader", f"--nodes={name}", "--format=%T")
        self.wait(lambda: "idle" in self.run(*states) or bool(self.jobs()), "an idle node")

    def kill_node(self, name: str) -> None:
        """A node fails: its daemon and all that jobs have started are gone at once."""
        os.kill(int((self.home / f"slurmd-{name}.pid").read_text()), signal.SIGKILL)
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def stop(self) -> None:
        """End whatever runs."""
        self.clear()
        for name in ("slurmd-n1.pid", "slurmd-n2.pid", "slurmctld.pid", "munge.pid"):
            try:
                os.kill(int((self.home / name).read_text()), signal.SIGKILL)
            except (OSError, ValueError):
                continue
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    def clear(self) -> None:
        """End every sweep and every job."""
        for sweep in self.started:
            sweep.kill()
            sweep.wait()
        self.started.clear()

        def cancelled() -> bool:  # a job that is on its way back into the queue hears nothing
            self.run("scancel", "--user=root", check=False)
            return not self.jobs()

        self.wait(cancelled, "empty queue")

    def run(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands and return what it printed."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def jobs(self) -> dict[str, str]:
        """Jobs that are not over, with their states."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%i %T", check=False).splitlines()
        return dict(line.split() for line in lines)

    def processes(self) -> list[int]:
        """Every process that a job of this Slurm has started, and its guardians."""
        mark = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                started_by_a_job = b"SLURM_JOB_ID=" in (content := (entry / "environ").read_bytes()) and mark in content
                guardian = b"slurmstepd" in (entry / "cmdline").read_bytes() and mark in content
            except OSError:
                continue
            if started_by_a_job or guardian:
                found.append(int(entry.name))
        return found

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
        """Until the condition holds."""
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit, f"no {what} in {seconds} s: {self.jobs()}"
            time.sleep(0.2)


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
