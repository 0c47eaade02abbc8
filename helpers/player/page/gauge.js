// How far the picture is from what the data shows, for how long it was kept real, and what wakes a lost world.

function makeGauge({ say }) {
  const bar = element("meter", { min: 0, max: 1, low: 0.5, high: 0.99, optimum: 0, value: 0,
    title: "how far the picture is from what the dataset shows", "aria-label": "distance from the data" });
  const text = element("span", { title: "frames before the picture first left what the dataset shows" });
  const why = element("span", {});
  const lost = element("div", { class: "tw-tools tw-lost", role: "status", hidden: true }, why,
    element("button", { type: "button", "data-do": "last_good", onclick: () => say("last_good") },
      "Back to the last good frame"),
    element("button", { type: "button", "data-do": "true_frame", onclick: () => say("true_frame") },
      "A true frame"));

  const show = ({ gauge, score, stuck }) => {
    bar.value = gauge;
    text.textContent = `kept real for ${score} frame${score === 1 ? "" : "s"}`;
    why.textContent = stuck ? "Nothing changes any more, whatever is done." : "This is nothing that the dataset shows.";
    lost.hidden = !stuck && gauge < 0.99;
  };
  return { line: element("div", { class: "tw-gauge" }, bar, text), lost, show, update: show };
}
