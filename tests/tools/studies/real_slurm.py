"""A SLURM of one's own: its controller and one node, on loopback, in a folder, without a database or munge."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

CONFIG = """
ClusterName=test
SlurmctldHost={name}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=3
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
NodeName={name} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes={name} Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes={name} MaxTime=10 State=UP
"""


def is_installed() -> bool:
    return all(shutil.which(name) for name in ("slurmctld", "slurmd", "sbatch", "squeue"))


class RealSlurm:
    """Runs from ``start`` to ``stop``; commands find it by ``SLURM_CONF``, which is ``conf``."""

    def __init__(self, folder: Path):
        self.folder, self.conf = folder, folder / "slurm.conf"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        name = socket.gethostname().split(".")[0]
        self.conf.write_text(
            CONFIG.format(
                name=name,
                user=getpass.getuser(),
                ports=[_free_port(), _free_port()],
                folder=self.folder,
                cpus=os.cpu_count(),
            )
        )
        for daemon in (["slurmctld", "-D"], ["slurmd", "-D", "-N", name]):
            with (self.folder / f"{daemon[0]}.out").open("wb") as out:
                command = [*daemon, "-f", str(self.conf)]
                self.processes.append(subprocess.Popen(command, stdout=out, stderr=out))
        deadline = time.monotonic() + 60
        while "idle" not in self.ask("sinfo", "--noheader", "--format=%T"):
            if time.monotonic() > deadline:
                raise RuntimeError((self.folder / "slurmctld.out").read_text()[-2000:])
            time.sleep(0.2)

    def stop(self) -> None:
        self.ask("scancel", "--me")
        for process in reversed(self.processes):
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
