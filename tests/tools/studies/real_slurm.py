"""A SLURM of one's own: its controller and two nodes, on loopback, in a folder, without a database or munge."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

CONFIG = """
ClusterName=test
SlurmctldHost={name}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=3
SlurmdTimeout=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
NodeName={nodes[0]} NodeHostname={name} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=8000 State=UNKNOWN
NodeName={nodes[1]} NodeHostname={name} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=short Nodes=ALL MaxTime=10 State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""

NODES = ("one", "two")


def is_installed() -> bool:
    return all(shutil.which(name) for name in ("slurmctld", "slurmd", "sbatch", "squeue"))


class RealSlurm:
    """Runs from ``start`` to ``stop``; commands find it by ``SLURM_CONF``, which is ``conf``."""

    def __init__(self, folder: Path):
        self.folder, self.conf = folder, folder / "slurm.conf"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        self.conf.write_text(
            CONFIG.format(
                name=socket.gethostname().split(".")[0],
                user=getpass.getuser(),
                nodes=NODES,
                ports=[_free_port() for _ in range(3)],
                folder=self.folder,
            )
        )
        self._start("slurmctld")
        for node in NODES:
            self.start_node(node)
        deadline = time.monotonic() + 60
        while self.ask("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").split() != ["idle"] * 2:
            if time.monotonic() > deadline:
                raise RuntimeError((self.folder / "slurmctld.out").read_text()[-2000:])
            time.sleep(0.2)

    def start_node(self, node: str) -> None:
        self._start("slurmd", "-N", node)

    def kill_node(self, node: str) -> None:
        """Let a node die with all that runs there: its daemon, the daemons of steps and their processes."""
        marks = {f"SLURMD_NODENAME={node}", f"SLURM_CONF={self.conf}"}
        for number in sorted(int(entry.name) for entry in Path("/proc").glob("[0-9]*")):  # a parent could tell of it
            with suppress(OSError):
                if marks <= set(Path(f"/proc/{number}/environ").read_text(errors="replace").split("\0")):
                    os.kill(number, signal.SIGKILL)
        self.processes.pop(node).wait()

    def _start(self, daemon: str, *flags: str) -> None:
        name = flags[-1] if flags else daemon
        environment = {**os.environ, "SLURM_CONF": str(self.conf), "SLURMD_NODENAME": name}  # see kill_node
        with (self.folder / f"{name}.out").open("wb") as out:
            command = [daemon, "-D", *flags, "-f", str(self.conf)]
            self.processes[name] = subprocess.Popen(command, stdout=out, stderr=out, env=environment)

    def stop(self) -> None:
        self.ask("scancel", "--me")
        for process in reversed(self.processes.values()):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def ask(self, *command: str) -> str:
        environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
