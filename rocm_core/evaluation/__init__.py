"""Evaluation: images of prompts, their scores, snapshots, read-outs, and the published scorers."""

from rocm_core.evaluation.agreement import write_agreement
from rocm_core.evaluation.images import generate, iterate_images, save_png
from rocm_core.evaluation.published import PublishedScorer, score_folder_published
from rocm_core.evaluation.readouts import (
    feature_diversity,
    high_frequency,
    measure_folder,
    pixel_diversity,
)
from rocm_core.evaluation.scores import read_index, score, score_folder
from rocm_core.evaluation.snapshots import evaluate_snapshots, score_snapshots
from rocm_core.evaluation.standards import measure_base
