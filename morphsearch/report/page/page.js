"use strict";
// Draws the figures of the page; on paper they get the width of the paper.
const figures = JSON.parse(document.getElementById("figures").textContent);
const places = figures.map((figure, index) => {
  const place = document.getElementById(`plot-${index + 1}`);
  Plotly.newPlot(place, figure.data, figure.layout, { responsive: true, displayModeBar: false });
  return place;
});
addEventListener("beforeprint", () => places.forEach((place) => Plotly.relayout(place, { width: 680 })));
addEventListener("afterprint", () => places.forEach((place) => Plotly.relayout(place, { width: null, autosize: true })));
