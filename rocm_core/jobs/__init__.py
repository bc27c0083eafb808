"""Jobs: one owner per folder, state to resume from, requests to stop."""

from rocm_core.jobs.state import Lock, Owner, StateFolder, StopRequest, remove_finished
