// The page of a shared world: the screen, what can be pressed, and when the worker takes a step.
// elements.js and keys.js are the player's; the messages to and from the worker are listed in worker.js.

const STRIP = 12;
const CROSS = ["left", "right", "up", "down"];

const text = (id) => document.getElementById(id).textContent;
const world = JSON.parse(text("world"));
const root = document.body;
const data = root.dataset; // what tests and the curious may read

const screen = element("canvas", { class: "screen", width: world.size, height: world.size });
const curtain = element("div", { class: "curtain" }, "Opening the world …");
const readout = element("span", { class: "readout" });
const strip = element("div", { class: "strip" });
const starts = element("div", { class: "starts" });
const proof = element("p", { class: "proof", role: "status" });
const saved = element("p", { class: "note", role: "status" });
const count = element("span", { class: "count" });
const tool = (name, label, title, onclick) =>
  element("button", { type: "button", "data-do": name, title, onclick }, label);

let playing = false;
let busy = true; // until the worker has answered
let due = 0;
let held = null;
let pressed = null; // an action that not even the shortest press loses
const drawn = []; // times of the last frames

const fps = element("input", { type: "range", min: 1, max: 60, value: world.fps, "data-set": "fps" });
const rate = element("output", {}, String(world.fps));
fps.addEventListener("input", () => { rate.textContent = fps.value; });
const temperature = element("input", {
  type: "number", min: 0, step: 0.01, value: world.temperature, "data-set": "temperature",
  title: "0 takes the likeliest tokens; higher is more surprising",
});
temperature.addEventListener("change", () => {
  const value = Number(temperature.value);
  if (temperature.value !== "" && value >= 0 && value <= 1e6) worker.postMessage({ type: "set", temperature: value });
  else temperature.value = world.temperature;
});

const play = tool("play", "▶ Play", "play on, or pause", () => setPlaying(!playing));
const tools = element("div", { class: "tools" }, play,
  tool("reset", "Reset", "back to where this began", () => restart(current)),
  tool("starts", "Places", "start from another place", () => { starts.hidden = !starts.hidden; }),
  tool("save", "Save what I played", "a session.json that the runbook replays", () => worker.postMessage({ type: "save" })));
const settings = element("div", { class: "settings" },
  element("label", {}, "speed", fps, rate), element("label", {}, "temperature", temperature));

// --- actions ---------------------------------------------------------------------------------------

function pad({ id, name, dead }) {
  const key = (world.keys[id] ?? []).find((chord) => !/^(Digit|Numpad)/.test(chord)) ?? world.keys[id]?.[0];
  const button = element("button", { type: "button", "data-action": id, class: dead ? "dead" : "" },
    element("span", {}, name), element("small", {}, ...(key ? [keycaps(key)] : [])));
  button.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    root.focus({ preventScroll: true });
    button.setPointerCapture(event.pointerId);
    hold(id);
  });
  for (const name of ["pointerup", "pointercancel"]) button.addEventListener(name, () => hold(null));
  button.addEventListener("click", (event) => { if (event.detail === 0) { hold(id); hold(null); } });
  button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch is a held button
  return button;
}

const cross = CROSS.map((name) => world.labels.find((label) => label.name === name));
const hasCross = cross.every(Boolean);
const others = world.labels.filter((label) => !hasCross || !cross.includes(label));
const pads = element("div", { class: "pads" },
  ...(hasCross ? [element("div", { class: "cross" }, ...cross.map(pad))] : []),
  element("div", { class: "others" }, ...others.map(pad)));

function hold(action) {
  held = action;
  if (action === null) return;
  if (playing) pressed = action;
  else step(action);
}

function step(action) {
  if (busy) return;
  busy = true;
  pressed = null;
  worker.postMessage({ type: "step", action, play: plays });
}

function setPlaying(on) {
  playing = on;
  due = performance.now();
  play.textContent = on ? "❚❚ Pause" : "▶ Play";
  data.playing = on;
  drawn.length = 0;
}

function tick(now) {
  requestAnimationFrame(tick);
  if (!playing || busy || now < due - 2) return; // screens draw a little early or late
  due = Math.max(due, now - 100) + (1000 * world.horizon) / Number(fps.value);
  step(pressed ?? held ?? world.idle);
}

// --- showing ---------------------------------------------------------------------------------------

const nameOf = (action) => world.labels[action].name;
const thumb = (pixels, caption) =>
  element("figure", {}, pictureOf(pixels, world.size), element("figcaption", {}, caption));

const given = world.starts.map(({ frames }) => {
  const bytes = Uint8Array.from(atob(frames), (character) => character.charCodeAt(0));
  const each = 3 * world.size ** 2;
  return [...Array(world.window).keys()].map((t) => bytes.subarray(t * each, (t + 1) * each));
});
let current = 0;
let plays = 0; // that began

function restart(start) {
  current = start;
  plays += 1;
  worker.postMessage({ type: "restart", start });
  show(start);
}

function show(start) {
  setPlaying(false);
  strip.replaceChildren(...given[start].slice(-STRIP).map((pixels) => thumb(pixels, "given")));
  draw(screen, given[start].at(-1), world.size);
  count.textContent = "frame 0";
  data.generated = 0;
}

function showFrame({ pictures, action, play: number, generated, close, milliseconds }) {
  busy = false;
  if (number !== plays) return; // it was under way when another play began
  for (const pixels of pictures) {
    strip.append(thumb(pixels, nameOf(action)));
    drawn.push(performance.now());
  }
  while (strip.children.length > STRIP) strip.firstChild.remove();
  while (drawn.length > 1 && drawn.at(-1) - drawn[0] > 2000) drawn.shift();
  draw(screen, pictures.at(-1), world.size);
  count.textContent = `frame ${generated}`;
  const perSecond = (1000 * (drawn.length - 1)) / (drawn.at(-1) - drawn[0] || 1);
  readout.textContent = `${playing ? `${perSecond.toFixed(0)} fps · ` : ""}${milliseconds.toFixed(0)} ms a step`;
  Object.assign(data, { generated, close, fps: perSecond.toFixed(1), milliseconds: milliseconds.toFixed(1) });
}

const told = {
  ready() { busy = false; curtain.remove(); data.phase = "ready"; proof.textContent = "Comparing with the engine …"; },
  frame: showFrame,
  proved({ equal, of, first, fps: fastest }) {
    const speed = `This device computes ${fastest.toFixed(fastest < 10 ? 1 : 0)} frames a second.`;
    proof.textContent = equal === of ? `The same world: ${of} of ${of} frames equal the engine’s, token for token. ${speed}`
      : `Not the same world on this device: ${of - equal} of ${of} frames differ from the engine’s, first ${first}. `
        + `Play on; but what you save may not replay token for token. ${speed}`;
    proof.classList.toggle("differs", equal !== of);
    Object.assign(data, { equal, of, fastest: fastest.toFixed(1) });
  },
  session({ text: content, close }) {
    const address = URL.createObjectURL(new Blob([content], { type: "application/json" }));
    element("a", { href: address, download: "session.json" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
    saved.textContent = close ? `In ${close} of the frames two tokens were as likely within rounding: from the first `
      + "of them on, a replay may differ." : "";
  },
  failed({ text: why }) {
    busy = false;
    proof.textContent = `This browser cannot play it: ${why}. Chrome, Edge, Firefox or Safari of 2024 or later can.`;
    proof.classList.add("differs");
    data.phase = "failed";
  },
};

// --- putting it together ---------------------------------------------------------------------------

document.querySelector("main").append(
  element("header", {}, element("h1", {}, world.title), readout),
  element("div", { class: "left" }, element("div", { class: "bezel" }, screen, curtain),
    element("div", { class: "line" }, strip, count)),
  element("div", { class: "right" }, tools, pads, settings, saved, proof),
  starts);
starts.hidden = true;
starts.append(...given.map((frames, start) => element("button", {
  type: "button", "data-start": start, title: `row ${world.starts[start].row}`,
  onclick: () => { starts.hidden = true; restart(start); root.focus(); },
}, pictureOf(frames.at(-1), world.size))));

const worker = new Worker(URL.createObjectURL(new Blob([text("worker")], { type: "text/javascript" })));
worker.onmessage = (event) => told[event.data.type](event.data);
worker.onerror = (event) => told.failed({ text: event.message ?? "its worker does not start" });
worker.postMessage({ type: "open", world, runtime: text("runtime"), wasm: text("wasm"), model: text("model") });
for (const id of ["runtime", "wasm", "model"]) document.getElementById(id).remove(); // the worker has them now

listenToKeys({ root, state: () => world, hold });
document.addEventListener("visibilitychange", () => { if (document.hidden) setPlaying(false); });
show(0);
root.focus({ preventScroll: true });
requestAnimationFrame(tick);
