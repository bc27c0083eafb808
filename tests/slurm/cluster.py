"""A real Slurm on this machine: one controller, several nodes, GPUs that are only device files.

All daemons are children of the test process, in the foreground, stopped by their process ids; all
their files lie in one folder. Neither systemd, cgroups nor accounting is needed.
"""

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

INSTALL = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
SECONDS = 180  # for what should take one; a machine may be slow
GPUS = {"n1": 1, "n2": 1, "n3": 0}  # by node; jobs without a GPU go to n3 first

# Preemption requeues what runs on `gpu` for a job on `urgent`. There is no accounting, so finished
# jobs stay visible to squeue and scontrol for an hour.
SETTINGS = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={socket}
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MinJobAge=3600
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=8
KillWait=10
OverTimeLimit=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,default_queue_depth=100
PartitionName=gpu Nodes=ALL Default=YES MaxTime=1440 PriorityTier=1 GraceTime=15
PartitionName=urgent Nodes=ALL MaxTime=60 PriorityTier=10 PreemptMode=OFF
"""


@dataclass(frozen=True)
class Job:
    """A job that has run; times in seconds since the epoch, those of its last run."""

    number: int
    state: str
    start: float
    end: float
    node: str
    gpus: int


class Cluster:
    """The daemons in `folder`; `start` before use, `stop` always."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # munge refuses a socket below a folder that others cannot enter, and a socket's path is
        # at most 107 bytes long: pytest's folders are neither.
        self._socket_folder = Path(tempfile.mkdtemp(prefix="munge-"))
        self._socket_folder.chmod(0o755)
        self.settings = folder / "slurm.conf"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        path = f"{folder}/bin{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"SLURM_CONF": str(self.settings), "PATH": path}

    def start(self) -> None:
        self._write()
        socket = self._socket_folder / "munge.sock"
        self._spawn(
            "munged",
            *("--foreground", f"--key-file={self.folder}/munge.key", f"--socket={socket}"),
            *(f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log"),
            f"--seed-file={self.folder}/munged.seed",
        )
        self.wait(socket.exists, SECONDS)
        self.start_controller()
        for node in GPUS:
            self.start_node(node)
        self.wait_for_nodes()

    def stop(self) -> None:
        """Cancel every job, stop every daemon; no process of the cluster is left."""
        if self._runs("slurmctld"):
            self.cancel_everything()
        for name in [*GPUS, "slurmctld", "munged"]:
            self._stop(name)
        for process in self._processes():  # those of a node that was killed
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(self._socket_folder, ignore_errors=True)

    def start_controller(self) -> None:
        self._spawn("slurmctld", "-D")
        self.wait(lambda: "UP" in self.run("scontrol", "ping"), SECONDS)

    def stop_controller(self) -> None:
        self._stop("slurmctld")

    def start_node(self, node: str) -> None:
        self._spawn(node, "-D", "-N", node, program="slurmd")

    def kill_node(self, node: str, job: int | None = None) -> None:
        """kill -9 the daemon of a node, so that it is gone for the controller. The `job` on it dies
        at the same moment; without one, jobs go on, as when only the network is lost."""
        self.daemons[node].kill()
        self.daemons.pop(node).wait()
        if job is not None:
            # Slurm's own processes first: they would report the end of the others.
            for process in [*self._steps(job), *self._processes(f"SLURM_JOB_ID={job}")]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def wait_for_nodes(self) -> None:
        """Until every node can take jobs."""
        self.wait(lambda: set(self.run("sinfo", "-hN", "-o", "%t").split()) == {"idle"}, SECONDS)

    def restore(self) -> None:
        """Start again what a test has killed."""
        if not self._runs("slurmctld"):
            self.start_controller()
        for node in GPUS:
            if not self._runs(node):
                self.start_node(node)
        self.wait_for_nodes()

    def run(self, *command: str) -> str:
        """Output of a command against this cluster; empty where it fails."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )
        return done.stdout if done.returncode == 0 else ""

    def jobs(self, *states: str) -> list[int]:
        """Numbers of the jobs that are in one of `states`; without any, pending or running."""
        wanted = ",".join(states or ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED"))
        return sorted(map(int, self.run("squeue", "-h", "-o", "%A", "-t", wanted).split()))

    def state(self, job: int) -> str:
        """RUNNING, COMPLETED, …"""
        return self.run("squeue", "-h", "-t", "all", "-j", str(job), "-o", "%T").strip()

    def node(self, job: int) -> str:
        """Where a job runs."""
        return self.run("squeue", "-h", "-j", str(job), "-o", "%N").strip()

    def start_now(self, job: int) -> None:
        """Spare a requeued job the two minutes that Slurm lets it wait."""
        self.wait(lambda: self.state(job) == "PENDING", SECONDS)
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def cancel_everything(self) -> None:
        self.run("scancel", f"--user={getpass.getuser()}")
        self.wait(lambda: not self.jobs(), SECONDS)

    def history(self, folder: Path) -> list[Job]:
        """Every job that was started from a folder and has ended."""
        found = []
        for line in self.run("scontrol", "-o", "show", "jobs").splitlines():
            entry = dict(re.findall(r"(\w+)=(\S*)", line))
            if entry["WorkDir"] != str(folder):
                continue
            if entry["JobState"] in ("PENDING", "RUNNING", "COMPLETING"):
                continue
            start, end = (
                time.mktime(time.strptime(entry[key], "%Y-%m-%dT%H:%M:%S"))
                for key in ("StartTime", "EndTime")
            )
            gpus = re.search(r"TresPerJob=gres:gpu:(\d+)", line)
            number, state, node = int(entry["JobId"]), entry["JobState"], entry["NodeList"]
            found.append(Job(number, state, start, end, node, int(gpus[1]) if gpus else 0))
        return found

    @staticmethod
    def wait(condition: Callable[[], object], seconds: float) -> None:
        """Until `condition()` holds; raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{condition} did not come true within {seconds} s")
            time.sleep(0.1)

    def _write(self) -> None:
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        ports = _free_ports(1 + len(GPUS))
        text = SETTINGS.format(
            folder=self.folder,
            user=getpass.getuser(),
            port=ports[0],
            socket=self._socket_folder / "munge.sock",
        )
        for (node, gpus), port in zip(GPUS.items(), ports[1:], strict=True):
            text += (
                f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=8 "
                f"RealMemory=100000 Weight={1 + gpus} State=UNKNOWN"
                + (f" Gres=gpu:{gpus}\n" if gpus else "\n")
            )
        self.settings.write_text(text)
        # A GPU must be a character device that exists; nothing opens it.
        (self.folder / "gres.conf").write_text(
            "".join(f"NodeName={n} Name=gpu File=/dev/null\n" for n, gpus in GPUS.items() if gpus)
        )
        # The executor's step in a job drops SLURM_CONF, which a normal site does not need.
        wrapper = self.folder / "bin" / "srun"
        wrapper.write_text(
            f'#!/bin/sh\nSLURM_CONF={self.settings} exec {find_program("srun")} "$@"\n'
        )
        wrapper.chmod(0o755)

    def _spawn(self, name: str, *arguments: str, program: str = "") -> None:
        # The kernel ends the daemon with us, even if we are killed.
        command = ["setpriv", "--pdeathsig", "TERM", find_program(program or name), *arguments]
        with open(self.folder / f"{name}.out", "ab") as output:
            self.daemons[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
                start_new_session=True,
            )

    def _runs(self, name: str) -> bool:
        return name in self.daemons and self.daemons[name].poll() is None

    def _stop(self, name: str) -> None:
        if daemon := self.daemons.pop(name, None):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _steps(self, job: int) -> list[int]:
        """Slurm's processes that watch over a job."""
        names = {p: Path(f"/proc/{p}/cmdline").read_bytes() for p in self._processes()}
        return [p for p, name in names.items() if name.startswith(b"slurmstepd: [%d." % job)]

    def _processes(self, *marks: str) -> list[int]:
        """Processes of jobs, which know this cluster's settings and have `marks` in their
        environment; never an inhabitant of the machine who is not ours."""
        wanted = {f"SLURM_CONF={self.settings}".encode(), *(mark.encode() for mark in marks)}
        mine = {os.getpid(), os.getppid(), *(daemon.pid for daemon in self.daemons.values())}
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                    found.append(int(folder.name))
        return [process for process in found if process not in mine]


def missing_programs() -> list[str]:
    """Programs of Slurm and munge that this machine lacks."""
    return [name for name in PROGRAMS if not find_program(name)]


def find_program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _free_ports(count: int) -> list[int]:
    """Ports of this worker of pytest alone, below those that the kernel hands out to clients."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    found: list[int] = []
    for port in range(20_000 + 100 * worker, 20_100 + 100 * worker):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("", port))
            found.append(port)
    return found[:count]
