// How fast it plays: frames a second, and how long model, transfer, drawing and a key's answer take.

const SLOW = 0.8; // of the pace that is asked for
const SLOW_MS = 3000; // how long it stays below that until it is said

function makeMeter({ world, say }) {
  const readout = element("div", { class: "tw-readout" });
  const slow = element("div", { class: "tw-slow", role: "status", hidden: true });
  const drawTimes = []; // of the last steps
  const pressTimes = new Map(); // by the number of the press, until its frame is drawn
  let presses = 0;
  let slowSince = null;
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

  const offerFaster = (rate, now) => {
    const set = (name, value, text) =>
      element("button", { type: "button", "data-faster": value, onclick: () => { say("set", { name, value }); hideSlow(); } }, text);
    const fits = now.presets.map(([name]) => name).filter((name) => parseFloat(name) <= now.fps && name !== now.preset);
    const best = fits.sort((a, b) => parseFloat(b) - parseFloat(a))[0];
    const pace = Math.max(1, Math.floor(rate));
    slow.replaceChildren(`This computer reaches ${rate.toFixed(0)} of ${now.fps} frames a second. `,
      best ? set("preset", best, `Play the preset of ${best.replace("fps", " fps")}`) : set("fps", pace, `Play at ${pace} fps`),
      ...(now.preset_help ? [" Faster settings have to be measured once: ", element("code", {}, now.preset_help)] : []));
    slow.hidden = false;
  };
  const hideSlow = () => { slow.hidden = true; slowSince = null; };
  const watchPace = (rate, now) => {
    if (!now.playing || rate === 0 || rate >= SLOW * now.fps) {
      if (now.playing) hideSlow();
      else slowSince = null; // the offer stays for who paused to read it
    } else if (slowSince === null) slowSince = performance.now();
    else if (slow.hidden && performance.now() - slowSince > SLOW_MS) offerFaster(rate, now);
  };
  const show = (now) => {
    const steps = drawTimes.length - 1;
    const rate = steps > 0 ? (1000 * steps * world.horizon) / (drawTimes.at(-1) - drawTimes[0]) : 0;
    const rounded = (value) => (value === undefined ? "–" : value.toFixed(value < 10 ? 1 : 0));
    const { model: ms, transfer, draw: drawing, latency } = last;
    tell(readout, `${rate.toFixed(0)} fps` + (latency === undefined ? "" : ` · key to frame ${rounded(latency)} ms`));
    readout.title = `milliseconds a step: model ${rounded(ms)}, transfer ${rounded(transfer)}, draw ${rounded(drawing)}`;
    Object.assign(readout.dataset, {
      fps: rate.toFixed(1), modelMs: ms ?? "", transferMs: transfer ?? "", drawMs: drawing ?? "",
      latencyMs: latency ?? "",
    });
    watchPace(rate, now);
  };
  return { readout, slow, press, drawn, jumped, show };
}
