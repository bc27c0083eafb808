"""Analysis: results as frames, statistics over prompts and seeds, comparisons, efficiency."""

from rocm_core.analysis.anchors import ANCHORS, Anchors, read_anchors
from rocm_core.analysis.choice import Trained, choose, choose_snapshot, halves, rank
from rocm_core.analysis.comparison import (
    ALPHA,
    MARGIN,
    RESAMPLES,
    Comparison,
    average_deviation,
    coarsely,
    compare,
    compare_differences,
    compare_seeds,
    compare_shares,
    holm,
)
from rocm_core.analysis.efficiency import (
    COSTS,
    common_reward,
    compared_rewards,
    curves,
    reach,
    rising,
    seed_curves,
    settled,
    what_is_paid_for,
)
from rocm_core.analysis.gate import Check, checks
from rocm_core.analysis.gold import GOLD
from rocm_core.analysis.judging import evaluators, held_out, overall
from rocm_core.analysis.labels import (
    amount,
    decimals,
    divergence_label,
    metric_label,
    number,
    swept_label,
    training_seeds,
)
from rocm_core.analysis.results import Results, only, thinned
from rocm_core.analysis.sources import Source
from rocm_core.analysis.statistics import (
    LEVEL,
    Estimate,
    bootstrap_means,
    mean_interval,
    paired_difference,
    per_prompt,
    percentile_interval,
    win_rate,
)
from rocm_core.analysis.sweeps import (
    ROCM_NONE,
    SweepPoint,
    lead_of_choice,
    same_rate,
    sweep_points,
    unregularised,
    verdicts,
)
from rocm_core.analysis.templates import environment
