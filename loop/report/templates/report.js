(() => {
  "use strict";
  const plots = [...document.querySelectorAll(".plot")];
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Text, grid and lines take the colours of the page, so that a chart follows light, dark and print.
  const inks = (layout) => {
    const ink = variable("--ink"), grid = variable("--grid"), line = variable("--line");
    const changes = {
      "font.color": ink, "font.family": getComputedStyle(document.body).fontFamily,
      "hoverlabel.bgcolor": variable("--card"), "hoverlabel.font.color": ink, "hoverlabel.bordercolor": line,
      "legend.bgcolor": "rgba(0,0,0,0)",
      "modebar.bgcolor": "rgba(0,0,0,0)", "modebar.color": variable("--soft"), "modebar.activecolor": ink,
    };
    const axes = Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));
    if (layout.ternary) axes.push("ternary.aaxis", "ternary.baxis", "ternary.caxis");
    for (const axis of axes) {
      changes[`${axis}.gridcolor`] = grid;
      changes[`${axis}.linecolor`] = line;
      changes[`${axis}.tickcolor`] = line;
      if (!axis.startsWith("ternary")) changes[`${axis}.zerolinecolor`] = line;
    }
    return changes;
  };
  const set = (target, path, value) => {
    const keys = path.split(".");
    const last = keys.pop();
    for (const key of keys) target = target[key] ??= {};
    target[last] = value;
  };
  const repaint = () => plots.forEach((plot) => plot.layout && Plotly.relayout(plot, inks(plot.layout)));

  for (const plot of plots) {
    const figure = JSON.parse(document.getElementById(`${plot.id}-data`).textContent);
    for (const [path, value] of Object.entries(inks(figure.layout))) set(figure.layout, path, value);
    Plotly.newPlot(plot, figure.data, figure.layout, {
      responsive: true, displaylogo: false, scrollZoom: false, showLink: false,
      displayModeBar: !figure.layout.scene, modeBarButtons: [["toImage"]],
      toImageButtonOptions: { format: "svg", filename: plot.id },
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  // Paper is white and about 650 pixels wide; the charts are drawn anew for it, and again afterwards.
  const wide = plots.filter((plot) => !plot.closest(".crystals"));
  const resize = (width) => wide.forEach((plot) => Plotly.relayout(plot, { width, autosize: !width }));
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("paper");
    repaint();
    resize(620);
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("paper");
    repaint();
    resize(null);
  });

  // Turning a crystal moves the camera around the vertical axis; only what is on the screen turns.
  const turning = new Set();
  const visible = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) visible[isIntersecting ? "add" : "delete"](target);
  });
  let last = 0;
  const frame = (now) => {
    if (now - last > 40) {
      const step = Math.min(now - last, 200) * 0.0005;
      last = now;
      for (const plot of turning) {
        if (!visible.has(plot) || document.hidden) continue;
        const { eye } = plot._fullLayout.scene.camera;
        Plotly.relayout(plot, { "scene.camera.eye": {
          x: eye.x * Math.cos(step) - eye.y * Math.sin(step),
          y: eye.x * Math.sin(step) + eye.y * Math.cos(step),
          z: eye.z,
        } });
      }
    }
    if (turning.size) requestAnimationFrame(frame);
  };
  const turn = (button, plot, on) => {
    button.setAttribute("aria-pressed", String(on));
    button.textContent = on ? "Stop turning" : "Turn";
    if (!on) { turning.delete(plot); return; }
    turning.add(plot);
    if (turning.size === 1) { last = performance.now(); requestAnimationFrame(frame); }
  };
  document.querySelectorAll("button[data-turn]").forEach((button, place) => {
    const plot = document.getElementById(button.dataset.turn);
    watcher.observe(plot);
    button.hidden = false;
    button.addEventListener("click", () => turn(button, plot, !turning.has(plot)));
    plot.addEventListener("pointerdown", () => turn(button, plot, false));
    turn(button, plot, place === 0 && !calm.matches);
  });

  // A lineage that is linked to opens.
  const open = () => {
    const details = document.getElementById(location.hash.slice(1));
    if (details instanceof HTMLDetailsElement) details.open = true;
  };
  addEventListener("hashchange", open);
  open();
})();
