// What the page can do beside being read: enlarge figures, sort tables, compare images.
"use strict";

// Figures: a click or Enter on one shows it as large as the window; Escape closes it.
const dialog = document.createElement("dialog");
dialog.innerHTML = '<form method="dialog"><button>Close</button></form><div><img alt=""></div>';
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
document.body.append(dialog);
for (const link of document.querySelectorAll("a.enlarge")) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const small = link.querySelector("img");
    const large = dialog.querySelector("img");
    [large.src, large.alt] = [small.src, small.alt];
    dialog.setAttribute("aria-label", small.alt);
    dialog.showModal();
  });
}

// Tables: a press on a column's heading sorts the rows of each block by it, a second one reverses.
// "−0.12 ± 0.03", "1,280" and "▲ +0.4" are numbers; what is none goes last.
const NUMBER = /[+−-]?\d[\d,]*(?:\.\d+)?(?:e[+−-]?\d+)?/i;
const valueOf = (cell) => {
  const number = NUMBER.exec(cell.textContent)?.[0].replace(/,/g, "").replace(/−/g, "-");
  return number === undefined ? NaN : Number(number);
};
const compare = (first, second) => {
  const [a, b] = [valueOf(first), valueOf(second)];
  if (isNaN(a) && isNaN(b)) return first.textContent.localeCompare(second.textContent);
  return isNaN(a) ? Infinity : isNaN(b) ? -Infinity : a - b;
};
function sort(table, column, descending) {
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("block"));
    const order = rows.sort((one, other) => {
      const by = column === 0
        ? one.cells[0].textContent.localeCompare(other.cells[0].textContent, "en", { numeric: true })
        : compare(one.cells[column], other.cells[column]);
      return Number.isFinite(by) && descending ? -by : by;
    });
    body.append(...order);
  }
}
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    // A button cannot hold links: its terms are explained while it has the focus.
    const terms = [...button.querySelectorAll(".term")];
    terms.forEach((term) => term.removeAttribute("href"));
    const described = terms.map((term) => term.getAttribute("aria-describedby"));
    if (terms.length) button.setAttribute("aria-describedby", described.join(" "));
    button.addEventListener("click", () => {
      // Numbers are most often read from the largest down, names from A to Z.
      const now = head.getAttribute("aria-sort");
      const isNumber = (row) => column > 0 && row.cells[column] && !isNaN(valueOf(row.cells[column]));
      const descending = now ? now === "ascending" : [...table.rows].slice(1).some(isNumber);
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(table, column, descending);
    });
  });
}

// A box that is wider than the window says so, and can be reached by keyboard.
const hints = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const hidden = target.scrollWidth > target.clientWidth + 1;
    target.toggleAttribute("data-wider", hidden);
    hidden ? target.setAttribute("tabindex", "0") : target.removeAttribute("tabindex");
  }
});
document.querySelectorAll(".scroll").forEach((box) => hints.observe(box));

// Images: the base's lie over those of a trained model, up to where the slider stands.
for (const pair of document.querySelectorAll(".pair")) {
  const trained = pair.querySelector("img");
  const base = document.getElementById(pair.dataset.base);
  if (!trained || !base) continue;
  const over = new Image();
  over.src = base.src;
  over.alt = "";
  over.className = "strip over";
  trained.after(over);
  const label = document.createElement("label");
  label.className = "slider";
  label.innerHTML = '<span>base</span><input type="range" max="100" value="50"><span>trained</span>';
  const range = label.querySelector("input");
  range.setAttribute("aria-label", `${trained.alt}: how much of each the base covers from the left`);
  const cut = () => {
    pair.style.setProperty("--cut", `${range.value}%`);
    range.setAttribute("aria-valuetext", `${range.value} % base`);
  };
  range.addEventListener("input", cut);
  cut();
  pair.append(label);
}

// Terms: Escape takes an explanation away.
document.addEventListener("keydown", (event) => {
  const at = document.activeElement;
  if (event.key === "Escape" && at.matches(".term, thead button")) at.blur();
});

// A link into something that is folded opens it.
const open = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  if (target) target.scrollIntoView();
};
addEventListener("hashchange", open);
open();
