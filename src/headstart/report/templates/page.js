"use strict";
// Sorts the table of classes, and filters that table and the gallery; without it the page shows everything.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const key = (row, column) => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
  };
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => {
      const header = button.closest("th");
      const down = header.getAttribute("aria-sort") === "ascending";
      for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const order = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));
      const rows = [...body.rows].sort((a, b) => order(key(a, header.cellIndex), key(b, header.cellIndex)));
      body.append(...(down ? rows.reverse() : rows));
    });
  }
}

const search = document.getElementById("find-class");
search?.addEventListener("input", () => {
  const wanted = search.value.trim().toLowerCase();
  for (const row of document.querySelectorAll("#classes tbody tr")) {
    row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
  }
});

const chosen = document.getElementById("filter-class");
const doubted = document.getElementById("filter-doubted");
const more = document.getElementById("more-mistakes");
let most = 30; // errors at first, so that what stands below them is not far
function filter() {
  let fitting = 0;
  for (const card of document.querySelectorAll("#mistakes .mistake")) {
    const fits =
      (!chosen.value || card.dataset.classes.split(" ").includes(chosen.value)) &&
      (!doubted.value || (doubted.value === "doubted") === "doubted" in card.dataset);
    fitting += fits ? 1 : 0;
    card.hidden = !fits || fitting > most;
  }
  document.getElementById("shown").textContent = fitting > most ? `${most} of ${fitting} shown` : `${fitting} shown`;
  more.hidden = fitting <= most;
  more.textContent = `Show all ${fitting}`;
}
if (more) {
  chosen.addEventListener("change", filter);
  doubted.addEventListener("change", filter);
  more.addEventListener("click", () => {
    const first = most;
    most = Infinity;
    filter();
    document.querySelectorAll("#mistakes .mistake:not([hidden]) > summary")[first]?.focus();
  });
  filter();
}

addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const open = document.querySelector("details.mistake[open]");
  open?.removeAttribute("open");
  open?.querySelector("summary").focus();
});
