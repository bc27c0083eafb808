"""The claims ledger: what a run says about each claim of the papers, and about our own questions.

A claim finds the comparisons it rests on; a rule turns their outcomes into a verdict.
"""

from rocm_core.claims._assumed import seconds_per_pass
from rocm_core.claims._recorded import derive
from rocm_core.claims._verdict import VERDICTS
from rocm_core.claims.ledger import CLAIMS, Ledger, make
from rocm_core.claims.rehearsal import Prospect, prospects
