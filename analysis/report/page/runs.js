// The table of all runs, made when it is opened; a run's cuts in a dialog, which has an address: #run=ID.
(() => {
  const area = document.getElementById("runs");
  const dialog = document.getElementById("run");
  const content = decompress(JSON.parse(document.getElementById("runs-data").textContent));
  const text = (value) => (value === null ? "\u2013" : String(value).replace(/^-/, "\u2212"));

  const made = (tag, properties, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };

  const cell = (value) => {
    const node = made("td", { className: typeof value === "number" ? "number" : "" }, text(value));
    node.dataset.sort = value ?? "";
    return node;
  };

  // A table in a box of its own; `first` makes the first cell of a row.
  const tableOf = (name, columns, rows, first) => {
    const headings = columns.map((label) => made("th", { scope: "col" }, label));
    const lines = rows.map(([key, ...others]) => made("tr", {}, made("th", { scope: "row" }, first(key)), ...others.map(cell)));
    const table = made("table", {}, made("thead", {}, made("tr", {}, ...headings)), made("tbody", {}, ...lines));
    table.dataset.name = name;
    return [made("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: name }, table), table];
  };

  const open = async (id) => {
    const { columns, rows, cut_columns: headings, cuts } = await content;
    const row = rows.find(([name]) => name === id);
    if (!row || dialog.open) return;
    document.getElementById("run-title").textContent = `Run ${id}`;
    const facts = columns.slice(1).map((label, place) => `${label}: ${text(row[place + 1])}`);
    const place = dialog.querySelector("[data-part=cuts]");
    place.replaceChildren(made("p", {}, facts.join("; ")));
    if (cuts[id]) {
      const [box, table] = tableOf(`Cuts of ${id}`, headings, cuts[id], text);
      place.append(box);
      enhance(table);
    } else {
      place.append(made("p", {}, "No cut is recorded."));
    }
    dialog.showModal();
    history.replaceState(null, "", `#run=${id}`);
  };

  const button = (id) => {
    const node = made("button", { type: "button", className: "link", title: "Its cuts" }, id);
    node.addEventListener("click", () => open(id));
    return node;
  };

  area.addEventListener("toggle", async () => {
    if (area.querySelector("table")) return;
    const { columns, rows } = await content;
    const [box, table] = tableOf("Runs", columns, rows, button);
    area.append(box);
    enhance(table);
  });

  const follow = () => {
    const id = new URLSearchParams(location.hash.slice(1)).get("run");
    if (id) open(id);
  };
  addEventListener("hashchange", follow);
  follow();
})();
