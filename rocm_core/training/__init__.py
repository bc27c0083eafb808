"""Training: the job around a run, the trainer in memory, its optimiser and its plan of memory."""

from rocm_core.training.base_rewards import score_base
from rocm_core.training.gradients import measure_gradients, scatter
from rocm_core.training.job import train
from rocm_core.training.memory import (
    GIB,
    LiveBytes,
    choose_checkpointing,
    plan_checkpointing,
    predict_peak,
)
from rocm_core.training.optimiser import AdapterOptimiser
from rocm_core.training.trainer import Trainer
