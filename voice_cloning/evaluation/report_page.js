"use strict";
(() => {
  const list = document.getElementById("sentence-list");
  const more = document.getElementById("more");
  const atOnce = list ? Number(list.dataset.atOnce) : 0;
  // Sentences beyond the first ones lie in a template: thousands of players at once make the page slow.
  const kept = document.getElementById("further-sentences");
  const rows = list ? [...list.children, ...(kept ? kept.content.children : [])].map(row => ({
    row,
    isNew: row.parentNode !== list,
    rank: Number(row.dataset.rank),
    keys: JSON.parse(row.dataset.keys),
    failed: JSON.parse(row.dataset.failed),
  })) : [];
  const buttons = [...document.querySelectorAll("button[data-sort]")];
  const control = id => document.getElementById(id);
  let measure = buttons.length ? buttons[0].dataset.sort : "id", reversed = false, limit = atOnce;

  const system = () => Number(control("filter-system").value);
  const keyOf = entry => measure === "id" ? entry.rank : entry.keys[measure][system() + 1];

  function compare(one, other) {
    const a = keyOf(one), b = keyOf(other);
    if ((a === null) !== (b === null)) return a === null ? 1 : -1;  // what was not measured comes last, both ways
    if (a === b) return one.rank - other.rank;
    const button = buttons.find(found => found.dataset.sort === measure);
    return (button.dataset.worst === "largest") !== reversed ? b - a : a - b;
  }

  function isShown(entry) {
    for (const field of ["speaker", "dialect", "kind"]) {
      const select = control("filter-" + field);
      if (select && select.value !== "" && entry.row.dataset[field] !== select.value) return false;
    }
    return !control("only-failures").checked || entry.failed[system() + 1];
  }

  function update() {
    for (const button of buttons) {
      const chosen = button.dataset.sort === measure;
      button.setAttribute("aria-pressed", String(chosen));
      button.querySelector("span").textContent = !chosen ? "" : button.dataset.sort === "id"
        ? (reversed ? ", last first" : ", first first") : (reversed ? ", best first" : ", worst first");
    }
    rows.sort(compare);
    const found = rows.filter(isShown), shown = found.slice(0, limit);
    for (const entry of shown) {
      for (const spoken of entry.row.querySelectorAll(".spoken")) {
        spoken.hidden = system() >= 0 && Number(spoken.dataset.system) !== system();
      }
    }
    list.replaceChildren(...shown.map(entry => entry.row));
    for (const entry of shown.filter(entry => entry.isNew)) {
      entry.isNew = false;  // its players found no source where they were: nothing plays in a template
      for (const player of entry.row.querySelectorAll("audio")) player.load();
    }
    control("shown").textContent = `${found.length} of ${rows.length} sentences`;
    more.hidden = shown.length === found.length;
    more.textContent = `Show more: ${found.length - shown.length} are left`;
  }

  if (list) {
    for (const button of buttons) {
      button.addEventListener("click", () => {
        reversed = button.dataset.sort === measure && !reversed;
        measure = button.dataset.sort;
        limit = atOnce;
        update();
      });
    }
    for (const field of document.querySelectorAll("#controls select, #controls input")) {
      field.addEventListener("change", () => { limit = atOnce; update(); });
    }
    more.addEventListener("click", () => { limit += atOnce; update(); });
    control("controls").hidden = false;
    update();
  }

  for (const choice of document.querySelectorAll(".figure-choice")) {
    const tables = [...choice.closest("details").querySelectorAll("table")];
    const show = () => tables.forEach(table => { table.hidden = table.dataset.figure !== choice.value; });
    choice.parentElement.hidden = tables.length < 2;
    choice.addEventListener("change", show);
    show();
  }

  document.addEventListener("play", event => {
    for (const player of document.querySelectorAll("audio")) if (player !== event.target) player.pause();
  }, true);
})();
