"""The grid: one plain table of cells, each a training run with settings of its own."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rocm_core.configuration import Config, TrainingSettings, load_schema, validate
from rocm_core.errors import UserError
from rocm_core.grid.cell_settings import Layers, cell_settings
from rocm_core.grid.methods import parse_method
from rocm_core.plugins import did_you_mean, require_known


@dataclass(frozen=True)
class Cell:
    """One training run.

    `method` is in its canonical spelling; `swept` are the settings that a sweep chose for this
    cell, with their values.
    """

    reward: str
    method: str
    swept: tuple[tuple[str, Any], ...]
    seed: int
    settings: TrainingSettings

    @property
    def variant(self) -> str:
        """The method with what a sweep chose, as folders and tables name it: rocm-kl--beta-0.01."""
        return self.method + "".join(f"--{name}-{spell(value)}" for name, value in self.swept)

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
    cells: dict[TrainingSettings, Cell] = {}
    names: dict[str, str] = {}
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
    for reward, method, key, layers, swept in plan:
        canonical, meaning = methods[method]
        for seed in config.seeds:
            settings = cell_settings(config, reward, meaning, seed, layers, key)
            cell = Cell(reward, canonical, swept, seed, settings)
            if settings in cells:
                continue
            if cell.name in names:
                raise UserError(
                    f"{key} and {names[cell.name]} are the same cell, {cell.name}, with different"
                    " settings: keep one of them"
                )
            names[cell.name] = key
            cells[settings] = cell
    return tuple(cells.values())


def _plan(config: Config) -> Iterator[tuple[str, str, str, Layers, tuple[tuple[str, Any], ...]]]:
    """(reward, method, key for errors, layers of settings under their keys, what is swept)."""

    def layers(reward: str, method: str) -> Layers:
        return [
            ("training", config.training),
            (f"methods.{method}", config.methods[method]),
            (f"cells.{reward}", config.cells.get(reward) or {}),
            (f"cells.{reward}/{method}", config.cells.get(f"{reward}/{method}") or {}),
        ]

    def is_wanted(reward: str, method: str) -> bool:
        return config.cells.get(f"{reward}/{method}", {}) is not None

    for reward in config.rewards:
        for method in filter(functools.partial(is_wanted, reward), config.methods):
            yield reward, method, f"methods.{method}", layers(reward, method), ()
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
                    yield reward, method, key, below, tuple(chosen.items())


def spell(value: Any) -> str:
    """A swept value as folders and labels write it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.12g}"
    return str(value).lower()


def table(cells: Sequence[Cell]) -> str:
    """The grid as text: each cell's name and the settings in which cells differ."""
    rows = [cell.settings.to_dict() for cell in cells]
    hidden = {"reward", "scorer", "policy", "model", "algorithm", "divergence", "seed"}
    keys = ["beta", "learning_rate", "batch_size", "iterations"]
    others = dict.fromkeys(key for row in rows for key in row if key not in hidden | set(keys))
    keys += [key for key in others if len({str(row[key]) for row in rows if key in row}) > 1]
    lines = [["cell", *keys]] + [
        [c.name, *(str(r.get(k, "")) for k in keys)] for c, r in zip(cells, rows, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([*text, f"{len(cells)} cells"])
