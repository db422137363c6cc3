// Tables with data-sortable: a click on a heading sorts by its column; above long ones, a field filters rows by words.
(() => {
  const LONG = 6;

  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.sort ?? cell.textContent.trim();
    const number = Number(text);
    return text === "" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
  };

  const compare = (a, b) =>
    typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;

  const sort = (table, heading) => {
    const column = heading.cellIndex;
    const direction = heading.ariaSort === "ascending" ? "descending" : "ascending";
    for (const other of heading.parentElement.cells) other.ariaSort = null;
    heading.ariaSort = direction;
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => [value(row, column), row]);
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };

  const addSorting = (table) => {
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => sort(table, heading));
    }
  };

  const addFilter = (table, name) => {
    const rows = [...table.tBodies[0].rows];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const label = document.createElement("label");
    const field = Object.assign(document.createElement("input"), { type: "search", placeholder: "words, in any order" });
    const count = document.createElement("output");
    field.setAttribute("aria-label", `Filter rows: ${name}`);
    label.append("Filter rows ", field);
    const filter = () => {
      const words = field.value.toLowerCase().split(/\s+/);
      rows.forEach((row, place) => { row.hidden = !words.every((word) => texts[place].includes(word)); });
      const left = rows.filter((row) => !row.hidden).length;
      count.textContent = `${left} of ${rows.length} rows`;
    };
    field.addEventListener("input", filter);
    filter();
    const bar = document.createElement("div");
    bar.className = "filter";
    bar.append(label, count);
    (table.closest(".scroll") ?? table).before(bar);
  };

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    addSorting(table);
    if (table.tBodies[0].rows.length >= LONG) {
      addFilter(table, table.closest("[aria-label]")?.getAttribute("aria-label") ?? "table");
    }
  }
})();
