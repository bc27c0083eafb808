"""Words of the field that the page explains where they stand, on hover, focus or touch."""

import re

from markupsafe import Markup, escape

TERMS = {
    "SD": "Standard deviation over prompts: an effect of 1 SD is as large as the typical difference"
    " between two prompts.",
    "interval": "95 % interval: what the number would be for other prompts and, with several"
    " training seeds, for other training runs.",
    "gold judge": "The known truth of the embedded world, which plays the human. Training never"
    " queries it.",
    "held-out": "A scorer or a prompt that a training did not see.",
    "trained reward": "The scorer whose value the training maximises; a rise is what was asked for,"
    " not evidence of quality.",
    "reward hacking": "The trained reward rises while what it stands for, people's preference or"
    " the gold judge, falls.",
    "training seed": "Decides the noise and the order of prompts of one training run; several show"
    " how much reruns differ.",
    "cell": "One training run: a reward, a method and a training seed.",
    "divergence": "A measure of how far the trained model is from its base, by which ROCM is held"
    " back; KL, JS, Hellinger and Fisher are four.",
    "β": "The weight of the divergence against the reward: more of it keeps the model nearer to its"
    " base.",
    "d²": "Squared distance between the means of a generation step by the trained model and by its"
    " base, in units of the step's noise; every divergence here is a function of it.",
    "NFE": "Number of function evaluations: forward passes of the network, one per image, during"
    " training.",
    "reward queries": "Images scored by the training reward.",
    "training seconds": "Time of a training's iterations without loading, saving and waiting: on"
    " the wall beside a GPU; on a CPU the processor's, divided by the number of threads.",
    "job seconds": "Time from the start to the end of a job's attempts on the wall, loading and"
    " saving included, times its processes.",
    "ROCM": "The paper's method: the reward's gradient through all steps of a few-step model, less"
    " β times a divergence to its base.",
    "RLCM": "The policy gradient PPO on the same few-step model.",
    "DDPO": "The policy gradient PPO on a diffusion model; DPOK adds a value function and a KL"
    " penalty, D3PO learns from which of two images has the higher reward.",
    "ensemble": "A reward made of several scorers, each in standard deviations of its scores of the"
    " base's images.",
    "sweep": "Trainings that differ in one setting.",
    "snapshot": "The model as it was at some step of its training.",
    "control": "The same training without a divergence, at several learning rates, stopped early:"
    " what a divergence has to beat.",
    "LoRA": "Low-rank adaptation: the small set of weights that a training changes, in a file that"
    " diffusers loads onto the base model.",
    "no difference": "No difference from 0 is shown, and the effect's interval lies within"
    " ± 0.2 SD, which is called small: a tie.",
    "not decidable": "The comparison was made, and its interval leaves the claim open, or a result"
    " is missing.",
    "not tested": "This configuration has nothing to decide the claim by, such as a control.",
}
_LONGEST_FIRST = sorted(map(re.escape, TERMS), key=len, reverse=True)
_WORD = re.compile(rf"(?<![\w-])(?:{'|'.join(_LONGEST_FIRST)})s?(?!\w)", re.IGNORECASE)
_KEYS = {term.lower(): term for term in TERMS}


def anchor(term: str) -> str:
    """The id of a term's explanation on the page."""
    return "term-" + term.lower().replace(" ", "-")


def explained(text: str, told: list[str] | None = None) -> Markup:
    """A text as HTML, in which each term links to its explanation where it stands first.

    told: terms that are explained already, to which those of this text are added.
    """
    told = [] if told is None else told

    def link(match: re.Match[str]) -> str:
        word = match[0]
        term = _KEYS.get(word.lower()) or _KEYS[word.lower().removesuffix("s")]
        if term in told:
            return word
        told.append(term)
        at = anchor(term)
        tip = escape(TERMS[term])
        return f'<a class="term" href="#{at}" aria-describedby="{at}" data-tip="{tip}">{word}</a>'

    return Markup(_WORD.sub(link, str(escape(text))))
