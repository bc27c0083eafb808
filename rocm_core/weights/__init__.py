"""Weights: the table of published files, fetching them, and checking their sha256."""

from rocm_core.weights.catalogue import (
    check_all,
    check_weights,
    class_of,
    describe,
    digest_of_all,
    files_of,
    inputs_of,
    require_recorded,
    table,
    to_fetch,
    weights_digest,
)
from rocm_core.weights.fetching import fetch, record
from rocm_core.weights.tensors import (
    mismatches,
    require_finite,
    require_float_files,
    require_floats,
    require_matching_keys,
)
