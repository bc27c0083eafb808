"use strict";

// Prompts are strangers' text: they enter the page as textContent only.

const QUESTIONS = {
  appeal: "Which image looks better, whatever the prompt says?",
  alignment: "Which image shows better what the prompt says?",
  preference: "Which image do you prefer overall?",
};
const CHOICES = { left: "A", tie: "No difference", right: "B" };
const KEYS = { a: "left", ArrowLeft: "left", s: "tie", ArrowDown: "tie", b: "right", ArrowRight: "right" };
if (!MATERIAL.ties) delete CHOICES.tie;

const $ = (id) => document.getElementById(id);
const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const rater = new URLSearchParams(location.search).get("rater");
const prompts = new Map(MATERIAL.pairs.map(({ id, prompt }) => [id, prompt]));
let waiting = []; // the pairs still to answer, as [id, left, right]
let answered = []; // questions of the pair on show, in the order of their answers
let ready = false; // both images are on show

function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text;
}

// A server that is away, or has no room on its disk, is asked again for as long as it takes.
async function ask(path, options = {}) {
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    let reason = "No connection to the server.";
    try {
      const response = await fetch(path, { ...options, cache: "no-store", signal: AbortSignal.timeout(10000) });
      const answer = await response.json();
      if (response.status < 500) {
        notice("");
        return { status: response.status, answer };
      }
      reason = answer.error;
    } catch {
      // no answer, or half of one
    }
    notice(`${reason} Your answers are kept on this device, and sent again until they are stored.`);
    await sleep(wait);
  }
}

// The answer under way survives a closed tab, even if the server is away then.
const unsent = {
  name: `study ${MATERIAL.study} ${rater}`,
  set(body) { try { localStorage.setItem(this.name, body); } catch { /* private mode */ } },
  get() { try { return localStorage.getItem(this.name); } catch { return null; } },
  clear() { try { localStorage.removeItem(this.name); } catch { /* private mode */ } },
};

async function send(body) {
  if (!rater) return true;
  unsent.set(body);
  const headers = { "Content-Type": "application/json" };
  const { status, answer } = await ask("votes", { method: "POST", headers, body });
  unsent.clear();
  if (status === 200 || status === 409) return true; // 409: answered in another tab
  notice(answer.error);
  return false;
}

async function start() {
  $("count").textContent = prompts.size;
  document.querySelector(".tie").hidden = !MATERIAL.ties;
  $("preview").hidden = Boolean(rater);
  if (rater) {
    const kept = unsent.get();
    if (kept) await send(kept);
    const { status, answer } = await ask(`session?${new URLSearchParams({ rater, study: MATERIAL.study })}`);
    if (status !== 200) return notice(answer.error);
    const done = new Set(answer.answered);
    waiting = answer.order.filter(([id]) => !done.has(id));
    if (done.size) $("begin").textContent = `I am willing to see this: go on after ${done.size} pairs`;
  } else {
    waiting = MATERIAL.pairs.map(({ id, sides }) => [id, ...sides]);
  }
  $("begin").disabled = false;
}

function makeQuestions() {
  for (const [question, text] of Object.entries(QUESTIONS)) {
    const options = document.createElement("div");
    options.className = "options";
    for (const [choice, label] of Object.entries(CHOICES)) {
      const input = Object.assign(document.createElement("input"), { type: "radio", name: question, value: choice });
      input.addEventListener("change", () => note(question));
      const span = Object.assign(document.createElement("span"), { textContent: label });
      const item = document.createElement("label");
      item.append(input, span);
      options.append(item);
    }
    const legend = Object.assign(document.createElement("legend"), { textContent: text });
    const fieldset = Object.assign(document.createElement("fieldset"), { id: question });
    fieldset.append(legend, options);
    $("questions").append(fieldset);
  }
}

function note(question) {
  answered = [...answered.filter((other) => other !== question), question];
  mark();
}

const current = () => Object.keys(QUESTIONS).find((question) => !answered.includes(question));

function mark() {
  for (const question of Object.keys(QUESTIONS)) {
    $(question).disabled = !ready;
    $(question).classList.toggle("current", ready && question === current());
  }
  $("next").disabled = !ready || Boolean(current());
}

async function load(image, name) {
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    try {
      image.src = `images/${name}.png`;
      await image.decode();
      image.classList.toggle("small", image.naturalWidth < 128);
      return;
    } catch {
      notice("No connection: waiting for the images.");
      await sleep(wait);
    }
  }
}

async function show() {
  const done = prompts.size - waiting.length;
  Object.assign($("bar"), { max: prompts.size, value: done });
  $("progress").textContent = `${done} of ${prompts.size}`;
  $("voting").hidden = !waiting.length;
  $("thanks").hidden = Boolean(waiting.length);
  if (!waiting.length) {
    $("end").textContent = rater
      ? `All ${prompts.size} pairs are answered and stored. You can close this page.`
      : "This was the last pair of the preview.";
    return $("thanks").querySelector("h1").focus();
  }
  const [[id, left, right], following] = waiting;
  ready = false;
  answered = [];
  $("form").reset();
  mark();
  for (const side of ["left", "right"]) $(side).classList.add("waiting");
  $("prompt").textContent = prompts.get(id);
  $("prompt").focus();
  await Promise.all([load($("left"), left), load($("right"), right)]);
  notice("");
  for (const side of ["left", "right"]) $(side).classList.remove("waiting");
  ready = true;
  mark();
  if (following) for (const name of following.slice(1)) new Image().src = `images/${name}.png`;
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if ($("next").disabled) return; // an answer is under way: a double click counts once
  const [pair, left, right] = waiting[0];
  const meaning = { left, right, tie: "tie" };
  const form = new FormData($("form"));
  const answers = {};
  for (const question of Object.keys(QUESTIONS)) answers[question] = meaning[form.get(question)];
  ready = false;
  mark();
  if (!(await send(JSON.stringify({ study: MATERIAL.study, rater, pair, answers })))) return;
  waiting.shift();
  await show();
});

document.addEventListener("keydown", (event) => {
  if ($("voting").hidden || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const onRadio = event.target.type === "radio"; // arrows there do what arrows do
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const choice = onRadio && key.startsWith("Arrow") ? undefined : KEYS[key];
  if (key === "Enter" && [document.body, $("prompt")].includes(event.target)) {
    $("form").requestSubmit();
  } else if (key === "Backspace" && answered.length && ready) {
    const radios = $("form").elements[answered.pop()];
    for (const radio of radios) radio.checked = false;
    mark();
  } else if (choice && CHOICES[choice] && ready && current()) {
    const question = current();
    $("form").querySelector(`[name=${question}][value=${choice}]`).checked = true;
    note(question);
  } else {
    return;
  }
  event.preventDefault();
});

$("begin").addEventListener("click", () => {
  $("welcome").hidden = true;
  show();
});

makeQuestions();
start();
