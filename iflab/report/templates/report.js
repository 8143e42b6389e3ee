"use strict";
// The links of the topology at a moment of the run.
const when = document.getElementById("when");
if (when) {
  const text = document.getElementById("when-text");
  const links = [...document.querySelectorAll(".link")].map((link) => [link, JSON.parse(link.dataset.states)]);
  const names = ["up", "down", "cut", "unplugged", "before"];
  const show = () => {
    const now = Number(when.value);
    text.textContent = now >= Number(when.max) ? "the end" : `${now.toFixed(3)} s`;
    for (const [link, states] of links) {
      let state = states.length ? "before" : "up";
      for (const [time, name] of states) if (time <= now) state = name;
      for (const name of names) link.classList.toggle(name, name === state);
    }
  };
  when.addEventListener("input", show);
  // Arrow keys go a hundredth of the run; Page keys go from change to change.
  const moments = [...new Set(links.flatMap(([, states]) => states.map(([time]) => time)))].sort((a, b) => a - b);
  when.addEventListener("keydown", (event) => {
    const now = Number(when.value);
    const part = (Number(when.max) - Number(when.min)) / 100;
    let next;
    if (event.key === "PageUp") next = moments.find((time) => time > now + 1e-4) ?? Number(when.max);
    else if (event.key === "PageDown") next = moments.findLast((time) => time < now - 1e-4) ?? Number(when.min);
    else if (event.key === "ArrowRight" || event.key === "ArrowUp") next = now + part;
    else if (event.key === "ArrowLeft" || event.key === "ArrowDown") next = now - part;
    if (next === undefined) return;
    event.preventDefault();
    when.value = next;
    show();
  });
}
// Which lines of the ladder are shown.
const rows = [...document.querySelectorAll(".ladder > ol > li")];
const host = document.getElementById("of-host");
const words = document.getElementById("of-text");
const marked = document.getElementById("of-marked");
const shown = document.getElementById("shown");
const filter = () => {
  const columns = host && host.value ? host.value.split(" ") : [];
  const wanted = words.value.toLowerCase();
  let count = 0;
  for (const row of rows) {
    const theirs = row.dataset.of ? row.dataset.of.split(" ") : [];
    const fits =
      (!columns.length || columns.some((column) => theirs.includes(column))) &&
      (!wanted || row.textContent.toLowerCase().includes(wanted)) &&
      (!marked.checked || row.matches(".event, .has-lost, .has-again, .has-altered, .pause"));
    row.hidden = !fits;
    count += fits;
  }
  shown.textContent = count === rows.length ? "" : `${count} of ${rows.length} lines`;
};
for (const control of [host, words, marked]) if (control) control.addEventListener("input", filter);
const unfold = document.getElementById("unfold");
unfold.addEventListener("click", () => {
  const open = unfold.getAttribute("aria-pressed") !== "true";
  unfold.setAttribute("aria-pressed", String(open));
  unfold.textContent = open ? "Fold all" : "Unfold all";
  for (const fold of document.querySelectorAll(".ladder details")) fold.open = open;
});
