"use strict";
// Sorting of tables and the filter of examples. The page says everything without them.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.cells[column];
      return cell.dataset.sort === undefined ? cell.textContent : Number(cell.dataset.sort);
    };
    const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b
      : typeof a !== typeof b ? (typeof a === "number" ? -1 : 1) : a.localeCompare(b, "en", { numeric: true });
    const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * order(key(a), key(b)));
    table.tBodies[0].append(...rows);
  }));
}
const filters = document.querySelector(".filters");
if (filters) {
  const fields = [...filters.querySelectorAll("[name]")];
  const examples = [...document.querySelectorAll(".example")];
  const shown = document.querySelector("#shown");
  const words = fields.find((field) => field.type === "search");
  const apply = () => {
    let count = 0;
    for (const example of examples) {
      const fits = fields.every((field) => field === words || !field.value || example.dataset[field.name] === field.value)
        && example.textContent.toLowerCase().includes(words.value.toLowerCase());
      example.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${examples.length} examples`;
  };
  for (const field of fields) field.addEventListener("input", apply);
  filters.hidden = false;
  apply();
}
