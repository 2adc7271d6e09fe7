"use strict";
(() => {
  const list = document.getElementById("sentence-list");
  const rows = list ? [...list.children].map(row => ({
    row,
    rank: Number(row.dataset.rank),
    keys: JSON.parse(row.dataset.keys),
    failed: JSON.parse(row.dataset.failed),
  })) : [];
  const buttons = [...document.querySelectorAll("button[data-sort]")];
  const control = id => document.getElementById(id);
  let measure = buttons.length ? buttons[0].dataset.sort : "id", reversed = false;

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
    for (const field of ["speaker", "dialect"]) {
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
    let shown = 0;
    for (const entry of rows) {
      entry.row.hidden = !isShown(entry);
      if (!entry.row.hidden) shown += 1;
      for (const spoken of entry.row.querySelectorAll(".spoken")) {
        spoken.hidden = system() >= 0 && Number(spoken.dataset.system) !== system();
      }
    }
    list.append(...rows.map(entry => entry.row));
    control("shown").textContent = `${shown} of ${rows.length} sentences`;
  }

  if (list) {
    for (const button of buttons) {
      button.addEventListener("click", () => {
        reversed = button.dataset.sort === measure && !reversed;
        measure = button.dataset.sort;
        update();
      });
    }
    for (const field of document.querySelectorAll("#controls select, #controls input")) {
      field.addEventListener("change", update);
    }
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
