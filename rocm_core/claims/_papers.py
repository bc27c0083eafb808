"""Where the papers make their claims, with what number, and which of our drawings show the answer.

The ROCM paper was read as text, in which its figures and the bodies of its tables are absent; of
the RLCM paper there was a summary. A number that was in neither is not guessed.
"""

from dataclasses import dataclass

UNKNOWN = "not recoverable from our copy"
_ROCM, _RLCM = "ROCM paper", "RLCM paper"


@dataclass(frozen=True)
class Stated:
    """`paper`, empty for a question of our own; `where` in it: section, table and figure; the
    `number` it gives; and the tables and figures of this project that show the same, `shown_in`."""

    paper: str
    where: str
    number: str
    shown_in: tuple[str, ...]


_OWN = ("", "", "")
OWN = Stated(*_OWN, ())
STATED = {
    "Q1a": Stated(*_OWN, ("gold_vs_reward", "training", "sweep")),
    "Q1b": Stated(*_OWN, ("gold_vs_reward", "training", "sweep")),
    "Q2": Stated(*_OWN, ("gold_vs_reward", "gold_vs_kl", "table2")),
    "Q3a": Stated(*_OWN, ("efficiency", "table4")),
    "Q3b": Stated(*_OWN, ("gold_vs_reward", "table4")),
    "Q4a": Stated(*_OWN, ("gold_vs_reward", "sweep")),
    "Q4b": Stated(*_OWN, ("gold_vs_reward", "sweep")),
    "Q4c": Stated(*_OWN, ("gold_vs_reward", "sweep")),
    "Q5": Stated(*_OWN, ("efficiency", "gold_vs_reward")),
    "Q6a": Stated(*_OWN, ("gold_vs_reward", "table4")),
    "Q6b": Stated(*_OWN, ("gold_vs_reward",)),
    "1": Stated(_ROCM, "section 4.1, table 1", UNKNOWN, ("table1", "table4")),
    "2": Stated(_ROCM, "section 4.1, table 1", UNKNOWN, ("table1", "table4")),
    "3": Stated(_ROCM, "section 4.1, table 1", UNKNOWN, ("table1",)),
    "4": Stated(_ROCM, "section 4.1, figure 5", UNKNOWN, ("figure5", "efficiency", "costs")),
    "5": Stated(_ROCM, "section 4.1, figure 5", UNKNOWN, ("figure5", "efficiency", "costs")),
    "6": Stated(_ROCM, "section 4.1, tables 1 and 4", UNKNOWN, ("table4",)),
    "7": Stated(
        *(_ROCM, "section 4.2, figure 4"),
        f"the peak at β = 10⁻⁴ with KL; its height is {UNKNOWN}",
        ("figure4", "table2"),
    ),
    "8": Stated(
        *(_ROCM, "section 4.2, figure 5"),
        f"within 15 GPU hours for HPSv2 and Aesthetic; the gains are {UNKNOWN}",
        ("figure5",),
    ),
    "9": Stated(_ROCM, "section 4.2, table 1", UNKNOWN, ("table1", "readouts")),
    "10": Stated(
        *(_ROCM, "section 6, figure 6", "none: the paper shows images"), ("figure6", "readouts")
    ),
    "11": Stated(_ROCM, "section 4.1, table 1", "none: a rule of the evaluation", ("table1",)),
    "12": Stated(
        *(_ROCM, "section 4.1, figure 3"),
        f"300 pairs, 10 raters; the shares of votes are {UNKNOWN}",
        ("figure3",),
    ),
    "13": Stated(_ROCM, "section 4.1, tables 1 and 4", UNKNOWN, ("table1", "table4")),
    "14a": Stated(_ROCM, "sections 1 and 5", "none is given in the text", ("sweep", "table2")),
    "14b": Stated(_ROCM, "section 4.1", "none is given in the text", ("gradients",)),
    "R1": Stated(
        *(_RLCM, "abstract and section 5"),
        "Aesthetic after 10,000 reward queries: RLCM 6.60, DDPO 6.39 (read off a figure); its"
        f" times are {UNKNOWN}",
        ("efficiency", "costs"),
    ),
    "R2": Stated(
        *(_RLCM, "abstract and section 5, figure 6"),
        f"2 steps against 16; the rewards are {UNKNOWN}",
        ("inference_time",),
    ),
    "R3": Stated(_RLCM, "section 5", UNKNOWN, ("generalisation",)),
    "R4": Stated(
        *(_RLCM, "section 5"),
        "Aesthetic after 31,000 reward queries: RLCM 8.04, DDPO 7.18 (read off a figure); the"
        f" others are {UNKNOWN}",
        ("table4", "efficiency"),
    ),
}
