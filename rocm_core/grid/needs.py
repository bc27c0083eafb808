"""What a configuration has the data for: the needs that tables and figures declare."""

from collections.abc import Sequence

from rocm_core.configuration import Config
from rocm_core.errors import UserError
from rocm_core.grid.cells import Cell, make_grid
from rocm_core.grid.evaluation import evaluation_sets, inference_steps, lora_scales
from rocm_core.plugins import did_you_mean, facts, names
from rocm_core.provenance import Layout


def offered(kind: str, config: Config, layout: Layout | None = None) -> list[str]:
    """The tables or figures whose `NEEDS` a configuration meets, in the order of the report.

    layout: where its results are, by default in its own folder; what shards stand for has no
    images. Raises `UserError` where a module declares a need that does not exist.
    """
    met, place = _needs(config, layout or Layout(config.root)), {}
    for name in names(kind):
        declared = facts(kind, name)
        for need in declared["NEEDS"]:
            if need not in met:
                hint = did_you_mean(need, met)
                raise UserError(f"{kind}/{name}.py: NEEDS: there is no need {need!r}{hint}")
        if all(met[need] for need in declared["NEEDS"]):
            place[name] = declared["PLACE"]
    return sorted(place, key=lambda name: place[name])


def _needs(config: Config, layout: Layout) -> dict[str, bool]:
    """Whether a configuration has what a table or figure may need, by the name of the need."""
    cells = make_grid(config)
    settings = [cell.settings for cell in cells]
    rocm = [one for one in settings if one.algorithm == "direct"]
    of_beta = beta_tries(cells)
    watched = [c for c in cells if c.settings.snapshot_every] if config.snapshots.prompts else []
    return {
        "regularised": any(one.divergence != "none" for one in settings),
        "regularised rocm": any(one.divergence != "none" for one in rocm),
        "baselines": len(rocm) < len(cells),
        "algorithms": len({(one.algorithm, one.policy) for one in settings}) > 1,
        "rewards": len({cell.reward for cell in cells}) > 1,
        "beta sweeps": bool(of_beta),
        "other sweeps": any(cell.swept for cell in cells if cell not in of_beta),
        "horizons": any([k for k, _ in cell.swept] == ["inference_steps"] for cell in cells),
        "snapshots": any(not cell.swept for cell in watched),
        "snapshots, also against hacking": any(c.has_trick or not c.swept for c in watched),
        "rocm snapshots": any(
            cell.settings.algorithm == "direct" and not cell.swept for cell in watched
        ),
        "gradients": len(config.gradients.methods) > 1,
        # Of the models that figures show: shards have no images.
        "images": any(
            cell.name not in layout.sharded
            for cell in cells
            if cell.seed == config.seeds[0] and not cell.swept and not cell.trial
        ),
        "gold": "gold" in config.metrics,
        "inference steps": len(set(inference_steps(config))) > 1,
        "LoRA scales": len(lora_scales(config)) > 1,
        "prompt sets": len(evaluation_sets(config, cells)) > 1,
        "votes": config.study is not None and layout.has_votes,
    }


def beta_tries(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of regularised ROCM as configured or with another β and nothing else, of those rewards
    and divergences for which several β are tried: in a search, or in trainings of full length."""
    tries: dict[tuple[str, str, bool], list[Cell]] = {}
    for cell in cells:
        settings, swept = cell.settings, {name for name, _ in cell.swept}
        is_rocm = settings.algorithm == "direct" and settings.divergence != "none"
        if is_rocm and swept - ({"iterations"} if cell.trial else set()) <= {"beta"}:
            tries.setdefault((cell.reward, cell.method, cell.trial), []).append(cell)
    return [c for own in tries.values() if len({c.variant for c in own}) > 1 for c in own]
