"""Jobs: one owner of a folder at a time, state to resume from, GPUs of one's own, requests to stop."""

from rocm_core.jobs.gpus import claim_gpus
from rocm_core.jobs.lock import Lock, Owner
from rocm_core.jobs.state import StateFolder, StopRequest, remove_finished

__all__ = ["Lock", "Owner", "StateFolder", "StopRequest", "claim_gpus", "remove_finished"]
