"""Scorers, one module each: how well images show their prompts, or how good they look.

``hpsv2``, ``pickscore``, ``clipscore``, ``aesthetic``, ``blipscore`` and ``imagereward`` are the
field's learned scorers, ``hpsv2_0`` and ``clipscore_hessel`` other versions of two of them;
``gold`` is the judge of the shapes world. RLCM trains on ``aesthetic``,
``jpeg_compressibility``, ``jpeg_incompressibility`` and ``alignment``, which is called
``shapes_alignment`` in the shapes world; ``smooth_jpeg_compressibility`` is the first of them with
a gradient; ``sparse_redness``, ``hinge_redness`` and ``drifting_hue`` are for questions that RLCM
leaves open. A module ``rewards/<name>.py`` with a function
``load(weights, device, dtype) -> Reward`` is a scorer; a config names it, with - or _.
"""

from rocm_core.rewards.loading import Reward, load_reward
from rocm_core.rewards.own import FunctionReward, Score, check_first_scores
