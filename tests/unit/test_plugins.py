"""How plug-ins are found, and what is said where one is not as it must be."""

import ast
import subprocess
import sys

import pytest
import tiny
import torch

from rocm_core.configuration import settings_class
from rocm_core.errors import UserError
from rocm_core.plugins import KINDS, ROOT, facts, load, module_of, names
from rocm_core.provenance import code_fingerprint, forget_code
from rocm_core.rewards import load_reward


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes modules of a package of the user's own, another one for each test."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / name).mkdir()

    def write(module, source):
        (tmp_path / name / f"{module}.py").write_text(source)
        return f"{name}.{module}"

    return write


def test_every_plugin_of_ours_declares_its_facts_and_loads():
    for kind in KINDS:
        assert names(kind), kind
        for name in names(kind):
            assert facts(kind, name).keys() == KINDS[kind].facts.keys()
            assert hasattr(load(kind, name), KINDS[kind].entry)


def test_a_dash_and_an_underscore_are_one_letter():
    assert module_of("divergences", "total-variation", "x") == module_of(
        "divergences", "total_variation", "x"
    )


SCORERS = ROOT / "resources/shapes/scorers"
LEARNED = {
    "hpsv2_0": "hpsv2",
    "clipscore_hessel": "clipscore",
}  # other versions of the same weights


# `alignment` needs LLaVA; tests/unit/test_rlcm_rewards.py builds it.
@pytest.mark.parametrize("reward", sorted({*names("rewards")} - {"alignment"}))
def test_gradients_flow_from_a_reward_as_its_module_says(reward):
    weights = SCORERS / LEARNED.get(reward, reward)
    scorer = load_reward(reward, weights if weights.is_dir() else None)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    caption = "a large red circle left of a small blue ring on a plain gray background"
    scores = scorer.score(images, [caption])
    says = facts("rewards", reward)["DIFFERENTIABLE"]
    assert scorer.differentiable is scores.requires_grad is says
    if says:
        (gradient,) = torch.autograd.grad(scores.sum(), images)
        assert gradient.any() or not scores.any()  # clipscore_hessel is flat at 0


def test_what_a_module_declares_counts_and_not_what_its_class_inherits(package):
    base = package("base", "class Base:\n    differentiable = True\n")
    source = (
        f"from {base} import Base\n"
        "DIFFERENTIABLE = False\n"
        "class Own(Base):\n    name = 'own'\n    def score(self, images, prompts): ...\n"
        "def load(weights, device, dtype): return Own()\n"
    )
    name = package("own", source)
    assert facts("rewards", name) == {"DIFFERENTIABLE": False, "DRIFTS": False, "JUDGES": True}
    assert load_reward(name).differentiable is False


@pytest.mark.parametrize(
    "declared",
    [
        "",
        "DIFFERENTIABLE = bool(1)",
        "DIFFERENTIABLE = 'False'",
        "DIFFERENTIABLE = 1",
        "from os.path import supports_unicode_filenames as DIFFERENTIABLE",
        "class Reward:\n    DIFFERENTIABLE = True",
        "def differentiable():\n    DIFFERENTIABLE = True",
    ],
)
def test_a_fact_that_is_missing_or_no_literal_is_refused_with_file_and_name(package, declared):
    name = package("own", f"{declared}\ndef load(weights, device, dtype): ...\n")
    with pytest.raises(
        UserError, match=r"own\.py must declare DIFFERENTIABLE as a literal"
    ) as said:
        facts("rewards", name)
    assert len(str(said.value).splitlines()) == 1


def test_an_optional_fact_has_a_default_but_must_be_a_literal_too(package):
    name = package("plain", "class Settings: ...\n")
    defaults = {"DIVERGENCES": (), "PAIRED": False, "DIFFERENTIATES": False}
    assert facts("algorithms", name) == defaults
    typed = package(
        "typed", "PAIRED: bool = True\nDIVERGENCES = ('kl', 'none')\nSettings = object\n"
    )
    declared = {"PAIRED": True, "DIVERGENCES": ("kl", "none")}
    assert facts("algorithms", typed) == defaults | declared
    computed = package("computed", "DIVERGENCES = tuple(['kl'])\nclass Settings: ...\n")
    with pytest.raises(UserError, match=r"computed\.py must declare DIVERGENCES as a literal"):
        facts("algorithms", computed)


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        (
            "rewards",
            "hpsv3",
            "key: there is no rocm_core/rewards/hpsv3.py for 'hpsv3'; did you mean",
        ),
        ("divergences", "tv", "for 'tv'; did you mean total-variation?"),
        ("chains", "dim", "for 'dim'; did you mean ddim?"),
        (
            "rewards",
            "my_rewards.lost",
            "key: there is no module my_rewards.lost on the Python path",
        ),
        (
            "rewards",
            "rocm_core.errors",
            "errors.py does not define load, so it is not one of the rew",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_its_key(kind, name, said):
    with pytest.raises(UserError) as refused:
        module_of(kind, name, "key")
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_module_of_another_kind_is_refused_with_what_it_lacks(package):
    name = package("own", "def make(results): ...\n")
    with pytest.raises(UserError, match=r"rewards: .*own\.py does not define load"):
        load_reward(name)


def test_a_syntax_error_is_one_sentence_in_the_plugin_and_in_what_it_imports(package):
    broken = package("broken", "DIFFERENTIABLE = True\ndef load(:\n")
    for ask in (lambda: module_of("rewards", broken, "key"), lambda: facts("rewards", broken)):
        with pytest.raises(UserError, match=r"broken\.py:2 is not valid Python: invalid syntax$"):
            ask()
    name = package("own", f"import {broken}\nclass Settings: ...\n")
    forget_code()
    for ask in (lambda: load("algorithms", name), lambda: code_fingerprint(name)):
        with pytest.raises(UserError, match=r"broken\.py:2 is not valid Python: invalid syntax$"):
            ask()


@pytest.mark.parametrize(
    ("literal", "base"),
    [("DIFFERENTIATES = True", "TrainingSettings"), ("", "BackpropagationSettings")],
)
def test_an_algorithm_that_differentiates_has_the_settings_of_backpropagation(
    package, literal, base
):
    source = (
        "from rocm_core.algorithms.base import BackpropagationSettings\n"
        "from rocm_core.configuration import TrainingSettings\n"
        f"{literal}\nclass Settings({base}): ...\n"
    )
    name = package("own", source)
    with pytest.raises(
        UserError, match=rf"^key: {name} must both declare DIFFERENTIATES = True and"
    ):
        settings_class(name, "key")


def test_facts_are_read_without_an_import_of_what_computes():
    """A dry-run needs no torch."""
    code = (
        "import sys\n"
        "from rocm_core.plugins import KINDS, facts, names\n"
        "for kind in KINDS:\n    for name in names(kind):\n        facts(kind, name)\n"
        "assert not sys.modules.keys() & {'torch', 'numpy', 'pandas', 'diffusers'}\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("file", ["half_noise", "soft"])
def test_the_documented_chain_and_denoiser_are_what_their_page_says(file, package):
    import torch

    folder = {"half_noise": "chains", "soft": "denoisers"}[file]
    name = package(file, tiny.documented(f"rocm_core/policies/{folder}/{file}.py"))
    if file == "soft":
        assert facts("denoisers", name) == {"PIPELINES": ("SoftPipeline",)}
        soft = load("denoisers", name).load(
            ROOT / "resources/shapes/consistency", 3.0, torch.device("cpu"), torch.float32, None
        )
        latents = torch.randn(2, *soft.latent_shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            images, plain = soft.decode(latents), super(type(soft), soft).decode(latents)
        assert torch.allclose(images - 0.5, (plain - 0.5) / 2, atol=1e-6)
        return
    from rocm_core.policies.chains import Schedule

    schedule = Schedule("model", {"_class_name": "LCMScheduler"})
    ours, theirs = load("chains", "lcm").make(schedule, 4), load("chains", name).make(schedule, 4)
    assert theirs.stds == [std / 2 for std in ours.stds] and len(theirs.steps) == 4


def test_what_the_examples_are_called_is_free():
    """Whoever follows the page must not overwrite a file of ours."""
    page = (ROOT / "docs/adding.md").read_text()
    shown = [
        line[1:-2]
        for line in page.splitlines()
        if line.startswith("`rocm_core/") and line[-2:] == "`:"
    ]
    assert len(shown) == len(KINDS) == 7
    for file in shown:
        assert not (ROOT / file).exists()
        assert ast.get_docstring(ast.parse(tiny.documented(file)))
