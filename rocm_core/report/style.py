"""How the report looks: on a desk, on a phone, in the dark, on paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5c6670; --line: #d9dde1;
  --paper: #ffffff; --panel: #f5f6f8; --up: #0b62a4; --down: #b34700; --link: #0b62a4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --soft: #a2abb4; --line: #3a4148;
  --paper: #15181b; --panel: #1f2428; --up: #7cc0f5; --down: #ff9d5c; --link: #7cc0f5; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1rem 4rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 0.3rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; padding-top: 0.7rem;
  border-top: 1px solid var(--line); }
header + section h2 { margin-top: 1rem; }
h3 { font-size: 1rem; margin: 1.1rem 0 0.3rem; color: var(--soft); font-weight: 600; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; margin-top: 0.5rem; }
p, figcaption { max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: 0.92rem; }
.facts { margin: 0.2rem 0; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.15rem 1rem;
  margin: 0.8rem 0; font-size: 0.92rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 0.8rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.55rem; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper);
  font-weight: 500; }
thead th, thead th:first-child { font-weight: 600; border-bottom: 1px solid var(--line);
  vertical-align: bottom; }
tr.block th { background: var(--panel); font-weight: 600; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.best { font-weight: 700; }
.muted { color: var(--soft); font-style: italic; }
.rises, .holds { color: var(--up); } .falls, .fails { color: var(--down); }
.undecided, .open, .missing { color: var(--soft); }
.left { text-align: left; }
.interval { display: block; }
figure { margin: 1.5rem 0; }
figure img { display: block; width: 100%; max-width: 46rem; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: 6px; padding: 0.4rem; }
figcaption { margin-top: 0.5rem; }
figcaption b { color: var(--ink); }
code { font-size: 0.88em; overflow-wrap: anywhere; }
summary { cursor: pointer; }
details > .scroll, details > p, details > dl { margin-left: 0; }

.claim { border-top: 1px solid var(--line); }
.claim > summary { display: grid; gap: 0 0.9rem; padding: 0.35rem 0; align-items: baseline;
  grid-template-columns: 2.4rem 8.4rem minmax(0, 1fr) 15rem; list-style: none; }
.claim > summary::-webkit-details-marker { display: none; }
.claim > summary:hover { background: var(--panel); }
.claim[open] { padding-bottom: 0.6rem; }
.id { color: var(--soft); font-variant-numeric: tabular-nums; }
.verdict { border-radius: 4px; padding: 0 0.45rem; font-size: 0.86rem; font-weight: 600;
  justify-self: start; border: 1px solid currentColor; white-space: nowrap; }
.confirmed { color: var(--paper); background: var(--up); border-color: var(--up); }
.refuted { color: var(--paper); background: var(--down); border-color: var(--down); }
.not-decidable { color: var(--soft); }
.number { font-variant-numeric: tabular-nums; text-align: right; font-size: 0.92rem; }
.why { grid-column: 3 / 5; color: var(--soft); font-size: 0.86rem; }

.cell { border-top: 1px solid var(--line); padding: 0.5rem 0; }
.cell > summary { display: flex; flex-wrap: wrap; gap: 0 1rem; overflow-wrap: anywhere; }
.strip { display: block; width: 100%; max-width: 52rem; height: auto; margin: 0.5rem 0;
  border-radius: 4px; image-rendering: auto; }
ol { margin: 0.3rem 0; padding-left: 1.6rem; } ol li { overflow-wrap: anywhere; }
@media (max-width: 44rem) {
  .claim th:first-child { white-space: normal; min-width: 9.5rem; }
  .claim > summary { grid-template-columns: 2.4rem minmax(0, 1fr); }
  .claim > summary > .text, .claim > summary > .number, .why { grid-column: 2; text-align: left; }
}
@media print { body { max-width: none; } .scroll { overflow: visible; } nav { display: none; } }
"""
