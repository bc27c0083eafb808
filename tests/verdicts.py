"""The table of docs/results/README.md: what every published run says of every claim.

`python tests/verdicts.py` writes the page again.
"""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/results/README.md"
BEGIN = "<!-- verdicts: python tests/verdicts.py -->\n"
END = "\n<!-- end of verdicts -->"
UNTESTED = "not tested"


def published() -> dict[str, list[dict[str, str]]]:
    """The claims of each ledger below docs/results, by the name of its folder."""
    ledgers = sorted(PAGE.parent.glob("*/claims.json"))
    return {path.parent.name: json.loads(path.read_text())["claims"] for path in ledgers}


def table() -> str:
    runs = published()
    verdicts = {name: {c["id"]: c["verdict"] for c in claims} for name, claims in runs.items()}
    texts = {c["id"]: c["claim"] for claims in runs.values() for c in claims}
    rows = [
        [id, text, *(own.get(id, UNTESTED).replace(UNTESTED, "–") for own in verdicts.values())]
        for id, text in texts.items()
        if any(own.get(id, UNTESTED) != UNTESTED for own in verdicts.values())
    ]
    header = ["", "claim", *(f"[{name}]({name}/claims.md)" for name in runs)]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page() -> str:
    """docs/results/README.md with the table as it should be."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
