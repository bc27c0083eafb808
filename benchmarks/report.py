"""The recorded measurements as tables and figures: `python -m benchmarks.report`.

Rewrites what stands between the markers in docs/speed.md, and docs/images/speed*.png; prints the
ratios.
"""

import json
import statistics
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks import stages
from benchmarks.compare import COMPARISONS, RESULTS, ROOT, ratios
from rocm_core.figures._style import DPI, WIDTH, styled

PAGE = ROOT / "docs/speed.md"
PICTURE = ROOT / "docs/images/speed.png"
BEGIN, END = "<!-- results: python -m benchmarks.report -->", "<!-- end of results -->"

Record = dict[str, Any]


def steps() -> list[Record]:
    """The records of compared steps, those of one place together."""
    order = {name: place for place, name in enumerate(COMPARISONS)}
    records = [json.loads(path.read_text()) for path in RESULTS.glob("*-batch-*.json")]
    return sorted(records, key=lambda record: (_place(record), order[record["comparison"]]))


def _place(record: Record) -> str:
    setup = record["setup"]
    place = f"{record['device']}, {record['size']}, batch {setup['batch_size']}"
    return place + ", compiled" * setup["compile"]


def _clock(record: Record) -> str:
    return "seconds_per_step" if record["clock"] == "seconds" else "cpu_seconds_per_step"


def table(records: list[Record]) -> str:
    """One row per contender: what a step costs it, and the ratio to ours."""
    lines = [
        "| where | comparison | trainer | seconds per step | images/s | NFE | peak MiB"
        " | time relative to ours | gradient differs by |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for record in records:
        for contender, numbers in record["contenders"].items():
            times = "1" if contender == "ours" else f"{record['ratios'][contender]:.2f}"
            cells = [_place(record), record["comparison"], contender]
            seconds = numbers[_clock(record)]
            cells += [f"{seconds:.3f}", f"{record['setup']['batch_size'] / seconds:.2f}"]
            differs = record.get("gradient_differences", {}).get(contender)
            cells += [str(numbers["nfe"]), f"{numbers['peak_bytes'] / 2**20:.0f}", times]
            cells.append("" if differs is None else f"{differs:.0e}")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def account(records: list[Record]) -> str:
    """The floor of each record's step and what the step takes."""
    lines = [
        "| where | floor | one step takes | share of the matrix rate | reward queries/s |",
        "|---|---|--:|--:|--:|",
    ]
    for record in records:
        if "floor" not in record:
            continue
        floor = record["floor"]
        parts = [
            f"{line['count']} × {name} {1000 * line['seconds'] / line['count']:.1f} ms"
            for name, line in floor["lines"].items()
            if line["count"]
        ]
        whole = statistics.median(floor["floor_seconds"])
        cells = [
            _place(record),
            f"{' + '.join(parts)} = {1000 * whole:.0f} ms",
            f"{floor['step_over_floor']:.2f} × the floor",
            f"{100 * record['share_of_matrix_rate']:.0f} %",
            f"{record['reward_queries_per_second']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def other_stages(record: Record) -> str:
    """One row per stage other than the step, and what it is compared with."""
    scoring, start = record["scoring"], record["start-up"]
    job, imports, library = (statistics.median(taken) for taken in start["cpu_seconds"].values())
    rows = [
        "| stage | ours | compared with | ratio |",
        "|---|--:|--:|--:|",
        *_paces("scoring", scoring),
        *_paces("generation", record["generation"]),
        f"| start-up to the first step, bare imports | {job:.1f} s | {imports:.1f} s"
        f" | {start['ratio']:.2f} |",
        f"| `import rocm_core` | {library:.2f} s | | |",
        "",
        f"Scores differ by at most {scoring['largest_difference']:.0e}.",
    ]
    return "\n".join(rows)


def dry_runs(record: Record) -> str:
    """One row per number of cells."""
    rows = ["| cells | seconds per dry-run | ms per cell |", "|--:|--:|--:|"]
    for cost in record["cells"]:
        each = 1000 * cost["cpu_seconds"] / cost["cells"]
        rows.append(f"| {cost['cells']} | {cost['cpu_seconds']:.1f} | {each:.1f} |")
    return "\n".join(rows)


def demo_clock(record: Record) -> str:
    """What the whole demo took, if the record says so."""
    if "wall_seconds" not in record:
        return ""
    return (
        f"The demo on {record['device']} took {record['wall_seconds'] / 60:.1f} minutes from the"
        " start of its first job to the end of its last."
    )


def _paces(stage: str, result: Record) -> list[str]:
    (_, ours), *others = result["images_per_second"].items()
    return [
        f"| {stage}, {name.replace('_', ' ')} | {ours:.0f} images/s | {pace:.0f} images/s"
        f" | {result['ratios'][name]:.1f} |"
        for name, pace in others
    ]


@styled
def draw(records: list[Record]) -> None:
    """Ours beside each peer, relative to ours; and the step's time in parts beside its floor."""
    first = next(record for record in records if "floor" in record)
    clock = _clock(first)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(1.5 * WIDTH, 0.55 * WIDTH), layout="constrained"
    )
    peers = [
        record
        for record in records
        if _place(record) == _place(first) and record["comparison"] != "switches"
    ]
    for place, record in enumerate(peers):
        (_, ours), (peer, theirs) = record["contenders"].items()
        left.bar(place - 0.2, 1000 * ours[clock], 0.38, color="#0072b2", zorder=2)
        left.bar(place + 0.2, 1000 * theirs[clock], 0.38, color="#999999", zorder=2)
        text = f"{peer}\n{record['ratios'][peer]:.2f} ×"
        left.text(place + 0.2, 1000 * theirs[clock], text, ha="center", va="bottom", fontsize=8)
    left.set_xticks(range(len(peers)), [record["comparison"] for record in peers])
    left.set_ylabel("ms per step")
    left.set_title("ours (blue) beside its peers")
    left.margins(y=0.25)
    floor = {name: line["seconds"] for name, line in first["floor"]["lines"].items()}
    shades = (
        "#0072b2",
        "#56b4e9",
        "#009e73",
        "#88ccaa",
        "#e69f00",
        "#cc79a7",
        "#999999",
        "#333333",
    )
    for place, parts in ((0, floor), (1.4, first["account"])):
        bottom = 0.0
        for shade, (part, seconds) in zip(shades, parts.items(), strict=False):
            height = 1000 * max(seconds, 0)
            right.bar(place, height, 0.5, bottom, color=shade, zorder=2)
            if height > 0.04 * 1000 * sum(parts.values()):
                right.text(place + 0.29, bottom + height / 2, part, va="center", fontsize=8)
            bottom += height
    right.set_xticks((0, 1.4), ("its floor", "a step"))
    right.set_xlim(-0.4, 2.3)
    right.set_ylabel("ms")
    right.set_title("where the time of a step goes")
    figure.savefig(PICTURE, dpi=DPI)
    plt.close(figure)


@styled
def draw_growth(record: Record) -> None:
    """Time over chain, batch and cells, and memory over the chain without and with a limit."""
    figure, axes = plt.subplots(1, 4, figsize=(2 * WIDTH, 0.5 * WIDTH), layout="constrained")
    lengths = [int(k) for k in record["steps"]]
    steps, limited, batch = (list(record[n].values()) for n in ("steps", "limited", "batch"))
    _line(axes[0], lengths, [c["cpu_seconds"] for c in steps], "steps K (2 images)", "s per step")
    images = [int(n) for n in record["batch"]]
    _line(
        axes[1], images, [c["cpu_seconds"] for c in batch], "images per step (K = 4)", "s per step"
    )
    cells = record["cells"]
    _line(
        axes[2],
        [c["cells"] for c in cells],
        [c["cpu_seconds"] for c in cells],
        "cells",
        "s per dry-run",
    )
    for costs, label, colour in ((steps, "auto", "#0072b2"), (limited, "limited", "#d55e00")):
        axes[3].plot(lengths, [c["bytes"] / 2**20 for c in costs], "o-", color=colour, label=label)
    kinds = [cost["activation_checkpointing"] for cost in limited]
    for kind in set(kinds):
        last = max(place for place, other in enumerate(kinds) if other == kind)
        height = limited[last]["bytes"] / 2**20
        axes[3].text(lengths[last], height, kind, fontsize=8, va="top", ha="center")
    axes[3].axhline(record["limit_gib"] * 1024, color="#999999", linestyle="--", label="limit")
    axes[3].set_xlabel("steps K (2 images)")
    axes[3].set_ylabel("peak MiB")
    axes[3].set_xlim(0)
    axes[3].set_ylim(0)
    axes[3].legend()
    figure.savefig(PICTURE.with_stem("speed-growth"), dpi=DPI)
    plt.close(figure)


def _line(axis: Axes, sizes: list[int], costs: list[float], label: str, unit: str) -> None:
    """Measured points over the line through the first and the last."""
    ends = [sizes[0], sizes[-1]], [costs[0], costs[-1]]
    axis.plot(*ends, color="#999999", linestyle="--", linewidth=1)
    axis.plot(sizes, costs, "o", color="#0072b2")
    axis.set_xlabel(label)
    axis.set_ylabel(unit)
    axis.set_xlim(0)
    axis.set_ylim(0)


@styled
def draw_demo(record: Record) -> None:
    """Seconds of each stage of the demo's grid: its work, and its processes' start-up."""
    stages = sorted(record["seconds"].items(), key=lambda item: sum(item[1].values()))
    names = [name for name, _ in stages]
    whole = sum(sum(parts.values()) for _, parts in stages)
    figure, axis = plt.subplots(figsize=(WIDTH, 0.45 * WIDTH), layout="constrained")
    left = [0.0] * len(stages)
    for part, colour in {"work": "#0072b2", "start-up": "#e69f00"}.items():
        seconds = [parts[part] for _, parts in stages]
        label = f"{part}, {100 * sum(seconds) / whole:.0f} % of all"
        axis.barh(names, seconds, 0.6, left=left, color=colour, label=label, zorder=2)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    for name, both in zip(names, left, strict=True):
        axis.text(both, name, f" {100 * both / whole:.0f} %", va="center", fontsize=9)
    axis.set_xlabel("s, summed over jobs")
    axis.margins(x=0.12)
    axis.legend(loc="lower right")
    figure.savefig(PICTURE.with_stem("speed-demo"), dpi=DPI)
    plt.close(figure)


def _read(name: str) -> Record:
    return json.loads((RESULTS / f"{name}.json").read_text())


def main() -> None:
    records, growth, stage_record = steps(), _read("scaling-cpu"), _read("stages-cpu")
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    demo = _read("demo")
    parts = [table(records), account(records), other_stages(stage_record), dry_runs(growth)]
    parts += filter(None, [demo_clock(demo)])
    PAGE.write_text("\n\n".join([before + BEGIN, *parts, END + after]))
    draw(records)
    draw_growth(growth)
    draw_demo(demo)
    for record in records:
        print(_place(record), record["comparison"], *ratios(record), sep="\n  ")
    print("other stages", *stages.ratios(stage_record), sep="\n  ")


if __name__ == "__main__":
    main()
