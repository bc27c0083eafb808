"""Jobs: one owner per folder, state to resume from, GPUs claimed per job, requests to stop."""

from rocm_core.jobs.gpus import claim_gpus
from rocm_core.jobs.lock import Lock, Owner
from rocm_core.jobs.state import StateFolder, StopRequest, remove_finished

__all__ = ["Lock", "Owner", "StateFolder", "StopRequest", "claim_gpus", "remove_finished"]
