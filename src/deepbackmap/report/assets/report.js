(() => {
  const all = (what, root = document) => [...root.querySelectorAll(what)];
  const FINE = 10;

  /* molecules: the data were written beside them; each is drawn when the browser has time */
  const store = document.getElementById("molecule-data");
  const data = store ? JSON.parse(store.textContent) : [];
  const viewers = all("canvas[data-molecule]").map((c) => new Viewer(c, data[+c.dataset.molecule]));
  const idle = window.requestIdleCallback || ((f) => setTimeout(f, 1));
  const redraw = (k = 0) => { if (k < viewers.length) { viewers[k].draw(); idle(() => redraw(k + 1)); } };
  idle(() => redraw());
  viewers.forEach((v) => all("button[data-zoom]", v.canvas.parentElement).forEach((b) => b.addEventListener("click", () => v.by(+b.dataset.zoom))));
  const bare = document.getElementById("no-hydrogens");
  if (bare) bare.addEventListener("change", () => { viewers.forEach((v) => { v.hydrogens = !bare.checked; }); redraw(); });
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
  const paper = (print) => viewers.forEach((v) => { v.print = print; v.draw(); });
  let closed = [];
  addEventListener("beforeprint", () => { closed = all("details:not([open])"); closed.forEach((d) => { d.open = true; }); paper(true); });
  addEventListener("afterprint", () => { closed.forEach((d) => { d.open = false; }); paper(false); });

  /* table: filter, and sort within each group */
  const rows = all("#table tbody:not(.total) tr:not(.group)");
  const filter = document.getElementById("filter"), scored = document.getElementById("only-scored");
  function sift() {
    const wanted = filter.value.trim().toLowerCase();
    let n = 0;
    rows.forEach((r) => {
      r.hidden = !(r.cells[0].textContent.toLowerCase().includes(wanted) && (!scored.checked || "scored" in r.dataset));
      n += !r.hidden;
    });
    all("#table .group").forEach((g) => { g.hidden = all("tr:not(.group)", g.parentElement).every((r) => r.hidden); });
    document.getElementById("filtered").textContent = n === rows.length ? "" : `${n} of ${rows.length} figures`;
  }
  filter.addEventListener("input", sift);
  scored.addEventListener("change", sift);
  const order = new Map(rows.map((r, k) => [r, k]));
  all("#table .sort").forEach((button) => button.addEventListener("click", () => {
    const head = button.closest("th"), next = { none: "descending", descending: "ascending", ascending: "none" }[head.getAttribute("aria-sort")];
    all("#table thead [aria-sort]").forEach((th) => th.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", next);
    const of = (r) => { const v = r.cells[3 + +button.dataset.column].dataset.order; return v === "" ? NaN : +v; };
    const sign = next === "ascending" ? 1 : -1;
    all("#table tbody:not(.total)").forEach((body) => {
      const sorted = all("tr:not(.group)", body).sort((a, b) => {
        if (next === "none") return order.get(a) - order.get(b);
        const x = of(a), y = of(b);
        return isNaN(x) ? (isNaN(y) ? 0 : 1) : isNaN(y) ? -1 : sign * (x - y);
      });
      body.append(...sorted);
    });
  }));

  /* plots: which methods, and density on a logarithmic axis */
  all("input.show").forEach((box) => box.addEventListener("change", () => all(`.data .${box.value}, .caption .${box.value}`).forEach((e) => e.classList.toggle("off", !box.checked))));

  const number = (v) => {
    if (v === 0) return "0";
    const text = Math.abs(v) >= 1e5 || Math.abs(v) < 1e-4 ? v.toExponential(2) : String(+v.toPrecision(3));
    return text.replace(/-/g, "−");
  };
  function frame(plot) {
    const [low, high, bottom, top] = plot.dataset.frame.split(" ").map(Number);
    const box = plot.querySelector(".data").viewBox.baseVal;
    return { low, high, bottom, top, w: box.width, h: box.height };
  }
  /* the corners of a line, in the drawing's own units, by its relative moves */
  const tracks = new WeakMap();
  function track(path) {
    if (tracks.has(path)) return tracks.get(path);
    const points = [];
    let x = 0, y = 0;
    for (const [, c, text] of path.getAttribute("d").matchAll(/([MhvlLz])([^MhvlLz]*)/g)) {
      const v = text.trim().split(/[ ,]+/).map(Number);
      if (c === "M" || c === "L") [x, y] = v;
      else if (c === "h") x += v[0];
      else if (c === "v") y += v[0];
      else if (c === "l") { x += v[0]; y += v[1]; }
      if (c !== "z") points.push([c, x, y]);
    }
    tracks.set(path, points);
    return points;
  }
  function at(path, x, steps) {
    const points = track(path);
    for (let k = 0; k < points.length; k++) {
      const [c, px, py] = points[k], before = points[k - 1];
      if (steps && c === "h" && before[1] <= x && x < px) return { x: before[1], end: px, y: py };
      if (!steps && c === "l" && before[1] <= x && x < px) { const near = x - before[1] < px - x ? before : points[k]; return { x: near[1], end: near[1], y: near[2] }; }
    }
    return null;
  }
  const DECADES = 4;
  function logarithm(plot, on) {
    const f = frame(plot), floor = f.top * 10 ** -DECADES;
    const place = (y) => { const v = f.top - (y / f.h) * (f.top - f.bottom); return v > floor ? (-Math.log10(v / f.top) / DECADES) * f.h : f.h + 40; };
    all(".line, .band", plot.querySelector(".data")).forEach((path) => {
      path.linear = path.linear || path.getAttribute("d");
      if (!on) { path.setAttribute("d", path.linear); return; }
      path.setAttribute("d", track(path).map(([c, x, y]) => `${c === "M" ? "M" : "L"}${x} ${place(y).toFixed(0)}`).join("") + (path.classList.contains("band") ? "z" : ""));
    });
    all(".ty, .grid", plot).forEach((e) => e.classList.toggle("off", on));
    all(".decade", plot).forEach((e) => e.remove());
    if (!on) return;
    const inside = plot.querySelector("g");
    for (let k = 0; k <= DECADES; k++) {
      const power = Math.floor(Math.log10(f.top)) - k, y = place(((f.top - 10 ** power) / (f.top - f.bottom)) * f.h) / FINE;
      if (y * FINE > f.h) break;
      const text = document.createElementNS("http://www.w3.org/2000/svg", "text");
      text.setAttribute("class", "ty decade"); text.classList.remove("off");
      text.setAttribute("x", -5); text.setAttribute("y", y + 3.5);
      text.textContent = "10" + [...String(power)].map((d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d] || "⁻").join("");
      inside.append(text);
    }
  }
  const logs = document.getElementById("logarithmic");
  if (logs) logs.addEventListener("change", () => all('#plots .plot[data-kind="steps"]').forEach((p) => logarithm(p, logs.checked)));

  /* values under the pointer */
  const readout = document.getElementById("readout"), NS = "http://www.w3.org/2000/svg";
  let drawn = null;
  function clear() { readout.hidden = true; if (drawn) drawn.remove(); drawn = null; }
  function element(name, attributes) {
    const e = document.createElementNS(NS, name);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    return e;
  }
  function line(words, value, css) {
    const row = document.createElement("div"), name = document.createElement("span"), said = document.createElement("span");
    if (css) { const s = element("svg", { class: "swatch", viewBox: "0 0 30 12" }); s.append(element("path", { class: css, d: "M1 6h28" })); name.append(s); }
    name.append(words); said.textContent = value; row.append(name, said);
    return row;
  }
  function show(v, title, lines) {
    const head = document.createElement("b");
    head.textContent = title;
    readout.replaceChildren(head, ...lines);
    readout.hidden = false;
    const { width: w, height: h } = readout.getBoundingClientRect();
    readout.style.left = `${Math.max(4, v.clientX + 16 + w > innerWidth ? v.clientX - w - 16 : v.clientX + 16)}px`;
    readout.style.top = `${Math.max(4, Math.min(v.clientY + 12, innerHeight - h - 8))}px`;
  }
  function values(plot, inner, f, x, v) {
    const steps = plot.dataset.kind === "steps";
    let where = null;
    const lines = all(".line:not(.off)", inner).reverse().map((path) => {
      const original = path.linear ? Object.assign(path.cloneNode(), {}) : path;
      if (path.linear) original.setAttribute("d", path.linear);
      const found = at(original, x, steps);
      if (!found) return null;
      where = where || found;
      return line(path.dataset.name, number(Math.max(0, f.top - (found.y / f.h) * (f.top - f.bottom))), path.getAttribute("class"));
    }).filter(Boolean);
    if (!where) return clear();
    const scale = (f.high - f.low) / f.w, fine = Math.max(0, Math.ceil(1 - Math.log10(((where.end - where.x) || 10) * scale)));
    const real = (u) => String(+(f.low + u * scale).toFixed(Math.min(fine, 12))).replace(/-/g, "−");
    drawn = element("path", { class: "cursor", d: `M${(where.x + where.end) / 2} 0V${f.h}` });
    inner.append(drawn);
    show(v, plot.dataset.label + ": " + (steps ? `${real(where.x)} to ${real(where.end)}` : real(where.x)), lines);
  }
  const clouds = new WeakMap();
  function cloud(path) {
    if (!clouds.has(path)) clouds.set(path, [...path.getAttribute("d").matchAll(/M(-?\d+) (-?\d+)/g)].map((q) => [+q[1], +q[2]]));
    return clouds.get(path);
  }
  function nearest(plot, inner, x, y, v) {
    let best = null, least = 120;
    all(".dot:not(.off)", inner).forEach((path) => cloud(path).forEach(([a, b], k) => {
      const d = Math.hypot(a - x, b - y);
      if (d < least) { least = d; best = [path, k, a, b]; }
    }));
    if (!best) return clear();
    const [path, k, a, b] = best, of = (name) => path.dataset[name].split(" ")[k];
    drawn = element("circle", { class: "found", cx: a, cy: b, r: 45 });
    inner.append(drawn);
    show(v, path.dataset.name, [line("frame", of("frame")), ...(of("molecule") === "0" ? [] : [line("molecule", of("molecule"))])]);
  }
  all(".plot").forEach((plot) => {
    const move = (v) => {
      if (drawn) { drawn.remove(); drawn = null; }
      const inner = plot.querySelector(".data"), f = frame(plot), to = inner.getScreenCTM().inverse();
      const x = to.a * v.clientX + to.e, y = to.d * v.clientY + to.f;
      if (x < 0 || x > f.w || y < 0 || y > f.h) return clear();
      return plot.dataset.kind === "points" ? nearest(plot, inner, x, y, v) : values(plot, inner, f, x, v);
    };
    plot.addEventListener("pointermove", move);
    plot.addEventListener("pointerdown", move);
    plot.addEventListener("pointerleave", clear);
  });
  addEventListener("scroll", clear, { passive: true });

  /* navigation: which section is in view */
  const links = new Map(all("nav a").map((a) => [a.hash.slice(1), a]));
  const sections = all("main section[id]").reverse();
  let here = null, asked = false;
  function follow() {
    asked = false;
    const end = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
    const section = end ? sections[0] : sections.find((e) => e.getBoundingClientRect().top < 130), link = section && links.get(section.id);
    if (link === here) return;
    if (here) { here.classList.remove("here"); here.removeAttribute("aria-current"); }
    here = link;
    if (!link) return;
    link.classList.add("here");
    link.setAttribute("aria-current", "true");
    const list = link.closest("ul"), left = link.offsetLeft - list.offsetLeft;
    if (left < list.scrollLeft || left + link.offsetWidth > list.scrollLeft + list.clientWidth) list.scrollLeft = left - 40;
  }
  addEventListener("scroll", () => { if (!asked) { asked = true; requestAnimationFrame(follow); } }, { passive: true });
  follow();
})();
