"""Which cells are tries of β."""

from collections.abc import Sequence

from rocm_core.grid.cells import Cell


def beta_tries(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of regularised ROCM as configured or with another β and nothing else, of those rewards
    and divergences for which several β are tried."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        is_rocm = cell.settings.algorithm == "direct" and cell.settings.divergence != "none"
        if is_rocm and {name for name, _ in cell.swept} <= {"beta"}:
            found.setdefault((cell.reward, cell.method), []).append(cell)
    return [c for own in found.values() if len({c.variant for c in own}) > 1 for c in own]
