// How fast it plays: frames a second, and how long model, transfer, drawing and a key's answer take.

function makeMeter() {
  const readout = element("div", { class: "tw-readout" });
  const drawTimes = []; // of the last frames
  const pressTimes = new Map(); // by the number of the press, until its frame is drawn
  let presses = 0;
  let last = {};

  // The number of a new press, for the step that answers it.
  const press = () => {
    presses += 1;
    pressTimes.set(presses, performance.now());
    if (pressTimes.size > 50) pressTimes.delete(pressTimes.keys().next().value);
    return presses;
  };
  const drawn = (content, began) => {
    const now = performance.now();
    drawTimes.push(now);
    while (drawTimes.length > 60 || now - drawTimes[0] > 2000) drawTimes.shift();
    const pressed = pressTimes.get(content.press);
    if (pressed !== undefined) { last.latency = now - pressed; pressTimes.clear(); }
    Object.assign(last, { model: 1000 * content.model, transfer: 1000 * content.transfer, draw: now - began });
  };
  const jumped = () => { drawTimes.length = 0; };
  const show = () => {
    const rate = drawTimes.length > 1 ? (1000 * (drawTimes.length - 1)) / (drawTimes.at(-1) - drawTimes[0]) : 0;
    const rounded = (value) => (value === undefined ? "–" : value.toFixed(value < 10 ? 1 : 0));
    const { model: ms, transfer, draw: drawing, latency } = last;
    readout.textContent = `${rate.toFixed(0)} fps · model ${rounded(ms)} · transfer ${rounded(transfer)} · ` +
      `draw ${rounded(drawing)} ms` + (latency === undefined ? "" : ` · key to frame ${rounded(latency)} ms`);
    Object.assign(readout.dataset, {
      fps: rate.toFixed(1), modelMs: ms ?? "", transferMs: transfer ?? "", drawMs: drawing ?? "",
      latencyMs: latency ?? "",
    });
  };
  return { readout, press, drawn, jumped, show };
}
