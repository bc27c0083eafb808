"""The Jinja template of the report; rocm_core/report/report.py fills it."""

from rocm_core.report.style import STYLE

PAGE = (
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ROCM reproduction: {{ config.name }}</title>
<style>"""
    + STYLE
    + """</style>
</head>
<body>
{% macro numbered(name, kind) %}
{% if name[:kind|length] == kind|lower %}{{ kind }} {{ name[kind|length:] }}: {% endif %}
{% endmacro %}
{% macro arrow(change) %}
<span class="{{ change.direction }}">{{ {"rises": "▲", "falls": "▼"}.get(change.direction, "◆") }}
{{ change.mean|signed(change) }}</span>
<span class="soft interval">[{{ change.low|signed(change) }},
{{ change.high|signed(change) }}]</span>
{% endmacro %}
{% macro claim_row(claim) %}
<details class="claim" id="claim-{{ claim.id }}"><summary>
<span class="id">{{ claim.id }}</span>
<span class="verdict {{ claim.verdict|replace(" ", "-") }}">{{ claim.verdict }}</span>
<span class="text">{{ claim.claim }}</span>
{% set part = claim.parts[claim.decisive] if claim.decisive is not none %}
<span class="number">{{ part.shown if part }}</span>
<span class="why">{{ part.label + ("; " if claim.reason else "") if part }}{{ claim.reason }}</span>
</summary>
<p class="soft">{{ claim.test }}</p>
{% if claim.parts %}
<div class="scroll"><table>
<thead><tr><th>Part</th><th>Number, 95 % interval</th><th class="left">Outcome</th>
<th class="left">Expected</th><th class="left">Details</th></tr></thead><tbody>
{% for part in claim.parts %}
<tr><th>{{ part.label }}</th><td>{{ part.shown }}</td>
<td class="left {{ part.outcome }}">{{ part.outcome }}</td>
<td class="left">{{ part.expects }}</td><td class="left">{{ part.details }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
</details>
{% endmacro %}
<header>
<h1>ROCM reproduction: run “{{ config.name }}”</h1>
<p class="soft facts">{{ rewards|map("metric")|join(", ") }} as training rewards in the world
“{{ config.world }}”; {{ cells|length }} of {{ results.cells|length }} cells trained,
{{ config.seeds|length }} training {{ "seed" if config.seeds|length == 1 else "seeds" }},
{{ results.prompts|length }} validation prompts; {{ hours }} of training.
{% if gaps %}
<a class="falls" href="#gaps">{{ gaps|length }} artefacts are missing.</a>
{% endif %}
</p>
<nav>
<a href="#claims">Claims</a><a href="#readings">What changed</a><a href="#tables">Tables</a>
<a href="#figures">Figures</a><a href="#cells">Cells</a>
{% if gaps %}<a href="#gaps">Gaps</a>{% endif %}
</nav>
</header>

<section id="claims">
<h2>The answer: {{ tally }}</h2>
<p class="soft">Each line is a claim, its verdict, and the number that decides it with its 95 %
interval (SD: standard deviations over prompts); open it for its test and every comparison.
{% if config.seeds|length == 1 %}
One training seed: intervals are over prompts, and verdicts speak of these trainings only.
{% endif %}
Verdicts follow from the scores alone, as docs/claims.md says.</p>
{% for heading, of_group, idle in claims %}
{% if of_group or idle %}
<h3>{{ heading }}</h3>
{% for claim in of_group %}{{ claim_row(claim) }}{% endfor %}
{% if idle %}
<details class="claim"><summary><span class="id"></span>
<span class="verdict not-decidable">not tested</span>
<span class="text">{{ idle|length }} {{ "claim needs" if idle|length == 1 else "claims need" }} what
this configuration does not have: {{ idle|map(attribute="id")|join(", ") }}</span></summary>
{% for claim in idle %}{{ claim_row(claim) }}{% endfor %}
</details>
{% endif %}
{% endif %}
{% endfor %}
</section>

<section id="readings">
<h2>What training changed</h2>
<p class="soft">Change of the final model against its base on the same prompts and noise, with the
95 % interval of a bootstrap over prompts (seeds averaged within a prompt). ▲ rises and ▼ falls: the
interval excludes 0; ◆ undecided: it does not. The interval does not cover the variation between
training seeds, and no correction for many comparisons is made. The trained reward is what the model
was optimised for, not an evaluation; "other metrics" counts the remaining ones by direction.</p>
<div class="scroll"><table>
<thead><tr><th>Model</th><th class="left">Reading</th><th>Trained reward</th>
{% if judged %}<th>Gold judge</th>{% endif %}<th>Other metrics</th><th>Seeds</th></tr></thead>
{% for reward in rewards %}
<tbody>
<tr class="block"><th colspan="6">Trained on {{ reward|metric }}</th></tr>
{% for reading in readings if reading.trained_on == reward %}
<tr><th>{{ reading.method|method }}</th>
<td class="left {{ reading.gold.direction if reading.gold }}">{{ reading.phrase }}</td>
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
<h2>{{ numbered(name, "Table") }}{{ table.title }}</h2>
<p class="soft">{{ table.caption }}</p>
<div class="scroll">{{ html }}</div>
{% endfor %}
</section>

<section id="figures">
<h2>Figures</h2>
{% for picture in pictures %}
<figure id="{{ picture.name }}">
<img src="{{ picture.source }}" alt="{{ picture.title }}">
<figcaption><b>{{ numbered(picture.name, "Figure") }}{{ picture.title }}.</b> {{ picture.caption }}
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
<th>attempts</th></tr></thead>
<tbody>
{% for cell in cells %}
<tr><th><a href="#cell-{{ cell.id }}">{{ cell.name }}</a></th>
{% for key in varying[0] %}<td>{{ cell.settings[key] }}
{{ "(%.3g)"|format(cell.beta) if key == "beta" and cell.settings.beta == "auto" }}</td>{% endfor %}
<td>{{ cell.device }}</td><td>{{ "%.0f"|format(cell.seconds) }}</td>
<td>{{ "{:,.0f}".format(cell.reward_queries) }}</td>
<td>{{ "{:,.0f}".format(cell.unet_passes) }}</td>
<td>{{ "%.2f"|format(cell.peak_memory_gib) if cell.peak_memory_gib else "–" }}</td>
<td>{{ cell.attempts }}</td></tr>
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
<h3>One by one: images, settings, provenance</h3>
{% if shown_prompts %}
<p class="soft">Images are of the first validation prompts, from the same noise everywhere:</p>
<ol class="soft">{% for prompt in shown_prompts %}<li>{{ prompt.text }}</li>{% endfor %}</ol>
{% endif %}
{% for base in bases %}
<div class="cell"><b>{{ base.name|method }}</b>
{% if base.strip %}
<img class="strip" loading="lazy" src="{{ base.strip }}" alt="Images of {{ base.name }}">
{% else %}<p class="missing">no images</p>{% endif %}
</div>
{% endfor %}
{% for cell in cells %}
<details class="cell" id="cell-{{ cell.id }}"><summary><b>{{ cell.name }}</b>
<span class="soft">{{ cell.reward|metric }}, {{ cell.method|method }}</span></summary>
{% if cell.strip %}
<img class="strip" loading="lazy" src="{{ cell.strip }}" alt="Images of {{ cell.name }}">
{% else %}<p class="missing">no images</p>{% endif %}
<dl>
{% for key in varying[0] %}<dt>{{ key }}</dt><dd>{{ cell.settings[key] }}</dd>{% endfor %}
{% if cell.settings.beta == "auto" %}
<dt>β, measured</dt><dd>{{ "%.4g"|format(cell.beta) }}</dd>
{% endif %}
<dt>training</dt><dd>{{ "%.3f"|format(cell.seconds / 3600) }} hours on {{ cell.device }},
{{ cell.attempts }} {{ "attempt" if cell.attempts == 1 else "attempts" }}</dd>
<dt>code</dt><dd><code>{{ cell.code }}</code></dd>
{% set commit = cell.commit or "–" %}
<dt>commit</dt><dd><code>{{ commit|replace("+dirty", "+") }}</code></dd>
{% for name, digest in cell.get("weights", {}).items() %}
<dt>weights</dt><dd>{{ name }} <code>{{ digest }}</code></dd>
{% endfor %}
{% for name, digest in cell.get("outputs", {}).items() if name == "lora.safetensors" %}
<dt>{{ name }}</dt><dd><code>{{ digest }}</code></dd>
{% endfor %}
</dl>
</details>
{% endfor %}
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
