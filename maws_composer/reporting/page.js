"use strict";

document.documentElement.classList.add("js");
const charts = [...document.querySelectorAll(".chart")];
const narrow = matchMedia("(max-width: 40rem)");
const buttons = [["zoomIn2d", "zoomOut2d", "resetScale2d"], ["toImage"]];
const settings = { responsive: true, displaylogo: false, displayModeBar: "hover", showSendToCloud: false, modeBarButtons: buttons };

function draw(chart) {
  const { data, layout } = JSON.parse(chart.querySelector("script").textContent);
  if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false; // a finger scrolls the page
  if (narrow.matches) layout.xaxis.nticks = 4;
  chart.plot = chart.querySelector("[role=img]");
  chart.samples = data.map((trace) => trace.x);
  chart.range = layout.yaxis.range;
  return Plotly.newPlot(chart.plot, data, layout, settings);
}

function against(flops) {
  for (const { plot, samples } of charts) {
    const known = plot.data.map((trace) => trace.meta?.flops);
    if (!known.every(Boolean)) continue;
    const x = flops ? samples.map((xs, i) => xs.map((s) => known[i].before + known[i].per_sample * s)) : samples;
    const axis = flops
      ? { "xaxis.title.text": "training FLOPs", "xaxis.tickformat": ".2~e", "xaxis.hoverformat": ".3e" }
      : { "xaxis.title.text": "samples", "xaxis.tickformat": "~s", "xaxis.hoverformat": ".4s" };
    Plotly.update(plot, { x }, { ...axis, "xaxis.autorange": true });
  }
}

function logarithmic(on) {
  for (const { plot, range } of charts) {
    if (!plot.layout.meta?.log) continue;
    Plotly.relayout(plot, { "yaxis.type": on ? "log" : "linear", "yaxis.range": on ? range.map(Math.log10) : [...range] });
  }
}

function show(run, visible) {
  for (const { plot } of charts) {
    const traces = plot.data.map((trace, i) => (trace.meta?.run === run ? i : -1)).filter((i) => i >= 0);
    if (traces.length) Plotly.restyle(plot, { visible }, traces);
  }
}

for (const input of document.querySelectorAll(".switches input")) {
  input.addEventListener("change", () => {
    if (input.name === "against") against(input.value === "flops");
    else if (input.name === "run") show(input.value, input.checked);
    else logarithmic(input.checked);
  });
}

for (const series of document.querySelectorAll(".series")) {
  const figures = [...series.querySelectorAll("figure")];
  const [slider, output] = [series.querySelector("input"), series.querySelector("output")];
  const step = () => {
    figures.forEach((figure, i) => (figure.hidden = i !== Number(slider.value)));
    output.textContent = `${Number(slider.value) + 1} of ${figures.length}`;
    slider.setAttribute("aria-valuetext", figures[slider.value].querySelector("figcaption").textContent);
  };
  slider.value = slider.max;
  slider.addEventListener("input", step);
  step();
}

addEventListener("beforeprint", () => charts.forEach(({ plot }) => Plotly.Plots.resize(plot)));
Promise.all(charts.map(draw)).then(() => document.documentElement.classList.add("drawn"));
