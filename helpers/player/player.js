// The player on the page: a canvas, and the buttons, fields and keys around it.
// The messages between page and kernel are listed at the top of widget.py.

const REPORT_MS = 200; // how often the kernel is told what was drawn
const STRIP = 12;

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

function draw(canvas, buffer, size) {
  const rgb = new Uint8Array(buffer.buffer ?? buffer, buffer.byteOffset ?? 0, size * size * 3);
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0, j = 0; i < pixels.length; i += 1, j += 3) {
    pixels[i] = 0xff000000 | (rgb[j + 2] << 16) | (rgb[j + 1] << 8) | rgb[j]; // little-endian RGBA
  }
  context.putImageData(image, 0, 0);
}

// Keys that would leave the player stay the browser's.
const isBrowserKey = (event) => event.ctrlKey || event.metaKey || event.altKey || event.code === "Tab";
const isField = (target) => ["INPUT", "SELECT", "TEXTAREA"].includes(target.tagName);

const KEY_NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Space: "␣" };
const keyName = (chord) =>
  chord.split("+").map((code) => KEY_NAMES[code] ?? code.replace(/^(Key|Digit|Numpad)/, "")).join("+");

// A gamepad's buttons, numbered as browsers do, and the keys that they stand for; axes 0 and 1 are the left stick.
const PAD_KEYS = { 0: "Space", 1: "KeyE", 2: "KeyC", 12: "ArrowUp", 13: "ArrowDown", 14: "ArrowLeft", 15: "ArrowRight" };
const STICK_KEYS = [["ArrowLeft", "ArrowRight"], ["ArrowUp", "ArrowDown"]];

function gamepads() {
  try {
    return [...navigator.getGamepads()].filter(Boolean);
  } catch {
    return []; // not on a page without https or localhost, nor in every frame
  }
}

function padKeys(pad) {
  const keys = Object.entries(PAD_KEYS).filter(([number]) => pad.buttons[number]?.pressed).map(([, key]) => key);
  STICK_KEYS.forEach((ways, axis) => { if (Math.abs(pad.axes[axis]) > 0.5) keys.push(ways[Number(pad.axes[axis] > 0)]); });
  return keys;
}

function render({ model, el }) {
  const world = model.get("world");
  const size = world.size;
  const say = (type, content = {}) => {
    try {
      model.send({ type, ...content });
    } catch {
      // A kernel that was restarted or shut down does not know this player.
      clearInterval(timer);
      curtain.textContent = "The kernel is gone: run the cell again.";
    }
  };
  const state = () => model.get("state");
  let timer = 0;

  // --- what is on the page ---------------------------------------------------------------------------

  const screen = element("canvas", { class: "tw-screen", width: size, height: size });
  const curtain = element("div", { class: "tw-curtain" });
  const timeline = element("input", {
    class: "tw-timeline", type: "range", min: 0, max: 0, step: world.horizon, value: 0,
    title: "drag back, then play on from there: that opens a branch",
  });
  const count = element("span", { class: "tw-count" });
  const strip = element("div", { class: "tw-strip" });
  const readout = element("div", { class: "tw-readout" });
  const note = element("div", { class: "tw-note", role: "status" });
  const saved = element("div", { class: "tw-saved" });
  const refusal = element("span", { class: "tw-refusal", role: "alert" });
  const pads = element("div", { class: "tw-pads" });
  const branches = element("select", { class: "tw-branches", title: "branches of this play" });
  const whatIf = element("img", { class: "tw-whatif", alt: "the frames that each action leads to" });
  const clips = element("div", { class: "tw-clips" });
  const keyRows = element("div", { class: "tw-keyrows" });
  const overlay = element("input", { type: "checkbox", "data-overlay": true });
  const zoom = element("input", { class: "tw-size", type: "range", min: 2, max: 12, value: 6 });
  const field = element("input", {
    class: "tw-field", placeholder: `id 0–${world.actions - 1}`, inputmode: "numeric", size: 7,
    title: "type an action id and press Enter",
  });

  const repeat = element("input", {
    class: "tw-repeat", type: "number", min: 1, max: world.most_times, value: 1,
    title: "in pause, how many steps a key press, a button or Step takes",
  });

  const tool = (name, text, title) =>
    element("button", { type: "button", "data-do": name, title, onclick: () => act(name) }, text);
  const play = tool("play", "▶ Play", "play on, or pause");

  const setting = (name, label, attributes) => {
    const input = element("input", { "data-set": name, ...attributes });
    input.addEventListener("change", () => say("set", { name, value: input.value }));
    return element("label", {}, label, input);
  };
  const choice = (name, label, options) => {
    const select = element("select", { "data-set": name });
    for (const [value, text] of options) select.append(element("option", { value }, text));
    select.addEventListener("change", () => {
      if (name === "idle") say("keys", { keys: { idle: Number(select.value), keys: state().keys } });
      else say("set", { name, value: select.value });
    });
    return element("label", {}, label, select);
  };
  const ids = [...Array(world.actions).keys()];

  const root = element("div", { class: "tw-player", tabindex: 0, "data-lm-suppress-shortcuts": "true" },
    element("div", { class: "tw-head" },
      element("strong", {}, world.title), element("span", { class: "tw-device" }, world.device), readout),
    element("div", { class: "tw-body" },
      element("div", { class: "tw-left" },
        element("div", { class: "tw-bezel" }, screen, curtain),
        element("div", { class: "tw-time" }, timeline, count, branches),
        strip),
      element("div", { class: "tw-right" },
        element("div", { class: "tw-tools" },
          play, tool("step", "Step", "a step of the idle action"),
          element("label", { class: "tw-check" }, "×", repeat), tool("reset", "Reset", "back to the clip"),
          tool("clips", "Clips", "start from another place")),
        pads,
        element("div", { class: "tw-line" }, field, refusal),
        element("div", { class: "tw-settings" },
          setting("fps", "fps", { type: "number", min: 1, max: world.fastest, step: 1 }),
          choice("idle", "no key", ids.map((id) => [id, id])),
          setting("temperature", "temperature", { type: "number", min: 0, step: 0.1 }),
          setting("steps", "steps", { type: "number", min: 1, step: 1 }),
          setting("seed", "seed", { type: "text", inputmode: "numeric", size: 6 }),
          choice("feedback", "feedback", [["tokens", "tokens"], ["pixels", "pixels"]]),
          choice("preset", "preset", [["", "as set"]]),
          element("label", {}, "size", zoom)),
        element("div", { class: "tw-tools" },
          tool("whatif", "What if?", "every action, four frames ahead"),
          tool("png", "PNG", "save this frame"), tool("mp4", "MP4", "save the video"),
          tool("gif", "GIF", "save as GIF"), tool("session", "Session", "save to replay it"),
          element("label", { class: "tw-check" }, overlay, "ids")),
        saved, note,
        element("details", { class: "tw-keys" }, element("summary", {}, "Keys"), keyRows))),
    clips, whatIf);
  el.replaceChildren(root);

  // --- doing -----------------------------------------------------------------------------------------

  const pressTimes = new Map(); // by the number of the press, until its frame is drawn
  let presses = 0;
  const press = () => {
    presses += 1;
    pressTimes.set(presses, performance.now());
    if (pressTimes.size > 50) pressTimes.delete(pressTimes.keys().next().value);
    return { press: presses, times: Math.min(Math.max(Math.round(repeat.value), 1), world.most_times) };
  };
  const hold = (action) => say("hold", action == null ? { action } : { action, ...press() });

  function act(name) {
    root.focus({ preventScroll: true });
    if (name === "play") say("play", { on: !state().playing });
    else if (name === "clips") clips.hidden ? say("starts") : (clips.hidden = true);
    else if (name === "whatif") whatIf.hidden ? say("what_if", { frames: 4 }) : (whatIf.hidden = true);
    else if (["png", "mp4", "gif", "session"].includes(name)) {
      saved.textContent = "saving …";
      say("save", { kind: name, overlay: overlay.checked });
    } else if (name === "reset") say("restart", { start: null });
    else if (name === "step") say("tap", { action: state().idle, ...press() });
  }
  clips.hidden = whatIf.hidden = true;

  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const text = field.value.trim();
    const fits = /^\d{1,8}$/.test(text) && Number(text) < world.actions;
    refusal.textContent = fits ? "" : `${text || "nothing"} is no action id: 0 to ${world.actions - 1}`;
    if (fits) say("tap", { action: Number(text), ...press() });
    field.select();
  });

  let rewindAt = 0;
  let rewindTimer = 0;
  const rewind = (to) => {
    // A dragged finger moves faster than the kernel can follow; where it stops is always sent.
    clearTimeout(rewindTimer);
    const wait = Math.max(0, rewindAt + 60 - performance.now());
    rewindTimer = setTimeout(() => { rewindAt = performance.now(); say("rewind", { to }); }, wait);
  };
  timeline.addEventListener("input", () => rewind(Number(timeline.value)));
  const figureAt = (event) => document.elementFromPoint(event.clientX, event.clientY)?.closest("figure");
  let dragged = null;
  const drag = (event) => {
    const figure = figureAt(event);
    if (!figure || !strip.contains(figure) || figure === dragged) return;
    dragged = figure;
    if (Number(figure.dataset.frame) >= 0) rewind(Number(figure.dataset.frame));
  };
  strip.addEventListener("pointerdown", (event) => { event.preventDefault(); dragged = null; drag(event); });
  strip.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
  branches.addEventListener("change", () => say("select", { branch: Number(branches.value) }));

  const resize = () => {
    // Whole screen pixels for every pixel of the frame: otherwise some rows come out wider than others.
    screen.style.width = `${size * Math.max(1, Math.round((zoom.value * 64) / size))}px`;
    root.style.setProperty("--tw-thumb", `${Math.max(26, (64 * zoom.value + 20) / STRIP - 3)}px`);
  };
  zoom.addEventListener("input", resize);
  resize();

  // --- keys ------------------------------------------------------------------------------------------

  const down = new Set();
  let held = null;
  const actionOfKeys = () => {
    const order = [...down]; // as they were pressed: of chords that are equally long the latest counts
    let best = null;
    let length = 0;
    let latest = -1;
    for (const [action, chords] of Object.entries(state().keys ?? {})) {
      for (const chord of chords) {
        const codes = chord.split("+");
        const pressed = codes.map((code) => order.indexOf(code));
        const newest = Math.max(...pressed);
        if (pressed.includes(-1) || codes.length < length || (codes.length === length && newest < latest)) continue;
        [best, length, latest] = [Number(action), codes.length, newest];
      }
    }
    return best;
  };
  const holdKeys = () => {
    const action = actionOfKeys();
    if (action !== held) { held = action; hold(action); }
  };
  const release = () => { down.clear(); holdKeys(); };
  const onKey = (event) => {
    event.stopPropagation(); // JupyterLab must not take it for a command
    if (isField(event.target) || isBrowserKey(event)) return;
    if (event.code === "Enter" && event.target.closest("button, summary")) return; // presses it
    event.preventDefault();
    if (event.repeat) return;
    if (event.type === "keydown") down.add(event.code);
    else down.delete(event.code);
    holdKeys();
  };
  root.addEventListener("keydown", onKey);
  root.addEventListener("keyup", onKey);
  root.addEventListener("focusout", (event) => { if (!root.contains(event.relatedTarget)) release(); });
  let padDown = new Set();
  let polling = 0;
  const poll = () => {
    const found = gamepads();
    // Like the keyboard it is that of the player which was clicked.
    const now = new Set(root.matches(":focus-within") ? found.flatMap(padKeys) : []);
    for (const code of padDown) if (!now.has(code)) down.delete(code);
    for (const code of now) if (!padDown.has(code)) down.add(code);
    padDown = now;
    holdKeys();
    polling = found.length ? requestAnimationFrame(poll) : 0;
  };
  const onGamepad = () => { if (!polling) poll(); };
  window.addEventListener("gamepadconnected", onGamepad);
  const onHidden = () => { if (document.hidden) { release(); say("hidden"); } };
  document.addEventListener("visibilitychange", onHidden);

  // --- showing ---------------------------------------------------------------------------------------

  const drawTimes = []; // of the last frames
  let newest = null; // the step to draw next: the latest wins
  let sequence = 0;
  let generated = 0;
  let reported = 0;
  let last = {};

  const thumb = (buffer, action, frame) => {
    const canvas = element("canvas", { width: size, height: size });
    draw(canvas, buffer, size);
    const text = frame <= 0 && action == null ? "given" : action == null ? "–" : String(action);
    return element("figure", { "data-frame": frame, title: `frame ${frame}` }, canvas,
      element("figcaption", {}, text));
  };

  function showStep(content, buffers) {
    const began = performance.now();
    draw(screen, buffers.at(-1), size);
    sequence = content.sequence;
    generated = content.generated;
    buffers.forEach((buffer, i) => {
      strip.append(thumb(buffer, content.action, generated - buffers.length + 1 + i));
    });
    while (strip.children.length > STRIP) strip.firstChild.remove();
    const now = performance.now();
    drawTimes.push(now);
    while (drawTimes.length > 60 || now - drawTimes[0] > 2000) drawTimes.shift();
    const pressed = pressTimes.get(content.press);
    if (pressed !== undefined) { last.latency = now - pressed; pressTimes.clear(); }
    Object.assign(last, { model: 1000 * content.model, transfer: 1000 * content.transfer, draw: now - began });
    root.dataset.seen = sequence;
    count.textContent = `frame ${generated}`;
    if (document.activeElement !== timeline) {
      timeline.max = Math.max(Number(timeline.max), generated);
      timeline.value = generated;
    }
    root.dataset.generated = generated;
  }

  function showTimes() {
    const rate = drawTimes.length > 1 ? (1000 * (drawTimes.length - 1)) / (drawTimes.at(-1) - drawTimes[0]) : 0;
    const rounded = (value) => (value === undefined ? "–" : value.toFixed(value < 10 ? 1 : 0));
    const { model: ms, transfer, draw: drawing, latency } = last;
    readout.textContent = `${rate.toFixed(0)} fps · model ${rounded(ms)} · transfer ${rounded(transfer)} · ` +
      `draw ${rounded(drawing)} ms` + (latency === undefined ? "" : ` · key to frame ${rounded(latency)} ms`);
    Object.assign(readout.dataset, {
      fps: rate.toFixed(1), modelMs: ms ?? "", transferMs: transfer ?? "", drawMs: drawing ?? "",
      latencyMs: latency ?? "",
    });
  }

  let pending = 0;
  const paint = () => {
    pending = 0;
    if (!newest) return;
    const { content, buffers } = newest;
    newest = null;
    showStep(content, buffers);
  };

  function receive(content, buffers) {
    const pictures = buffers ?? [];
    if (content.type === "frame") {
      newest = { content, buffers: pictures };
      // A hidden page draws nothing, and must not look as if it lagged behind for ever.
      if (!pending) pending = document.hidden ? setTimeout(paint, 0) : requestAnimationFrame(paint);
    } else if (content.type === "strip") {
      newest = null;
      generated = content.generated;
      drawTimes.length = 0;
      const first = generated - pictures.length + 1;
      strip.replaceChildren(...pictures.map((buffer, i) => thumb(buffer, content.actions[i], first + i)));
      draw(screen, pictures.at(-1), size);
      if (document.activeElement !== timeline) timeline.value = generated;
      root.dataset.generated = generated;
      count.textContent = `frame ${generated}`;
      whatIf.hidden = true;
    } else if (content.type === "starts") {
      clips.replaceChildren(...content.rows.map((row, i) => {
        const canvas = element("canvas", { width: size, height: size });
        draw(canvas, pictures[i], size);
        const pick = () => { clips.hidden = true; say("restart", { start: row }); root.focus(); };
        return element("button", { type: "button", "data-start": row, title: `row ${row}`, onclick: pick }, canvas);
      }));
      clips.hidden = false;
    } else if (content.type === "what_if") {
      URL.revokeObjectURL(whatIf.src);
      whatIf.src = URL.createObjectURL(new Blob([pictures[0]], { type: "image/png" }));
      whatIf.hidden = false;
    } else if (content.type === "saved") {
      saved.textContent = content.path;
    } else if (content.type === "refused") {
      refusal.textContent = content.text;
      if (saved.textContent === "saving …") saved.textContent = "";
    }
  }

  function update() {
    const now = state();
    if (!now.labels) return;
    play.textContent = now.playing ? "❚❚ Pause" : "▶ Play";
    play.classList.toggle("tw-on", now.playing);
    curtain.textContent = now.phase === "ready" ? "" : `${now.phase} …`;
    note.textContent = now.note;
    if (now.note && saved.textContent === "saving …") saved.textContent = "";
    updatePresets(now);
    const given = { preset: now.preset, fps: now.fps, temperature: now.temperature, steps: now.steps, seed: now.seed,
      feedback: now.feedback, idle: now.idle };
    for (const [name, value] of Object.entries(given)) {
      const input = root.querySelector(`[data-set="${name}"]`);
      if (document.activeElement !== input) input.value = value;
    }
    timeline.max = now.tip;
    branches.replaceChildren(...now.branches.map((branch) =>
      element("option", { value: branch.id, selected: branch.id === now.branch },
        branch.parent === null ? `branch 0 · ${branch.generated} frames`
          : `branch ${branch.id} · from ${branch.parent} at ${branch.at} · ${branch.generated} frames`)));
    branches.hidden = now.branches.length < 2;
    Object.assign(root.dataset, { tip: now.tip, branch: now.branch, branches: now.branches.length,
      playing: now.playing, phase: now.phase, start: now.start });
    updatePads(now);
    updateKeys(now);
  }

  const padButtons = ids.map((id) => {
    const button = element("button", { type: "button", "data-action": id });
    button.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      root.focus({ preventScroll: true });
      hold(id);
    });
    for (const name of ["pointerup", "pointerleave", "pointercancel"]) {
      button.addEventListener(name, (event) => {
        if (event.type === "pointerup" || event.buttons) say("hold", { action: null });
      });
    }
    button.addEventListener("click", (event) => {
      if (event.detail === 0) say("tap", { action: id, ...press() }); // not by a pointer: a screen reader
    });
    pads.append(button);
    return button;
  });

  const presets = root.querySelector('[data-set="preset"]');
  let presetsShown = "";
  function updatePresets(now) {
    const content = JSON.stringify([now.presets, now.preset_help]);
    presets.parentElement.title = now.preset_meaning;
    if (content === presetsShown) return;
    presetsShown = content;
    presets.replaceChildren(element("option", { value: "" }, "as set"),
      ...now.presets.map(([name, title]) =>
        element("option", { value: name, title }, name.replace("fps", " fps"))),
      ...(now.presets.length ? [] : [element("option", { disabled: true }, `to measure: ${now.preset_help}`)]));
  }

  let padsShown = "";
  function updatePads(now) {
    const content = JSON.stringify([now.labels, now.keys]);
    if (content === padsShown) return;
    padsShown = content;
    now.labels.forEach((label, id) => {
      const keys = (now.keys[id] ?? []).filter((chord) => !/^(Digit|Numpad)/.test(chord)).slice(0, 1);
      padButtons[id].replaceChildren(
        element("b", {}, String(id)),
        element("span", {}, label.name),
        element("small", {}, [label.count ? `${label.arrow} ${Math.round(100 * label.share)}%` : "",
          ...keys.map(keyName)].filter(Boolean).join(" · ")));
      padButtons[id].classList.toggle("tw-dead", label.dead);
      padButtons[id].title = label.dead ? "hardly ever seen in the data: nobody knows what it does"
        : `mean motion ${label.motion.map((part) => part.toFixed(1)).join(", ")} pixels a frame`
          + (label.certainty == null ? ""
            : `; stands for “${label.name}” ${Math.round(100 * label.certainty)}% of the time`);
    });
  }

  let keysShown = "";
  function updateKeys(now) {
    const content = JSON.stringify(now.keys);
    if (content === keysShown || keyRows.contains(document.activeElement)) return;
    keysShown = content;
    keyRows.replaceChildren(...ids.map((id) => {
      const input = element("input", { "data-keys": id, value: (now.keys[id] ?? []).join(" "), size: 34 });
      input.addEventListener("change", () => {
        const keys = { ...state().keys, [id]: input.value.split(/[\s,]+/).filter(Boolean) };
        refusal.textContent = "";
        input.blur();
        say("keys", { keys: { idle: state().idle, keys } });
      });
      return element("label", {}, element("b", {}, String(id)), input);
    }));
  }

  timer = setInterval(() => {
    if (sequence !== reported) { reported = sequence; say("seen", { sequence }); }
    showTimes();
  }, REPORT_MS);
  model.on("msg:custom", receive);
  model.on("change:state", update);
  update();
  say("hello");
  onGamepad(); // one that the page knows already

  return () => {
    clearInterval(timer);
    clearTimeout(rewindTimer);
    model.off("msg:custom", receive);
    model.off("change:state", update);
    document.removeEventListener("visibilitychange", onHidden);
    window.removeEventListener("gamepadconnected", onGamepad);
    cancelAnimationFrame(polling);
    URL.revokeObjectURL(whatIf.src);
    say("bye");
  };
}

export default { render };
