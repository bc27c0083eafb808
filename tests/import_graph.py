"""Who imports whom in rocm_core, read from the sources: for the tests and for docs/layout.md.

`python tests/import_graph.py > docs/layout.md` writes the page again.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from rocm_core.provenance.fingerprint import imports_of  # noqa: E402

PAGE = ROOT / "docs" / "layout.md"
PACKAGE = "rocm_core"


def modules() -> dict[str, Path]:
    """{dotted name: file} of the library; a package is named like its folder."""
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


def module_imports() -> dict[str, set[str]]:
    """{module: modules that it imports}, imports inside functions included, those for type checkers
    left out."""
    known = modules()
    graph = {}
    for name, file in known.items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        pairs = imports_of(ast.parse(file.read_bytes()), package)
        targets = (f"{m}.{taken}" if f"{m}.{taken}" in known else m for m, taken in pairs)
        graph[name] = {target for target in targets if target in known and target != name}
    return graph


def room_of(module: str) -> str:
    """The room of a module (rocm_core.rewards.gold: rewards); a module at the top is its own."""
    return module.split(".")[1] if "." in module else PACKAGE


def room_imports() -> dict[str, set[str]]:
    """{room: rooms that it imports}; the package's own `__init__` is no room."""
    rooms: dict[str, set[str]] = {}
    for module, targets in module_imports().items():
        if module != PACKAGE:
            own = rooms.setdefault(room_of(module), set())
            own |= {room_of(t) for t in targets if t != PACKAGE} - {room_of(module)}
    return rooms


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A chain of imports that ends where it began; [] where there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if found := visit(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next(filter(None, (visit(name, []) for name in sorted(graph))), [])


def floors(graph: dict[str, set[str]]) -> list[list[str]]:
    """The rooms by how many floors of imports lie below them, the ground floor first."""
    height: dict[str, int] = {}

    def measure(name: str) -> int:
        if name not in height:
            height[name] = 1 + max(map(measure, graph[name]), default=-1)
        return height[name]

    for name in graph:
        measure(name)
    return [sorted(n for n in graph if height[n] == h) for h in range(max(height.values()) + 1)]


def direct(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph without the imports that a detour over other rooms implies."""

    def below(name: str) -> set[str]:
        return graph[name].union(*map(below, graph[name])) if graph[name] else set()

    return {
        name: {t for t in targets if not any(t in below(other) for other in targets - {t})}
        for name, targets in graph.items()
    }


def first_line(room: str) -> str:
    """What a room says it is for: the first sentence of its docstring."""
    file = modules()[f"{PACKAGE}.{room}"]
    text = " ".join(
        (ast.get_docstring(ast.parse(file.read_bytes())) or "").split("\n\n")[0].split()
    )
    return text


def _listed(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def page() -> str:
    """docs/layout.md."""
    rooms = room_imports()
    arrows = direct(rooms)
    storeys = [
        f"| {height if room == names[0] else ''} | `{room}` | {_listed(arrows[room])} |"
        for height, names in reversed(list(enumerate(floors(rooms))))
        for room in names
    ]
    about = [f"| `{room}` | {first_line(room)} |" for room in sorted(rooms)]
    journeys = [
        line
        for title, steps in JOURNEYS.items()
        for line in (
            f"### {title}",
            "",
            *(f"{i}. `{file}`: {what}" for i, (file, what) in enumerate(steps, 1)),
            "",
        )
    ]
    return "\n".join(
        [
            "# How the code is laid out",
            "",
            "Written by `python tests/import_graph.py > docs/layout.md` from the imports",
            "themselves; a test holds this page to them.",
            "",
            "| in the repository | what it is |",
            "|---|---|",
            *(f"| `{name}` | {what} |" for name, what in REPOSITORY.items()),
            "",
            "`rocm_core` is a set of rooms. A room is entered through its `__init__`, which says",
            "what it is for and passes names on. Imports go down only, also those inside",
            "functions; there is no circle, neither between rooms nor between modules.",
            "",
            "| room | what lives there |",
            "|---|---|",
            *about,
            "",
            "## Who imports whom",
            "",
            "From the top floor down. What a room reaches through another one that it imports is",
            "left out.",
            "",
            "| floor | room | imports |",
            "|---|---|---|",
            *storeys,
            "",
            "## Two journeys for a newcomer",
            "",
            *journeys[:-1],
            "",
        ]
    )


REPOSITORY = {
    "Snakefile": "the workflow: a file of rules per stage in `workflow/rules/`, a script per job in"
    " `workflow/scripts/`",
    "rocm_core/": "the library, which the scripts call",
    "config/": "a YAML file per experiment",
    "profiles/, slurm/, local/": "how Snakemake runs: always, on a cluster, on a machine with GPUs",
    "envs/": "the packages, pinned",
    "resources/shapes/": "models and scorers of the embedded world",
    "results/": "what a run leaves behind, out of git",
    "docs/results/": "published results, and the small files that studies go on from",
    "tests/, benchmarks/, .ci/run": "tests, measurements, and what the CI calls",
}

# File and what happens there, in the order of a run.
JOURNEYS: dict[str, list[tuple[str, str]]] = {
    "A prompt, from the configuration to its image": [
        ("config/demo.yaml", "`prompts.train` and `prompts.validation` say where prompts are from"),
        ("rocm_core/configuration/settings.py", "`PromptSettings` types that section"),
        ("rocm_core/grid/loading.py", "`load_config` checks it against the other sections"),
        ("workflow/rules/prompts.smk", "one job per prompt set"),
        ("rocm_core/prompts/sets.py", "`make_prompts` reads, filters and samples the set"),
        ("rocm_core/prompts/prompt.py", "`Prompt`, and the .jsonl file that all stages read"),
        ("workflow/rules/train.smk", "one job per cell reads the training prompts"),
        ("rocm_core/training/job.py", "`train` runs the cell and keeps its state safe"),
        ("rocm_core/training/trainer.py", "prompts are encoded once and dealt to batches"),
        ("rocm_core/policies/policy.py", "`rollout`: K steps from noise to latents"),
        ("rocm_core/algorithms/direct.py", "the reward scores each image with its prompt"),
        ("rocm_core/evaluation/images.py", "a validation prompt's id names its image"),
    ],
    "β, from the configuration to a table": [
        ("config/demo.yaml", "`methods.<method>` gives β"),
        ("rocm_core/configuration/settings.py", "`TrainingSettings.beta`: its type and bounds"),
        ("rocm_core/grid/settings.py", "each cell's layers of settings are merged and checked"),
        ("workflow/rules/train.smk", "the settings travel as JSON in `params`"),
        ("rocm_core/training/job.py", "`train` gets them typed, and writes β to the manifest"),
        ("rocm_core/training/controller.py", "where β has a target, it is adapted"),
        ("rocm_core/algorithms/direct.py", "R - β Σ D, equation 10"),
        ("rocm_core/divergences/kl.py", "D, a function of d² alone"),
        ("rocm_core/analysis/sweeps.py", "all β that were tried"),
        ("rocm_core/tables/table2.py", "the best β of each divergence"),
    ],
}


if __name__ == "__main__":
    print(page(), end="")
