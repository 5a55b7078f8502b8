"use strict";
/* Ball and stick on a plain canvas: no WebGL, so that it also opens on a cluster's browser and
   prints. Positions are in pm; the viewer looks down the negative z axis. */
const Viewer = (() => {
  const COLOUR = {
    H: "#f2f2ee", C: "#6e747c", N: "#3f68d6", O: "#d8382c", F: "#7ccf5a", P: "#e08a1e", S: "#d9bb2f",
    Cl: "#3fae49", Br: "#96402c", I: "#7a3f9d", Si: "#c3a27a", B: "#e2a59a", Na: "#9a63d8", K: "#8452c2",
    Li: "#b678ee", Mg: "#7fbf3f", Ca: "#6aa84f", Fe: "#c06a2d", Zn: "#7d80a8",
  };
  const OTHER = "#c05fb0";
  const RADIUS = { H: 24, C: 36, N: 35, O: 34, F: 32 };
  const LIGHT = { back: "#ffffff", edge: "#2a2d31", ring: "#d55e00", ink: "#1b1d21" };
  const SHADES = 6, FOG = 0.42;
  const mix = (a, b, t) => {
    const part = (s, k) => parseInt(s.slice(1 + 2 * k, 3 + 2 * k), 16);
    return "#" + [0, 1, 2].map((k) =>
      Math.round(part(a, k) * (1 - t) + part(b, k) * t).toString(16).padStart(2, "0")).join("");
  };
  const sprites = new Map();

  function sphere(element, shade, theme) {
    const key = element + shade + theme.back;
    if (sprites.has(key)) return sprites.get(key);
    const c = document.createElement("canvas"), n = 96, g = c.getContext("2d");
    c.width = c.height = n;
    const fog = (colour) => mix(colour, theme.back, FOG * (shade / (SHADES - 1)));
    const base = COLOUR[element] || OTHER;
    const r = n / 2 - 2, light = g.createRadialGradient(n * 0.36, n * 0.32, n * 0.03, n * 0.46, n * 0.46, r);
    light.addColorStop(0, fog(mix(base, "#ffffff", 0.75)));
    light.addColorStop(0.38, fog(base));
    light.addColorStop(1, fog(mix(base, "#000000", 0.42)));
    g.beginPath(); g.arc(n / 2, n / 2, r, 0, 7); g.fillStyle = light; g.fill();
    g.lineWidth = 2.2; g.strokeStyle = fog(theme.edge); g.stroke();
    sprites.set(key, c);
    return c;
  }

  function turn(m, axis, angle) {
    const c = Math.cos(angle), s = Math.sin(angle), [a, b] = [[1, 2], [2, 0]][axis];
    const out = m.slice();
    for (let k = 0; k < 3; k++) {
      out[3 * a + k] = c * m[3 * a + k] - s * m[3 * b + k];
      out[3 * b + k] = s * m[3 * a + k] + c * m[3 * b + k];
    }
    return out;
  }

  return class {
    constructor(canvas, data) {
      this.canvas = canvas; this.data = data; this.n = data.e.length;
      this.hydrogens = true; this.named = -1;
      this.reach = 1;
      for (let k = 0; k < 3 * this.n; k += 3) this.reach = Math.max(this.reach, Math.hypot(data.p[k], data.p[k + 1], data.p[k + 2]));
      this.reset(); this.listen();
    }
    reset() {
      /* a little from the side, so that depth is seen */
      this.m = turn(turn([1, 0, 0, 0, 1, 0, 0, 0, 1], 0, 0.35), 1, 0.25);
      this.zoom = 1;
    }
    theme() {
      if (this.print) return LIGHT;
      const get = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
      const hex = (v) => (v.length === 4 ? "#" + [...v.slice(1)].map((x) => x + x).join("") : v);
      return { back: hex(get("--card")), edge: hex(get("--ink")) === "#e8e8e4" ? "#0c0d0f" : "#2a2d31", ring: hex(get("--c1")), ink: hex(get("--ink")) };
    }
    project(w, h) {
      const { p } = this.data, m = this.m, far = 4 * this.reach;
      /* the molecule lies flat at first: fit its own extents, whatever way it is turned later */
      let wide = 1, high = 1;
      for (let k = 0; k < 3 * this.n; k += 3) { wide = Math.max(wide, Math.abs(p[k])); high = Math.max(high, Math.hypot(p[k + 1], p[k + 2])); }
      const fit = Math.min((w / 2 - 12) / (wide + 60), (h / 2 - 12) / (high + 60)) * this.zoom;
      const at = new Float32Array(4 * this.n);
      for (let i = 0; i < this.n; i++) {
        const x = p[3 * i], y = p[3 * i + 1], z = p[3 * i + 2];
        const X = m[0] * x + m[1] * y + m[2] * z, Y = m[3] * x + m[4] * y + m[5] * z, Z = m[6] * x + m[7] * y + m[8] * z;
        const f = fit * (far / (far - Z));
        at[4 * i] = w / 2 + X * f; at[4 * i + 1] = h / 2 - Y * f; at[4 * i + 2] = Z; at[4 * i + 3] = f;
      }
      return at;
    }
    draw() {
      const c = this.canvas, w = c.clientWidth || 360, h = c.clientHeight || 270;
      const density = Math.max(2, window.devicePixelRatio || 1);
      if (c.width !== Math.round(w * density)) { c.width = Math.round(w * density); c.height = Math.round(h * density); }
      const g = c.getContext("2d"), theme = this.theme(), { e, s, b, m } = this.data;
      g.setTransform(density, 0, 0, density, 0, 0); g.clearRect(0, 0, w, h); g.lineCap = "round"; g.imageSmoothingQuality = "high";
      const at = (this.at = this.project(w, h));
      const seen = (i) => this.hydrogens || s[e[i]] !== "H" || m.includes(i);
      let near = -1e9, far = 1e9;
      for (let i = 0; i < this.n; i++) { near = Math.max(near, at[4 * i + 2]); far = Math.min(far, at[4 * i + 2]); }
      const depth = Math.max(near - far, 1), shade = (z) => Math.round(((near - z) / depth) * (SHADES - 1));
      const things = [];
      for (let i = 0; i < this.n; i++) if (seen(i)) things.push([at[4 * i + 2], i, -1]);
      for (let k = 0; k < b.length; k += 2) {
        const i = b[k], j = b[k + 1];
        if (!seen(i) || !seen(j)) continue;
        const middle = (at[4 * i + 2] + at[4 * j + 2]) / 2;
        things.push([(at[4 * i + 2] + middle) / 2 - 1, i, j], [(at[4 * j + 2] + middle) / 2 - 1, j, i]);
      }
      things.sort((x, y) => x[0] - y[0]);
      for (const [z, i, j] of things) {
        const x = at[4 * i], y = at[4 * i + 1], f = at[4 * i + 3], level = shade(at[4 * i + 2]);
        if (j < 0) {
          const r = (RADIUS[s[e[i]]] || 40) * f;
          g.drawImage(sphere(s[e[i]], level, theme), x - r, y - r, 2 * r, 2 * r);
        } else {
          const X = (x + at[4 * j]) / 2, Y = (y + at[4 * j + 1]) / 2, fog = (FOG * level) / (SHADES - 1);
          const base = COLOUR[s[e[i]]] || OTHER;
          for (const [width, colour] of [[24, mix(theme.edge, base, 0.15)], [19, mix(base, "#000000", 0.12)], [7, mix(base, "#ffffff", 0.4)]]) {
            g.beginPath(); g.moveTo(x, y); g.lineTo(X, Y); g.lineWidth = Math.max(width * f, 0.7); g.strokeStyle = mix(colour, theme.back, fog); g.stroke();
          }
        }
      }
      for (const i of m) this.ring(g, theme, i);
      if (this.named >= 0) this.label(g, theme, this.named);
      this.scale(g, theme, w, h);
      c.dataset.drawn = "" + this.n;
    }
    ring(g, theme, i) {
      const r = Math.max((RADIUS[this.data.s[this.data.e[i]]] || 40) * this.at[4 * i + 3] + 3.5, 7);
      for (const [width, colour] of [[5, theme.back], [2.6, theme.ring]]) {
        g.beginPath(); g.arc(this.at[4 * i], this.at[4 * i + 1], r, 0, 7); g.lineWidth = width; g.strokeStyle = colour; g.stroke();
      }
    }
    label(g, theme, i) {
      g.font = "600 12px system-ui, sans-serif"; g.lineWidth = 4; g.lineJoin = "round";
      const x = this.at[4 * i] + 9, y = this.at[4 * i + 1] - 9;
      g.strokeStyle = theme.back; g.strokeText(this.data.n[i], x, y); g.fillStyle = theme.ink; g.fillText(this.data.n[i], x, y);
    }
    scale(g, theme, w, h) {
      const f = this.project1(), lengths = [50, 100, 200, 500, 1000, 2000, 5000, 10000];
      const length = lengths.find((l) => l * f > 36) || 10000;
      g.lineWidth = 1.5; g.strokeStyle = g.fillStyle = theme.ink; g.globalAlpha = 0.75;
      g.beginPath(); g.moveTo(10, h - 10); g.lineTo(10 + length * f, h - 10); g.stroke();
      g.font = "11px system-ui, sans-serif"; g.fillText(length / 1000 + " nm", 10, h - 16); g.globalAlpha = 1;
    }
    project1() { /* pixels a pm in the middle of the molecule */
      let sum = 0;
      for (let i = 0; i < this.n; i++) sum += 1 / this.at[4 * i + 3];
      return this.n / sum;
    }
    pick(x, y) {
      let best = -1, z = -1e9;
      for (let i = 0; i < this.n; i++) {
        const r = Math.max((RADIUS[this.data.s[this.data.e[i]]] || 40) * this.at[4 * i + 3], 5);
        const shown = this.hydrogens || this.data.s[this.data.e[i]] !== "H" || this.data.m.includes(i);
        if (shown && Math.hypot(x - this.at[4 * i], y - this.at[4 * i + 1]) < r && this.at[4 * i + 2] > z) { best = i; z = this.at[4 * i + 2]; }
      }
      return best;
    }
    later() {
      if (this.waiting) return;
      this.waiting = true;
      requestAnimationFrame(() => { this.waiting = false; this.draw(); });
    }
    by(factor) { this.zoom = Math.min(Math.max(this.zoom * factor, 0.4), 12); this.later(); }
    rotate(across, up) { this.m = turn(turn(this.m, 1, across), 0, up); this.later(); }
    listen() {
      const c = this.canvas, down = new Map();
      let apart = 0;
      c.addEventListener("pointerdown", (v) => { c.setPointerCapture(v.pointerId); down.set(v.pointerId, [v.clientX, v.clientY]); apart = 0; });
      for (const end of ["pointerup", "pointercancel"]) c.addEventListener(end, (v) => { down.delete(v.pointerId); apart = 0; });
      c.addEventListener("pointermove", (v) => {
        if (!down.has(v.pointerId)) {
          const box = c.getBoundingClientRect(), found = this.at ? this.pick(v.clientX - box.left, v.clientY - box.top) : -1;
          if (found !== this.named) { this.named = found; this.later(); }
          return;
        }
        const [x, y] = down.get(v.pointerId);
        down.set(v.pointerId, [v.clientX, v.clientY]);
        if (down.size === 1) { this.named = -1; this.rotate((v.clientX - x) * 0.011, (v.clientY - y) * 0.011); return; }
        const [p, q] = [...down.values()], now = Math.hypot(p[0] - q[0], p[1] - q[1]);
        if (apart) this.by(now / apart);
        apart = now;
      });
      c.addEventListener("pointerleave", () => { if (this.named >= 0) { this.named = -1; this.later(); } });
      /* the wheel belongs to the page until the drawing is chosen */
      c.addEventListener("wheel", (v) => { if (document.activeElement === c) { v.preventDefault(); this.by(Math.exp(-v.deltaY * 0.0015)); } }, { passive: false });
      c.addEventListener("dblclick", () => { this.reset(); this.later(); });
      c.addEventListener("keydown", (v) => {
        const step = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, -0.12], ArrowDown: [0, 0.12] }[v.key];
        if (step) this.rotate(...step);
        else if (v.key === "+" || v.key === "=") this.by(1.2);
        else if (v.key === "-") this.by(1 / 1.2);
        else if (v.key === "Home" || v.key === "0") { this.reset(); this.later(); }
        else return;
        v.preventDefault();
      });
    }
  };
})();
