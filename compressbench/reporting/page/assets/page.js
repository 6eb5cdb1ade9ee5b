// One state: the filters and the axes. Table, figure and counts are drawn from the rows that the filters leave.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const importText = async (text) => {
  const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  try { return await import(url); } finally { URL.revokeObjectURL(url); }
};
const libraries = read("libraries");
const DataTable = (await importText(libraries.datatables)).default;
await importText(libraries.vega);

const { fields, values, columns, texts, axes } = read("data");
const ROWS = values.map((row, i) => {
  const one = Object.fromEntries(fields.map((name, j) => [name, row[j]]));
  one.words = Object.fromEntries(columns.map((name, j) => [name, texts[i][j]]));
  one.pair = `${one.dataset}/${one.model}`;
  one.role = one.baseline ? "baseline" : "method";
  one.name = `${one.title}, ${one.label}`;
  one.searched = [...texts[i], one.setting, one.level_words, one.method].join(" ").toLowerCase();
  return one;
});
const FILTERS = ["pair", "task", "kind", "title", "level_words", "role"];
const filters = document.getElementById("filters");
const chosen = document.getElementById("axes");

// ---- Theme: that of the system until the button says otherwise
const system = matchMedia("(prefers-color-scheme: dark)");
const stored = { get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
                 set: (value) => { try { localStorage.setItem("theme", value); } catch { /* not for files everywhere */ } } };
const isDark = () => document.documentElement.classList.contains("dark");
function setTheme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  document.getElementById("theme").textContent = dark ? "Light mode" : "Dark mode";
}
setTheme(stored.get() ? stored.get() === "dark" : system.matches);
document.getElementById("theme").addEventListener("click", () => {
  setTheme(!isDark());
  stored.set(isDark() ? "dark" : "light");
  drawAll();
});
system.addEventListener("change", () => { if (!stored.get()) { setTheme(system.matches); drawAll(); } });

// ---- Filters
const text = (value) => document.createTextNode(value);
function option(value, words) {
  const element = document.createElement("option");
  element.value = value;
  element.append(text(words));
  return element;
}
const countBy = (rows, key) => rows.reduce((found, row) => found.set(row[key], (found.get(row[key]) ?? 0) + 1), new Map());
for (const name of FILTERS.slice(0, -1)) {
  const found = [...countBy(ROWS, name)].filter(([value]) => value !== "" && value !== null);
  found.sort((a, b) => String(a[0]).localeCompare(String(b[0]), "en", { numeric: true }));
  filters[name].append(option("", "all"), ...found.map(([value, n]) => option(value, `${value} (${n})`)));
}
const mostMethods = () => {
  const methods = new Map();
  for (const row of ROWS) methods.set(row.pair, (methods.get(row.pair) ?? new Set()).add(row.method));
  return [...methods].sort((a, b) => b[1].size - a[1].size)[0]?.[0] ?? "";
};
filters.pair.value = mostMethods();

function filtered() {
  const words = filters.words.value.toLowerCase().trim().split(/\s+/).filter(Boolean);
  return ROWS.filter((row) => FILTERS.every((name) => !filters[name].value || String(row[name]) === filters[name].value)
    && words.every((word) => row.searched.includes(word)));
}

// ---- Figure
const LIGHT = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
const DARK = ["#56B4E9", "#FF8A3D", "#2CC79A", "#E9A0CB", "#F5C04A", "#8FA7FF"];
const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"];
const better = (a, b, axis) => (axes[axis].better === "low" ? a[axis] - b[axis] : b[axis] - a[axis]);

function paretoFront(rows, x, y) {
  const front = [];
  for (const row of [...rows].sort((a, b) => better(a, b, x) || better(a, b, y))) {
    if (!front.length || better(row, front.at(-1), y) < 0) front.push(row);
  }
  return front;
}

function drawable(rows, x, y) {
  const shown = (row, axis) => row[axis] !== null && Number.isFinite(row[axis]) && (!axes[axis].logarithmic || row[axis] > 0);
  return rows.filter((row) => shown(row, x) && shown(row, y));
}

// A few networks far below all others would leave no room for the rest: they are drawn at the lower edge.
function core(rows, axis) {
  const sorted = rows.map((row) => row[axis]).sort((a, b) => a - b);
  const low = sorted[Math.floor(sorted.length / 10)];
  const high = sorted.at(-1);
  const edge = low - (high - low) * 0.6;
  return [Math.max(sorted[0], edge), high].map((end, i) => end + (i ? 1 : -1) * ((high - low) || 1) * 0.04);
}

function specification(rows, { x, y, color, front, spread, title, height, own }) {
  const points = drawable(rows, x, y);
  const palette = isDark() ? DARK : LIGHT;
  const styles = getComputedStyle(document.documentElement);
  const [ink, soft, line] = ["--ink", "--soft", "--line"].map((name) => styles.getPropertyValue(name).trim());
  const domain = [...new Set(points.map((row) => row[color]))];
  const position = (axis) => {
    const { title, logarithmic } = axes[axis];
    const scale = logarithmic ? { type: "log", nice: false, padding: 12 }
      : { type: "linear", zero: false, nice: false, padding: 12, clamp: true, domain: core(points, axis) };
    const said = axis === "quality" ? [...new Set(points.map((row) => row.header))].join(" or ") : title;
    return { field: axis, type: "quantitative", title: said, scale, axis: { tickCount: 6, ...(logarithmic ? { format: "~s" } : {}) } };
  };
  const many = color === "title" && domain.length > palette.length;
  const ofColor = { field: color, type: "nominal", title: null, scale: { domain, range: domain.map((_, i) => palette[i % palette.length]) } };
  const ofShape = { field: color, type: "nominal", title: null, scale: { domain, range: domain.map((_, i) => SHAPES[(many ? Math.floor(i / palette.length) + (i % palette.length) : 0) % SHAPES.length]) } };
  const marks = own
    ? { color: { condition: { test: `datum.method === '${own}'`, value: palette[0] }, value: soft } }
    : { color: ofColor, shape: ofShape };
  const tooltip = [["name", "what"], ["pair", "network"], ["words.quality", "quality"], ["words.change", "against dense"], ["words.stored_bytes", "stored"],
    ["words.macs", "MACs"], ["words.bit_operations", "bit-operations"], ["words.fastest_ms", "latency, ms"], ["fastest_runtime", "fastest on"], ["words.best_speedup", "speed-up"],
    ["words.paper_ms", "ms, paper's size"], ["words.seconds", "seconds"], ["words.published", "published"]].map(([field, heading]) => ({ field, title: heading }));
  const layers = [];
  if (front) layers.push({ data: { values: paretoFront(points, x, y) }, mark: { type: "line", strokeDash: [5, 4], color: soft, interpolate: "linear", strokeWidth: 1.3 },
    encoding: { x: position(x), y: position(y), order: { field: x, type: "quantitative" } } });
  for (const [axis, channel] of spread ? [[y, "y"], [x, "x"]] : []) {
    const { low, high, logarithmic } = axes[axis];
    const spans = points.filter((row) => low && row[low] !== null && row[high] !== null && (!logarithmic || row[low] > 0));
    if (spans.length) layers.push({ data: { values: spans }, mark: { type: "rule", opacity: 0.45 },
      encoding: { x: position(x), y: position(y), [channel]: { ...position(axis), field: low }, [`${channel}2`]: { field: high }, color: marks.color } });
  }
  if (own) layers.push({ transform: [{ filter: `datum.method === '${own}'` }], mark: { type: "line", strokeWidth: 1.6, opacity: 0.7, color: palette[0] },
    encoding: { x: position(x), y: position(y), detail: { field: "series", type: "nominal" }, order: { field: x, type: "quantitative" } } });
  layers.push({ mark: { type: "point", size: own ? 55 : 75, strokeWidth: 1.7 }, encoding: { x: position(x), y: position(y), ...marks, tooltip,
    fill: own ? { condition: { test: `datum.method === '${own}'`, value: palette[0] }, value: "transparent" } : ofColor,
    fillOpacity: { condition: { test: "datum.baseline", value: 0 }, value: 0.85 } } });
  const text = { labelColor: soft, titleColor: ink, domainColor: line, tickColor: line, gridColor: line, gridOpacity: 0.6, labelFontSize: 11, titleFontSize: 12, titleFontWeight: 500 };
  return { $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", height, background: null, autosize: { type: "fit-x", contains: "padding" },
    title: title ? { text: title, anchor: "start", color: ink, fontSize: 12 } : undefined,
    data: { values: points }, layer: layers, config: { axis: text, view: { stroke: line }, legend: { labelColor: ink, orient: "bottom", columns: Math.max(1, Math.floor(innerWidth / 210)), symbolType: "circle", labelLimit: 230, symbolFillColor: "transparent" },
      font: "system-ui, sans-serif" } };
}

async function draw(element, rows, options) {
  if (!drawable(rows, options.x, options.y).length) {
    element.replaceChildren(text("No result has both numbers."));
    return;
  }
  const view = await vegaEmbed(element, specification(rows, options), { actions: false, renderer: "svg", tooltip: { theme: "custom" } });
  element.querySelector("svg")?.setAttribute("aria-label", options.words);
  return view;
}

// ---- Table
const table = new DataTable("#table", {
  data: [],
  columns: columns.map((name, i) => ({
    data: (row, kind) => (kind === "sort" || kind === "type" ? row[name] ?? (kind === "sort" ? Number.NEGATIVE_INFINITY : 0) : row.words[name]),
    className: document.querySelectorAll("#table thead th")[i].className,
    render: name === "title" ? methodCell : DataTable.render.text(),
  })),
  order: [[columns.indexOf("quality"), "desc"]],
  pageLength: 25,
  lengthMenu: [10, 25, 50, 100, { label: "all", value: -1 }],
  searching: false,
  autoWidth: false,
  layout: { topStart: "info", topEnd: "pageLength", bottomStart: null, bottomEnd: "paging" },
  language: { info: "_START_ to _END_ of _TOTAL_ results", lengthMenu: "_MENU_ a page", emptyTable: "No result passes the filters." },
});
function methodCell(value, kind, row) {
  if (kind !== "display") return value;
  const link = document.createElement("a");
  link.href = `#method-${row.method}`;
  link.className = row.baseline ? "" : "own-method";
  link.append(text(value));
  return link;
}

// ---- Everything that depends on the state
let changes = 0;
let drawing = Promise.resolve(); // one drawing at a time: the last one stays
function update() {
  const rows = filtered();
  table.clear().rows.add(rows).draw();
  const { x, y } = chosen;
  const measures = new Set(rows.map((row) => row.measure));
  const points = drawable(rows, x.value, y.value);
  const drawn = points.length;
  const edge = points.filter((row) => [x.value, y.value].some((axis) => !axes[axis].logarithmic && row[axis] < core(points, axis)[0])).length;
  const mixed = (x.value === "quality" || y.value === "quality") && measures.size > 1;
  document.getElementById("said").textContent = `${rows.length} of ${ROWS.length} results; ${drawn} of them in the figure.`
    + (edge ? ` ${edge} of them ${edge > 1 ? "lie" : "lies"} below what the axis shows, and ${edge > 1 ? "are" : "is"} drawn at its edge.` : "")
    + (mixed ? " Qualities of different tasks are drawn on one axis: choose a task." : "");
  const options = { x: x.value, y: y.value, color: chosen.color.value, front: chosen.front.checked,
    spread: chosen.spread.checked, height: Math.min(460, Math.max(300, innerHeight * 0.55)),
    words: `Scatter plot: ${axes[y.value].title} against ${axes[x.value].title}, ${drawn} results; the table below has the same numbers.` };
  const change = ++changes;
  document.body.dataset.drawing = "yes";
  drawing = drawing.then(() => change === changes && draw(document.getElementById("figure"), rows, options))
    .then(() => { if (change === changes) delete document.body.dataset.drawing; });
  return drawing;
}

async function drawMethod(page) {
  const name = page.dataset.method;
  const own = ROWS.filter((row) => row.method === name);
  const curves = page.querySelector(".curves");
  if (!curves || !own.length) return;
  const cost = own.some((row) => row.bit_operations !== null && /uanti|inary|uper-res/.test(row.kind)) ? "bit_operations" : "macs";
  const wanted = [...new Set(own.map((row) => row.pair))].flatMap((pair) => ["stored_bytes", cost].map((x) => ({ pair, x })));
  const plots = wanted.map(() => Object.assign(document.createElement("div"), { className: "plot" }));
  curves.replaceChildren(...plots.map((plot) => {
    const figure = document.createElement("figure");
    figure.append(plot);
    return figure;
  }));
  await Promise.all(wanted.map(({ pair, x }, i) => draw(plots[i], ROWS.filter((row) => row.pair === pair), {
    x, y: "quality", color: "title", front: true, spread: true, title: pair, height: 260, own: name,
    words: `${pair}: quality against ${axes[x].title}; this method in colour, the others in grey`,
  })));
  const list = document.createElement("table");
  list.className = "plain";
  const head = list.createTHead().insertRow();
  document.querySelectorAll("#table thead th").forEach((cell, i) => { if (columns[i] !== "title") head.append(headCell(cell)); });
  const body = list.createTBody();
  for (const row of own) {
    const line = body.insertRow();
    columns.forEach((key, i) => {
      if (key === "title") return;
      const cell = line.insertCell();
      cell.className = document.querySelectorAll("#table thead th")[i].classList.contains("dt-right") ? "num" : "";
      cell.append(text(row.words[key]));
    });
  }
  page.querySelector(".own").replaceChildren(list);
}
function headCell(of) {
  const cell = document.createElement("th");
  cell.scope = "col";
  cell.title = of.title;
  cell.className = of.classList.contains("dt-right") ? "num" : "";
  cell.append(text(of.textContent.trim()));
  return cell;
}

// ---- Pages: #method-NAME shows a method, everything else the overview
const jump = document.getElementById("jump");
async function show(moved) {
  const wanted = decodeURIComponent(location.hash.slice(1));
  const page = document.querySelector(`main.method[id="${CSS.escape(wanted)}"]`);
  for (const main of document.querySelectorAll("main")) main.hidden = page ? main !== page : main.id !== "all";
  jump.value = page?.dataset.method ?? "";
  if (page) await drawMethod(page);
  if (moved) {
    const target = page ?? document.getElementById(wanted) ?? document.getElementById("overview");
    (page ? document.documentElement : target).scrollIntoView?.();
    if (page) scrollTo(0, 0);
    target.querySelector("[tabindex='-1']")?.focus({ preventScroll: true });
  }
}
jump.addEventListener("change", () => { location.hash = jump.value ? `method-${jump.value}` : "methods"; });
addEventListener("hashchange", () => show(true));

function drawAll() {
  update();
  const page = document.querySelector("main.method:not([hidden])");
  if (page) drawMethod(page);
}
for (const form of [filters, chosen]) {
  form.addEventListener("change", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(update));
}
filters.words.addEventListener("input", update);
await update();
await show(Boolean(location.hash));
document.body.dataset.ready = "yes";
