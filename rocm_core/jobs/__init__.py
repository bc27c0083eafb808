"""Jobs: one owner per folder, state to resume from, requests to stop, GPUs of a job's own."""

from rocm_core.jobs.environment import (
    job_environment,
    require_account,
    require_workplace,
    whole_number,
)
from rocm_core.jobs.gpus import claim_gpus, require_gpus
from rocm_core.jobs.outputs import keep, restore
from rocm_core.jobs.private import private_folder
from rocm_core.jobs.progress import Progress, duration
from rocm_core.jobs.state import (
    INTERRUPTED,
    Lock,
    Owner,
    StateFolder,
    StopRequest,
    owner_of,
    remove_finished,
)
