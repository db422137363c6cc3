// The explorer: one quantity by epoch, a line per measure, means with 95 % bands, values at an epoch.
// Its data come from explorer.py, which says how they are packed.
(() => {
  const root = document.getElementById("explorer");
  if (!root) return;
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const part = (name) => root.querySelector(`[data-part=${name}]`);
  const [group, setting, quantity, after, epoch] = ["group", "setting", "quantity", "after", "epoch"].map(part);
  const chart = part("chart");
  const hidden = new Set();
  const MARGIN = { left: 58, right: 14, top: 12, bottom: 40 };
  let lines = [];
  let scale = null;

  // ---- data

  const unpacked = new Map();

  const curvesOf = (place) => {
    if (!unpacked.has(place)) unpacked.set(place, decompress(data.groups[place].curves));
    return unpacked.get(place);
  };

  const sums = (steps) => {
    let total = 0;
    return steps.map((step) => (total += step));
  };

  const unpack = ([epochs, means, below, above], step, log) => {
    const convert = (count) => (log ? 10 ** (count * step) : count * step);
    const middle = sums(means);
    const shifted = (widths, sign) => widths?.map((width, place) => convert(middle[place] + sign * data.band * width));
    return { epochs: sums(epochs), mean: middle.map(convert), low: shifted(below, -1), high: shifted(above, 1) };
  };

  // ---- text and numbers

  const text = (value) => String(Number(value.toPrecision(3))).replace("-", "\u2212");
  const label = (item) => (item.unit ? `${item.label} (${item.unit})` : item.label);
  const looks = (line) => data.measures[line.measure];

  const linearTicks = (low, high, count) => {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    const first = Math.ceil(low / step);
    return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, place) => (first + place) * step);
  };

  const logTicks = (low, high) => {
    const decades = Math.log10(high / low);
    const factors = decades > 4 ? [1] : decades > 0.7 ? [1, 2, 5] : [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9];
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      ticks.push(...factors.map((factor) => factor * 10 ** power).filter((tick) => low <= tick && tick <= high));
    }
    return ticks.length > 1 ? ticks : linearTicks(low, high, 4);
  };

  // ---- drawing

  const node = (name, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  const path = (points) => points.map(([x, y], place) => `${place ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

  const marker = (look, x, y, size) => {
    const outline = look.marker.map((polygon) => path(polygon.map(([dx, dy]) => [x + dx * size, y + dy * size])) + "Z");
    return node("path", { class: "marker", d: outline.join("") });
  };

  const stroke = (look) => ({ "stroke-dasharray": look.dash.map((length) => 2 * length).join(" ") });
  const tint = (look) => `color: light-dark(${look.color}, ${look.dark})`;

  const swatch = (look, width = 34) =>
    node("svg", { width, height: 14, "aria-hidden": "true", style: tint(look) },
      node("line", { class: "mean", x1: 0, x2: width, y1: 7, y2: 7, ...stroke(look) }), marker(look, width / 2, 7, 9));

  const makeScale = (shown, item, span, width, height) => {
    const means = shown.flatMap((line) => line.mean.filter((_, place) => line.epochs[place] >= span[0]));
    const [first, last] = [Math.min(...means), Math.max(...means)];
    const margin = item.log ? Math.max(0.06 * Math.log10(last / first), 0.01) : 0.06 * (last - first || 1);
    const bounds = item.log ? [first / 10 ** margin, last * 10 ** margin] : [first - margin, last + margin];
    const across = (value) => MARGIN.left + ((value - span[0]) / (span[1] - span[0] || 1)) * (width - MARGIN.left - MARGIN.right);
    const place = item.log ? Math.log : (value) => value;
    const up = (value) =>
      MARGIN.top + ((place(bounds[1]) - place(value)) / (place(bounds[1]) - place(bounds[0]))) * (height - MARGIN.top - MARGIN.bottom);
    return { x: across, y: up, span, bounds, log: item.log, width, height };
  };

  const axes = (item, cuts) => {
    const { x, y, span, bounds, width, height } = scale;
    const bottom = height - MARGIN.bottom;
    const layer = node("g", { class: "axes" });
    for (const tick of scale.log ? logTicks(...bounds) : linearTicks(...bounds, 5)) {
      layer.append(node("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
        node("text", { x: MARGIN.left - 6, y: y(tick) + 4, "text-anchor": "end" }, text(tick)));
    }
    for (const tick of linearTicks(...span, width < 500 ? 4 : 8).filter(Number.isInteger)) {
      layer.append(node("line", { class: "tick", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 4 }),
        node("text", { x: x(tick), y: bottom + 18, "text-anchor": "middle" }, text(tick)));
    }
    const many = cuts.length > 2;
    if (many) layer.append(node("rect", { class: "cuts", x: x(cuts[0]), width: x(cuts.at(-1)) - x(cuts[0]), y: MARGIN.top, height: bottom - MARGIN.top }));
    for (const cut of many ? [cuts[0], cuts.at(-1)] : cuts) {
      if (cut >= span[0]) layer.append(node("line", { class: "cut", x1: x(cut), x2: x(cut), y1: MARGIN.top, y2: bottom }));
    }
    layer.append(node("line", { class: "tick", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom }),
      node("text", { x: (MARGIN.left + width - MARGIN.right) / 2, y: height - 4, "text-anchor": "middle" }, "epoch"));
    return layer;
  };

  const drawn = (line) => {
    const { x, y, span } = scale;
    const look = looks(line);
    const layer = node("g", { class: "line", style: tint(look), "data-measure": look.name });
    const inside = [...line.epochs.keys()].filter((place) => line.epochs[place] >= span[0]);
    const points = (values) => inside.map((place) => [x(line.epochs[place]), y(values[place])]);
    const sane = (values) => values.map((value) => (scale.log ? Math.max(value, 1e-300) : value));
    if (line.low) {
      layer.append(node("path", { class: "band", d: `${path(points(sane(line.low)))}${path(points(sane(line.high)).reverse()).replace("M", "L")}Z` }));
    }
    layer.append(node("path", { class: "mean", d: path(points(line.mean)), ...stroke(look) }));
    const every = Math.max(1, Math.round(inside.length / 8));
    points(line.mean).forEach(([cx, cy], place) => { if (place % every === 0) layer.append(marker(look, cx, cy, 9)); });
    return layer;
  };

  const draw = () => {
    const item = data.quantities[quantity.value];
    const chosen = data.groups[group.value].settings[setting.value];
    const shown = lines.filter((line) => !hidden.has(line.measure));
    const width = chart.clientWidth;
    if (!width) return; // not laid out; the observer below draws when it is
    const height = Math.round(Math.min(440, Math.max(270, width * 0.55)));
    const ends = lines.flatMap((line) => [line.epochs[0], line.epochs.at(-1)]);
    const span = [after.checked && chosen.cuts.length ? chosen.cuts[0] : Math.min(...ends), Math.max(...ends)];
    part("title").textContent = `${label(item)} by epoch: ${data.groups[group.value].name}, ${chosen.name}`;
    const seen = shown.filter((line) => line.epochs.at(-1) >= span[0]);
    part("empty").hidden = seen.length > 0;
    part("readout").hidden = epoch.disabled = seen.length === 0;
    scale = seen.length ? makeScale(seen, item, span, width, height) : null;
    if (!scale) {
      chart.replaceChildren();
      return;
    }
    const area = { x: MARGIN.left, y: MARGIN.top, width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    const clip = node("clipPath", { id: "plot-area" }, node("rect", area));
    const picture = node("svg", { width, height, role: "img", "aria-label": part("title").textContent },
      clip, axes(item, chosen.cuts), node("g", { "clip-path": "url(#plot-area)" }, ...seen.map(drawn)), node("g", { class: "cursor" }));
    chart.replaceChildren(picture);
    [epoch.min, epoch.max] = span;
    read();
  };

  // ---- values at an epoch

  const read = () => {
    const at = Number(epoch.value);
    part("epoch-text").textContent = at;
    const cursor = chart.querySelector(".cursor");
    cursor.replaceChildren(node("line", { x1: scale.x(at), x2: scale.x(at), y1: MARGIN.top, y2: scale.height - MARGIN.bottom }));
    const rows = lines.filter((line) => !hidden.has(line.measure)).map((line) => {
      const place = line.epochs.indexOf(at);
      const row = document.createElement("tr");
      const cell = (kind, ...content) => {
        const made = document.createElement(kind);
        made.append(...content);
        row.append(made);
        return made;
      };
      const name = document.createElement("span");
      name.append(swatch(looks(line), 16), looks(line).name);
      cell("th", name).scope = "row";
      const band = Object.assign(document.createElement("span"), { className: "nobreak" });
      if (place >= 0 && line.low) band.textContent = `[${text(line.low[place])}, ${text(line.high[place])}]`;
      cell("td", place < 0 ? "\u2013" : text(line.mean[place]), " ", band);
      cell("td", String(line.seeds));
      if (place >= 0 && scale.bounds[0] <= line.mean[place] && line.mean[place] <= scale.bounds[1]) {
        const dot = node("circle", { cx: scale.x(at), cy: scale.y(line.mean[place]), r: 5, style: tint(looks(line)) });
        cursor.append(dot);
      }
      return row;
    });
    part("rows").replaceChildren(...rows);
    part("unit").textContent = data.quantities[quantity.value].unit;
  };

  const point = (event) => {
    if (!scale) return;
    const { span, width } = scale;
    const across = event.clientX - chart.getBoundingClientRect().left;
    const share = (across - MARGIN.left) / (width - MARGIN.left - MARGIN.right);
    const wanted = span[0] + share * (span[1] - span[0]);
    const epochs = lines.filter((line) => !hidden.has(line.measure)).flatMap((line) => line.epochs);
    epoch.value = epochs.reduce((best, one) => (Math.abs(one - wanted) < Math.abs(best - wanted) ? one : best));
    read();
  };

  // ---- the state in the address: #group=...&setting=...&quantity=...&without=a,b&after=1&epoch=5

  let asked = new URLSearchParams(location.hash.slice(1));
  const chosen = (choice) => choice.selectedOptions[0]?.textContent;

  const remember = () => {
    const state = new URLSearchParams({ group: chosen(group), setting: chosen(setting), quantity: chosen(quantity) });
    if (hidden.size) state.set("without", [...hidden].map((place) => data.measures[place].measure).join(","));
    if (after.checked) state.set("after", "1");
    if (epoch.dataset.moved) state.set("epoch", epoch.value);
    history.replaceState(null, "", `#${state}`);
  };

  const restore = async () => {
    asked = new URLSearchParams(location.hash.slice(1));
    if (!asked.has("group")) return;
    hidden.clear();
    const without = (asked.get("without") ?? "").split(",");
    data.measures.forEach(({ measure }, place) => { if (without.includes(measure)) hidden.add(place); });
    after.checked = asked.get("after") === "1";
    options(group, data.groups.map(({ name }, place) => [name, place]), asked.get("group"));
    await update();
    asked = new URLSearchParams();
    root.scrollIntoView();
  };

  const save = () => {
    const shown = lines.filter((line) => !hidden.has(line.measure));
    const rows = shown.flatMap((line) => line.epochs.map((at, place) =>
      [chosen(group), chosen(setting), data.measures[line.measure].measure, at, line.mean[place], line.low?.[place], line.high?.[place], line.seeds]));
    const name = label(data.quantities[quantity.value]);
    saveCsv(`chart ${name}`, [["group", "setting", "measure", "epoch", name, "low", "high", "n"], ...rows]);
  };

  // ---- controls

  const options = (choice, names, wanted) => {
    const before = names.some(([name]) => name === wanted) ? wanted : chosen(choice);
    choice.replaceChildren(...names.map(([name, value]) => new Option(name, value, false, name === before)));
  };

  const offerMeasures = () => {
    const boxes = lines.map((line) => {
      const look = looks(line);
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !hidden.has(line.measure) });
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(line.measure);
        else hidden.add(line.measure);
        draw();
        remember();
      });
      const made = document.createElement("label");
      made.append(box, swatch(look), look.name);
      return made;
    });
    part("measures").replaceChildren(...boxes);
  };

  const update = async () => {
    const place = Number(group.value);
    const here = data.groups[place];
    options(setting, here.settings.map(({ name }, number) => [name, number]), asked.get("setting"));
    const curves = await curvesOf(place);
    if (place !== Number(group.value)) return; // the reader has gone on to another group
    const own = here.settings[setting.value].lines;
    const measured = data.quantities.map((_, number) => own.some(([, line]) => curves[line][number] !== null));
    options(quantity, data.quantities.flatMap((item, number) => (measured[number] ? [[label(item), number]] : [])), asked.get("quantity"));
    const number = Number(quantity.value);
    lines = own
      .filter(([, line]) => curves[line][number] !== null)
      .map(([measure, line, seeds]) => ({
        measure, seeds, ...unpack(curves[line][number], here.steps[number], data.quantities[number].log),
      }));
    const lost = own.filter(([, , , words]) => words).map(([measure, , , words]) => `${data.measures[measure].name} (${words})`);
    part("lost").textContent = lost.join(", ") || "here none did";
    const absent = own.filter(([, line]) => curves[line][number] === null);
    part("absent").hidden = absent.length === 0;
    part("absent").textContent = `Without values: ${absent.map(([measure]) => data.measures[measure].name).join(", ")}`;
    const last = Math.max(0, ...lines.flatMap((line) => line.epochs));
    if (asked.has("epoch")) {
      epoch.max = last;
      epoch.value = asked.get("epoch");
      epoch.dataset.moved = "yes";
    }
    if (!epoch.dataset.moved || Number(epoch.value) > last) {
      epoch.max = last;
      epoch.value = last;
    }
    offerMeasures();
    draw();
    root.dataset.ready = "yes";
  };

  const all = (shown) => {
    hidden.clear();
    if (!shown) for (const line of lines) hidden.add(line.measure);
    offerMeasures();
    draw();
    remember();
  };

  for (const choice of [group, setting, quantity]) choice.addEventListener("change", () => update().then(remember));
  after.addEventListener("change", () => { draw(); remember(); });
  part("csv").addEventListener("click", save);
  addEventListener("hashchange", restore);
  part("all").addEventListener("click", () => all(true));
  part("none").addEventListener("click", () => all(false));
  epoch.addEventListener("input", () => { epoch.dataset.moved = "yes"; read(); });
  epoch.addEventListener("change", remember);
  for (const kind of ["pointermove", "pointerdown"]) chart.addEventListener(kind, point);
  new ResizeObserver(() => { if (lines.length && scale?.width !== chart.clientWidth) draw(); }).observe(chart);
  options(group, data.groups.map(({ name }, place) => [name, place]));
  root.hidden = false;
  if (asked.has("group")) restore();
  else update();
})();
