// Puts the player together: what is on the page, what is said to the kernel, and what comes from it.
// The messages between page and kernel are listed at the top of widget.py.

const REPORT_MS = 200; // how often the kernel is told what was drawn

function render({ model, el }) {
  const world = model.get("world");
  const size = world.size;
  const root = element("div", { class: "tw-player", tabindex: 0, "data-lm-suppress-shortcuts": "true" });
  const screen = element("canvas", { class: "tw-screen", width: size, height: size });
  const curtain = element("div", { class: "tw-curtain" });
  const note = element("div", { class: "tw-note", role: "status" });
  const saved = element("div", { class: "tw-saved" });
  const clips = element("div", { class: "tw-clips", hidden: true });
  const overlay = element("input", { type: "checkbox", "data-overlay": true });
  const zoom = element("input", { class: "tw-size", type: "range", min: 2, max: 12, value: 6 });
  const repeat = element("input", {
    class: "tw-repeat", type: "number", min: 1, max: world.most_times, value: 1,
    title: "in pause, how many steps a key press, a button or Step takes",
  });

  // --- what the parts below may use ------------------------------------------------------------------

  let timer = 0;
  const say = (type, content = {}) => {
    try {
      model.send({ type, ...content });
    } catch {
      // A kernel that was restarted or shut down does not know this player.
      clearInterval(timer);
      curtain.textContent = "The kernel is gone: run the cell again.";
    }
  };
  const meter = makeMeter();
  const press = () => ({
    press: meter.press(), times: Math.min(Math.max(Math.round(repeat.value), 1), world.most_times),
  });
  const player = {
    world, root, say,
    state: () => model.get("state"),
    hold: (action) => say("hold", action == null ? { action } : { action, ...press() }),
    tap: (action) => say("tap", { action, ...press() }),
  };

  // --- what is on the page ---------------------------------------------------------------------------

  const pads = makePads(player);
  const idField = makeIdField(player);
  const keep = makeKeep(player);
  const futures = makeFutures(player);
  const gauge = makeGauge(player);
  const timeline = makeTimeline(player);
  const settings = makeSettings(player, zoom);
  const keyTable = makeKeyTable(player, () => { idField.refusal.textContent = ""; });
  const tool = (name, text, title) =>
    element("button", { type: "button", "data-do": name, title, onclick: () => act(name) }, text);
  const play = tool("play", "▶ Play", "play on, or pause");

  root.append(
    element("div", { class: "tw-head" },
      element("strong", {}, world.title), element("span", { class: "tw-device" }, world.device), meter.readout),
    element("div", { class: "tw-body" },
      element("div", { class: "tw-left" },
        element("div", { class: "tw-bezel" }, screen, curtain), timeline.line, timeline.strip, keep.work,
        gauge.line, gauge.lost),
      element("div", { class: "tw-right" },
        element("div", { class: "tw-tools" },
          play, tool("step", "Step", "a step of the idle action"),
          element("label", { class: "tw-check" }, "×", repeat), tool("reset", "Reset", "back to the clip"),
          tool("clips", "Clips", "start from another place")),
        keep.line,
        pads.pads,
        idField.line,
        settings.settings,
        element("div", { class: "tw-tools" },
          tool("whatif", "What if?", "every action, four frames ahead"),
          tool("png", "PNG", "save this frame"), tool("mp4", "MP4", "save the video"),
          tool("gif", "GIF", "save as GIF"), tool("session", "Session", "save to replay it"),
          element("label", { class: "tw-check" }, overlay, "ids")),
        saved, note,
        keyTable.table)),
    clips, futures.grid);
  el.replaceChildren(root);

  function act(name) {
    root.focus({ preventScroll: true });
    if (name === "play") say("play", { on: !player.state().playing });
    else if (name === "clips") clips.hidden ? say("starts") : (clips.hidden = true);
    else if (name === "whatif") futures.grid.hidden ? say("what_if", { frames: 4 }) : futures.hide();
    else if (["png", "mp4", "gif", "session"].includes(name)) {
      saved.textContent = "saving …";
      say("save", { kind: name, overlay: overlay.checked });
    } else if (name === "reset") say("restart", { start: null });
    else if (name === "step") player.tap(player.state().idle);
  }

  const resize = () => {
    // Whole screen pixels for every pixel of the frame: otherwise some rows come out wider than others.
    screen.style.width = `${size * Math.max(1, Math.round((zoom.value * 64) / size))}px`;
    root.style.setProperty("--tw-thumb", `${Math.max(26, (64 * zoom.value + 20) / STRIP - 3)}px`);
  };
  zoom.addEventListener("input", resize);
  resize();

  const keys = listenToKeys(player);
  const onHidden = () => { if (document.hidden) { keys.release(); say("hidden"); } };
  document.addEventListener("visibilitychange", onHidden);

  // --- what comes from the kernel --------------------------------------------------------------------

  let newest = null; // the step to draw next: the latest wins
  let pending = 0;
  let sequence = 0;
  let reported = 0;
  const paint = () => {
    pending = 0;
    if (!newest) return;
    const { content, buffers } = newest;
    newest = null;
    const began = performance.now();
    draw(screen, buffers.at(-1), size);
    timeline.add(buffers, content.action, content.generated);
    root.dataset.seen = sequence = content.sequence;
    meter.drawn(content, began);
    gauge.show(content);
  };

  const receivers = {
    frame(content, buffers) {
      newest = { content, buffers };
      futures.hide();
      // A hidden page draws nothing, and must not look as if it lagged behind for ever.
      if (!pending) pending = document.hidden ? setTimeout(paint, 0) : requestAnimationFrame(paint);
    },
    strip({ actions, generated }, buffers) {
      newest = null;
      meter.jumped();
      draw(screen, buffers.at(-1), size);
      timeline.show(buffers, actions, generated);
      futures.hide();
    },
    starts({ rows }, buffers) {
      clips.replaceChildren(...rows.map((row, i) => {
        const pick = () => { clips.hidden = true; say("restart", { start: row }); root.focus(); };
        return element("button", { type: "button", "data-start": row, title: `row ${row}`, onclick: pick },
          pictureOf(buffers[i], size));
      }));
      clips.hidden = false;
    },
    what_if: futures.begin,
    future: futures.add,
    progress: keep.progress,
    look: keep.look,
    saved({ path }) { saved.textContent = path; },
    refused({ text }) {
      idField.refusal.textContent = text;
      if (saved.textContent === "saving …") saved.textContent = "";
    },
  };
  const receive = (content, buffers) => receivers[content.type]?.(content, buffers ?? []);

  const update = () => {
    const now = player.state();
    if (!now.labels) return;
    play.textContent = now.playing ? "❚❚ Pause" : "▶ Play";
    play.classList.toggle("tw-on", now.playing);
    curtain.textContent = now.phase === "ready" ? "" : `${now.phase} …`;
    note.textContent = now.note;
    if (now.note && saved.textContent === "saving …") saved.textContent = "";
    for (const part of [settings, timeline, pads, keep, gauge, keyTable]) part.update(now);
    Object.assign(root.dataset, { tip: now.tip, branch: now.branch, branches: now.branches.length,
      playing: now.playing, phase: now.phase, start: now.start });
  };

  timer = setInterval(() => {
    if (sequence !== reported) { reported = sequence; say("seen", { sequence }); }
    meter.show();
  }, REPORT_MS);
  model.on("msg:custom", receive);
  model.on("change:state", update);
  update();
  say("hello");

  return () => {
    clearInterval(timer);
    keys.stop();
    timeline.stop();
    model.off("msg:custom", receive);
    model.off("change:state", update);
    document.removeEventListener("visibilitychange", onHidden);
    futures.stop();
    say("bye");
  };
}

export default { render };
