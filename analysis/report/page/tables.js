// Tables with data-sortable: a click on a heading sorts by its column; a button saves the rows that are shown
// as CSV; above long tables, a field filters rows by words.

// Save rows of texts and numbers as a CSV file.
const saveCsv = (name, rows) => {
  const field = (value) => {
    const text = String(value ?? "");
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = rows.map((row) => row.map(field).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n"), "\n"], { type: "text/csv" }));
  link.download = `${name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href));
};

// JSON from base64 of its gzip.
const decompress = async (text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
};

// Make a table sort, filter and save.
const enhance = (() => {
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

  const filterOf = (table, name) => {
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
    return [label, count];
  };

  const saverOf = (table, name) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "CSV" });
    button.setAttribute("aria-label", `Save as CSV: ${name}`);
    const words = (cell) => cell.textContent.trim().replace(/\s+/g, " ");
    button.addEventListener("click", () => {
      const rows = [table.tHead.rows[0], ...[...table.tBodies[0].rows].filter((row) => !row.hidden)];
      saveCsv(table.dataset.name, rows.map((row) => [...row.cells].map(words)));
    });
    return button;
  };

  return (table) => {
    const name = table.closest("[aria-label]")?.getAttribute("aria-label") ?? "table";
    addSorting(table);
    const bar = document.createElement("div");
    bar.className = "filter";
    if (table.tBodies[0].rows.length >= LONG) bar.append(...filterOf(table, name));
    bar.append(saverOf(table, name));
    (table.closest(".scroll") ?? table).before(bar);
  };
})();

for (const table of document.querySelectorAll("table[data-sortable]")) enhance(table);
