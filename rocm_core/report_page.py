"""The Jinja template of the report; rocm_core/report.py fills it."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5c6670; --line: #d9dde1;
  --paper: #ffffff; --panel: #f5f6f8; --up: #0b62a4; --down: #b34700; --link: #0b62a4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --soft: #a2abb4; --line: #3a4148;
  --paper: #15181b; --panel: #1f2428; --up: #7cc0f5; --down: #ff9d5c; --link: #7cc0f5; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 76rem; padding: 1.2rem 1rem 4rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; padding-top: 0.7rem;
  border-top: 1px solid var(--line); }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; }
p, figcaption { max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: 0.92rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.15rem 1rem; margin: 0.8rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 0.8rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.55rem; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper);
  font-weight: 500; }
thead th, thead th:first-child { font-weight: 600; border-bottom: 1px solid var(--line);
  vertical-align: bottom; }
tr.block th { background: var(--panel); font-weight: 600; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.best { font-weight: 700; }
.muted { color: var(--soft); font-style: italic; }
.rises { color: var(--up); } .falls { color: var(--down); } .undecided { color: var(--soft); }
.reading { text-align: left; }
.interval { display: block; }
td { vertical-align: top; } th { vertical-align: top; }
figure { margin: 1.5rem 0; }
figure img { display: block; width: 100%; max-width: 46rem; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: 6px; padding: 0.4rem; }
figcaption { margin-top: 0.5rem; }
figcaption b { color: var(--ink); }
code { font-size: 0.88em; }
summary { cursor: pointer; margin: 0.6rem 0; }
"""

PAGE = (
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ROCM reproduction: {{ config.name }}</title>
<style>"""
    + _STYLE
    + """</style>
</head>
<body>
{% macro arrow(change) %}
<span class="{{ change.direction }}">{{ {"rises": "▲", "falls": "▼"}.get(change.direction, "◆") }}
{{ change.mean|signed(change) }}</span>
<span class="soft interval">[{{ change.low|signed(change) }},
{{ change.high|signed(change) }}]</span>
{% endmacro %}
<header>
<h1>ROCM reproduction: run “{{ config.name }}”</h1>
<p>Consistency models fine-tuned on a reward under a divergence to their base model, scored on
prompts they were not trained on.</p>
<dl>
<dt>World</dt><dd>{{ config.world }}</dd>
<dt>Training rewards</dt><dd>{{ rewards|map("metric")|join(", ") }}</dd>
<dt>Methods</dt><dd>{{ results.methods()|map("method")|join("; ") }}</dd>
<dt>Cells</dt><dd>{{ cells|length }} of {{ results.cells|length }} trained</dd>
<dt>Training seeds</dt><dd>{{ config.seeds|length }} ({{ config.seeds|join(", ") }})</dd>
<dt>Validation prompts</dt><dd>{{ results.prompts|length }}</dd>
{% if gaps %}
<dt>Missing</dt><dd class="falls">{{ gaps|length }} artefacts, <a href="#gaps">listed below</a></dd>
{% endif %}
</dl>
<nav>
<a href="#readings">What changed</a><a href="#tables">Tables</a><a href="#figures">Figures</a>
<a href="#cells">Cells</a>{% if gaps %}<a href="#gaps">Gaps</a>{% endif %}
</nav>
</header>

<section id="readings">
<h2>What training changed</h2>
<p class="soft">Change of the final model against its base on the same prompts and noise, with the
95 % interval of a bootstrap over prompts (seeds averaged within a prompt). ▲ rises and ▼ falls: the
interval excludes 0; ◆ undecided: it does not. The interval does not cover the variation between
training seeds, and no correction for many comparisons is made. The trained reward is what the model
was optimised for, not an evaluation; "other metrics" counts the remaining ones by direction.</p>
<div class="scroll"><table>
<thead><tr><th>Model</th><th class="reading">Reading</th><th>Trained reward</th>
{% if judged %}<th>Gold judge</th>{% endif %}<th>Other metrics</th><th>Seeds</th></tr></thead>
{% for reward in rewards %}
<tbody>
<tr class="block"><th colspan="6">Trained on {{ reward|metric }}</th></tr>
{% for reading in readings if reading.trained_on == reward %}
<tr><th>{{ reading.method|method }}</th>
<td class="reading {{ reading.gold.direction if reading.gold }}">{{ reading.phrase }}</td>
<td>{% if reading.reward %}{{ arrow(reading.reward) }}{% else %}<i>missing</i>{% endif %}</td>
{% if judged %}
<td>{% if reading.gold %}{{ arrow(reading.gold) }}{% else %}<i>missing</i>{% endif %}</td>
{% endif %}
<td>{{ reading.held_out.rises }} ▲ {{ reading.held_out.falls }} ▼
{{ reading.held_out.undecided }} ◆</td>
<td>{{ reading.seeds }}</td></tr>
{% endfor %}
</tbody>
{% endfor %}
</table></div>
</section>

<section id="tables">
{% for name, table, html in tables %}
<h2>{% if name[:5] == "table" %}Table {{ name[5:] }}: {% endif %}{{ table.title }}</h2>
<p class="soft">{{ table.caption }}</p>
<div class="scroll">{{ html }}</div>
{% endfor %}
</section>

<section id="figures">
<h2>Figures</h2>
{% for picture in pictures %}
<figure id="{{ picture.name }}">
<img src="{{ picture.source }}" alt="{{ picture.title }}">
<figcaption><b>{{ picture.title }}.</b> {{ picture.caption }}
Data: <code>figures/{{ picture.name }}.csv</code>.</figcaption>
</figure>
{% endfor %}
</section>

<section id="cells">
<h2>Cells</h2>
<p class="soft">What each training job was made of and what it cost. Seconds are the job's own on
its device, summed over attempts; reward queries and U-Net passes count images scored and images
passed through the U-Net during training. A commit marked + had uncommitted changes.</p>
<div class="scroll"><table>
<thead><tr><th>Cell</th>{% for key in varying[0] %}<th>{{ key }}</th>{% endfor %}
<th>device</th><th>seconds</th><th>reward queries</th><th>U-Net passes</th><th>peak GiB</th>
<th>attempts</th><th>code</th><th>commit</th></tr></thead>
<tbody>
{% for cell in cells %}
<tr><th>{{ cell.name }}</th>
{% for key in varying[0] %}<td>{{ cell.settings[key] }}
{{ "(%.3g)"|format(cell.beta) if key == "beta" and cell.settings.beta == "auto" }}</td>{% endfor %}
<td>{{ cell.device }}</td><td>{{ "%.0f"|format(cell.seconds) }}</td>
<td>{{ "{:,.0f}".format(cell.reward_queries) }}</td>
<td>{{ "{:,.0f}".format(cell.unet_passes) }}</td>
<td>{{ "%.2f"|format(cell.peak_memory_gib) if cell.peak_memory_gib else "–" }}</td>
<td>{{ cell.attempts }}</td>
<td><code title="{{ cell.code }}">{{ cell.code[:10] }}</code></td>
{% set commit = cell.commit or "–" %}
<td><code title="{{ commit }}">{{ commit[:10] }}{{ "+" if "+" in commit }}</code></td></tr>
{% endfor %}
</tbody>
</table></div>
<details><summary>Settings that all cells share</summary>
<dl>{% for key, value in varying[1].items() %}
<dt>{{ key }}</dt><dd>{{ value }}</dd>
{% endfor %}</dl>
</details>
<details><summary>Packages</summary>
<dl>{% for key, value in packages.items() %}<dt>{{ key }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
</details>
</section>

{% if gaps %}
<section id="gaps">
<h2>Gaps</h2>
<p>These artefacts of the configuration do not exist yet; everything above leaves them out.</p>
<ul>{% for gap in gaps %}<li><code>{{ gap }}</code></li>{% endfor %}</ul>
</section>
{% endif %}
</body>
</html>
"""
)
