"""The grid: one plain table of cells, each a training run with settings of its own."""

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rocm_core.configuration import Config, TrainingSettings, load_schema, validate
from rocm_core.errors import UserError
from rocm_core.grid.methods import parse_method
from rocm_core.grid.settings import Layers, cell_settings
from rocm_core.plugins import did_you_mean, require_known

# Settings of a training that may tame reward hacking.
_TRICKS = {
    *("truncate", "stop_input", "low_variance", "stop_by", "gate_by", "step_weights"),
    *("last_step_divergence", "reference_reset", "reference_decay"),
}


@dataclass(frozen=True)
class Cell:
    """One training run.

    `method` is in its canonical spelling; `swept` are the settings that a sweep chose for this
    cell, with their values. A `trial` is one of the shorter runs of a search.
    """

    reward: str
    method: str
    swept: tuple[tuple[str, Any], ...]
    seed: int
    settings: TrainingSettings
    trial: bool = False

    @property
    def trained_with(self) -> TrainingSettings:
        """What the training depends on: not who chooses among its snapshots afterwards."""
        return self.settings.model_copy(update={"stop_by": None})

    @property
    def variant(self) -> str:
        """The method with what a sweep chose, as folders and tables name it: rocm-kl--beta-0.01."""
        return self.method + "".join(f"--{name}-{spell(value)}" for name, value in self.swept)

    @property
    def has_trick(self) -> bool:
        """Whether a sweep gave it a setting against reward hacking."""
        return bool(_TRICKS & dict(self.swept).keys())

    @property
    def name(self) -> str:
        """Folder of the cell below `cells/` and `samples/`: hpsv2/rocm-kl/seed-0."""
        return f"{self.reward}/{self.variant}/seed-{self.seed}"

    @property
    def evaluated_on(self) -> str:
        """The prompt set on which its snapshots are evaluated: that of its training where a sweep
        chose it, as the animals of figure 6, else the validation prompts."""
        return self.settings.prompts if "prompts" in dict(self.swept) else "validation"


@functools.cache
def make_grid(config: Config) -> tuple[Cell, ...]:
    """All cells of a configuration, in its order, each once: where an alias or a sweep repeats the
    settings of a cell, the first name stands. Raises `UserError` naming the key at fault."""
    cells: dict[tuple[str, bool], Cell] = {}
    named: dict[str, str] = {}
    methods = {
        method: parse_method(method, f"methods.{method}", config.policies)
        for method in config.methods
    }
    plan = list(_plan(config))
    known = [f"{reward}/{method}" for reward in config.rewards for method in config.methods]
    for place, given in config.cells.items():
        if place not in (*known, *config.rewards):
            raise UserError(f"cells.{place} is not a cell of the grid{did_you_mean(place, known)}")
        if given is None and place in config.rewards:
            raise UserError(f"cells.{place} is null: remove {place} from rewards instead")
    if not plan:
        raise UserError("cells is null for every cell of the grid: leave one")
    for reward, method, key, layers, swept, trial in plan:
        canonical, meaning = methods[method]
        for seed in config.seeds[:1] if trial else config.seeds:
            settings = cell_settings(config, reward, meaning, seed, layers, key)
            every = settings.reference_reset
            if every is not None and every >= settings.iterations and not trial:
                raise UserError(
                    f"{key}.reference_reset must be below iterations, {settings.iterations}, or the"
                    f" reference never moves, but it is {every}"
                )
            cell = Cell(reward, canonical, swept, seed, settings, trial)
            content = json.dumps(settings.to_dict(), sort_keys=True)
            if (content, trial) in cells:
                continue
            if cell.name in named:
                raise UserError(
                    f"{key} and {named[cell.name]} are the same cell, {cell.name}, with different"
                    " settings: keep one of them"
                )
            named[cell.name] = key
            cells[content, trial] = cell
    return tuple(cells.values())


def trials_of(cells: Iterable[Cell], reward: str, method: str) -> list[Cell]:
    """The trials of the search that chooses settings of a method on a reward."""
    return [c for c in cells if c.trial and (c.reward, c.method) == (reward, method)]


def _plan(
    config: Config,
) -> Iterator[tuple[str, str, str, Layers, tuple[tuple[str, Any], ...], bool]]:
    """(reward, method, key for errors, layers of settings under their keys, what is swept, whether
    it is a trial of a search)."""

    def layers(reward: str, method: str) -> Layers:
        return [
            ("training", config.training),
            (f"methods.{method}", config.methods[method]),
            (f"cells.{reward}", config.cells.get(reward) or {}),
            (f"cells.{reward}/{method}", config.cells.get(f"{reward}/{method}") or {}),
        ]

    def is_wanted(reward: str, method: str) -> bool:
        return config.cells.get(f"{reward}/{method}", {}) is not None

    unwatched = {"snapshot_every": 0, "snapshot_at": None, "stop_by": None}
    for reward in config.rewards:
        for method in filter(functools.partial(is_wanted, reward), config.methods):
            key, own = f"methods.{method}", layers(reward, method)
            yield reward, method, key, own, (), False
            for chosen in _combinations(own, key):
                below = [*own, (f"{key}, search", chosen | unwatched)]
                yield reward, method, key, below, tuple(chosen.items()), True
    for index, sweep in enumerate(config.sweeps):
        key = f"sweeps[{index}]"
        properties = load_schema(config.methods)["properties"]["training"]["properties"]
        swept = {sweep.setting: sweep.values} | (sweep.cross or {})
        for setting, values in swept.items():
            is_main = setting == sweep.setting
            require_known(setting, properties, f"{key}.{'setting' if is_main else 'cross'}")
            where = ("values",) if is_main else ("cross", setting)
            for value in values:
                validate(value, properties[setting], ("sweeps", index, *where))
        for reward in sweep.rewards or config.rewards:
            require_known(reward, config.rewards, f"{key}.rewards")
            for method in sweep.methods:
                require_known(method, config.methods, f"{key}.methods")
                for values in (
                    itertools.product(*swept.values()) if is_wanted(reward, method) else ()
                ):
                    chosen = dict(zip(swept, values, strict=True))
                    below = [*layers(reward, method), (f"{key}.values", chosen)]
                    named = ((k, tuple(v) if isinstance(v, list) else v) for k, v in chosen.items())
                    yield reward, method, key, below, tuple(named), False


def _combinations(layers: Layers, key: str) -> Iterator[dict[str, Any]]:
    """The settings of each trial of a search: every combination of the values of what is searched,
    and their number of iterations."""
    merged = {name: value for _, layer in layers for name, value in layer.items()}
    searched = {n: v for n, v in merged.items() if isinstance(v, Mapping) and "search" in v}
    lengths = {search["iterations"] for search in searched.values()}
    if len(lengths) > 1:
        raise UserError(
            f"{key}: {' and '.join(searched)} are searched together: give both the same iterations"
        )
    for iterations in lengths:  # the one, or none where nothing is searched
        for values in itertools.product(*(search["search"] for search in searched.values())):
            yield dict(zip(searched, values, strict=True)) | {"iterations": iterations}


def spell(value: Any) -> str:
    """A swept value as folders and labels write it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.12g}"
    if isinstance(value, tuple):
        return "-".join(map(spell, value))
    return str(value).lower()


def table(cells: Sequence[Cell]) -> str:
    """The grid as text: each cell's name and the settings in which cells differ."""
    rows = [cell.settings.to_dict() for cell in cells]
    hidden = {"reward", "scorer", "policy", "model", "algorithm", "divergence", "seed"}
    hidden |= {"scorers", "ensemble"}
    keys = ["beta", "learning_rate", "batch_size", "iterations"]
    others = dict.fromkeys(key for row in rows for key in row if key not in hidden | set(keys))
    keys += [key for key in others if len({str(row[key]) for row in rows if key in row}) > 1]
    lines = [["cell", *keys]] + [
        [c.name, *(_shown(r.get(k, "")) for k in keys)] for c, r in zip(cells, rows, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([*text, f"{len(cells)} cell{'s' * (len(cells) != 1)}"])


def _shown(value: Any) -> str:
    """A setting in the table; of one that is searched for, what is tried."""
    tried = value.get("search", ()) if isinstance(value, dict) else ()
    return "|".join(map(spell, tried)) or str(value)
