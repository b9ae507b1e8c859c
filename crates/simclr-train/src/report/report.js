"use strict";
// A word that is explained: its definition beside it, and the list at the end for those without a script.
(() => {
  let shown = null;
  const hide = () => { shown?.remove(); shown = null };
  document.addEventListener("click", event => {
    const link = event.target.closest?.("a.term");
    const again = shown && link && shown.of === link;
    hide();
    if (!link || again) return;
    const term = document.getElementById(link.hash.slice(1));
    if (!term) return;
    event.preventDefault();
    shown = document.createElement("div");
    shown.id = "word";
    shown.of = link;
    shown.setAttribute("role", "status");
    const name = document.createElement("b");
    name.textContent = term.textContent + ". ";
    shown.append(name, term.nextElementSibling.textContent);
    document.body.append(shown);
    const at = link.getBoundingClientRect();
    const left = Math.min(at.left, document.documentElement.clientWidth - shown.offsetWidth - 8);
    shown.style.left = Math.max(8, left) + scrollX + "px";
    shown.style.top = at.bottom + scrollY + 6 + "px";
  });
  document.addEventListener("keydown", event => { if (event.key === "Escape") hide() });
})();

// The map: points of a canvas, the picture of the nearest one beside the pointer, classes to leave out.
(() => {
  const element = document.getElementById("map-data");
  if (!element) return;
  const map = JSON.parse(element.textContent);
  const canvas = document.getElementById("map-canvas"), context = canvas.getContext("2d");
  const tip = document.getElementById("map-tip"), [preview, caption] = tip.children;
  const pictures = document.getElementById("map-pictures"), legend = document.getElementById("map-legend");
  const off = new Set();
  let points = [], chosen = -1, frame = 0;

  const chosenView = () => {
    const value = name => document.querySelector(`input[name=${name}]:checked`).value;
    return map.views.find(view => view.encoder === value("map-encoder") && view.method === value("map-method"));
  };
  const place = ([x, y]) => {
    const side = canvas.clientWidth, edge = 12;
    return [edge + x / 1000 * (side - 2 * edge), edge + (1 - y / 1000) * (side - 2 * edge)];
  };
  const draw = () => {
    const scale = devicePixelRatio || 1, side = canvas.clientWidth;
    if (canvas.width !== Math.round(side * scale)) canvas.width = canvas.height = Math.round(side * scale);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, side, side);
    const radius = Math.max(2, Math.min(4, 90 / Math.sqrt(points.length)));
    points.forEach((point, i) => {
      if (off.has(map.of[i])) return;
      const [x, y] = place(point);
      context.globalAlpha = i === chosen ? 1 : 0.75;
      context.fillStyle = map.colours[map.of[i]];
      context.beginPath();
      context.arc(x, y, i === chosen ? radius + 3 : radius, 0, 7);
      context.fill();
      if (i === chosen) {
        context.lineWidth = 2;
        context.strokeStyle = getComputedStyle(document.body).color;
        context.stroke();
      }
    });
    canvas.dataset.shown = points.filter((_, i) => !off.has(map.of[i])).length;
  };
  // Points glide from one view to another: one sees what training did to them.
  const show = glide => {
    cancelAnimationFrame(frame);
    const from = points, to = chosenView().points, began = performance.now();
    if (!glide || !from.length || matchMedia("(prefers-reduced-motion: reduce)").matches) { points = to; return draw() }
    const step = now => {
      const t = Math.min(1, (now - began) / 600), s = t * t * (3 - 2 * t);
      points = t < 1 ? to.map(([x, y], i) => [from[i][0] + s * (x - from[i][0]), from[i][1] + s * (y - from[i][1])]) : to;
      draw();
      if (t < 1) frame = requestAnimationFrame(step);
    };
    frame = requestAnimationFrame(step);
  };
  const point = event => {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let nearest = -1, least = 24 * 24;
    points.forEach((p, i) => {
      if (off.has(map.of[i])) return;
      const [a, b] = place(p), distance = (a - x) ** 2 + (b - y) ** 2;
      if (distance < least) { least = distance; nearest = i }
    });
    if (nearest === chosen) return;
    chosen = nearest;
    tip.hidden = chosen < 0;
    draw();
    if (chosen < 0) return;
    const brush = preview.getContext("2d"), column = chosen % map.columns, row = Math.floor(chosen / map.columns);
    brush.clearRect(0, 0, 96, 96);
    brush.drawImage(pictures, column * map.side, row * map.side, map.side, map.side, 0, 0, 96, 96);
    caption.textContent = `${map.names[map.of[chosen]]}: ${map.places[chosen]}`;
    const [a, b] = place(points[chosen]), side = canvas.clientWidth;
    tip.style.left = (a + 124 > side ? a - 118 : a + 12) + "px";
    tip.style.top = Math.min(b + 12, side - 130) + "px";
  };
  const leave = () => { chosen = -1; tip.hidden = true; draw() };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  // A finger that is lifted leaves too, but its picture stays until another is touched.
  canvas.addEventListener("pointerleave", event => { if (event.pointerType !== "touch") leave() });

  // One click leaves a class out or takes it in again; a double click shows it alone, and another one all.
  if (map.names.length <= 100) map.names.forEach((name, group) => {
    const button = document.createElement("button"), dot = document.createElement("i");
    dot.style.background = map.colours[group];
    button.type = "button";
    button.append(dot, name);
    button.addEventListener("click", () => { off.has(group) ? off.delete(group) : off.add(group); update() });
    button.addEventListener("dblclick", () => {
      const alone = off.size === map.names.length - 1 && !off.has(group);
      off.clear();
      if (!alone) map.names.forEach((_, other) => { if (other !== group) off.add(other) });
      update();
    });
    legend.append(button);
  });
  const update = () => {
    [...legend.children].forEach((button, group) => button.setAttribute("aria-pressed", !off.has(group)));
    leave();
  };
  document.querySelectorAll("#map input").forEach(input => input.addEventListener("change", () => show(true)));
  new ResizeObserver(draw).observe(canvas);
  show(false);
  update();
})();
