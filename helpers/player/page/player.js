// Puts the player together: what is on the page, what is said to the kernel, and what comes from it.
// The messages between page and kernel are listed at the top of widget.py.

const REPORT_MS = 200; // how often the kernel is told what was drawn
const UNASKED = ["hello", "bye", "seen", "hidden"]; // messages that nobody's wish stands behind

function render({ model, el }) {
  const world = model.get("world");
  const size = world.size;
  const root = element("div", {
    class: "tw-player", tabindex: 0, role: "application", "data-lm-suppress-shortcuts": "true",
    "aria-label": `${world.title}, player: keys play, Tab goes to the controls, Escape leaves`,
  });
  const note = element("div", { class: "tw-note", role: "status" });
  const saved = element("div", { class: "tw-saved", role: "status" });
  const clips = element("div", { class: "tw-clips", role: "group", "aria-label": "places to start from", hidden: true });
  const overlay = element("input", { type: "checkbox", "data-overlay": true });
  const repeat = element("input", {
    class: "tw-repeat", type: "number", min: 1, max: world.most_times, value: 1,
    title: "in pause, how many steps a key press, a button or Step takes",
  });

  // --- what the parts below may use ------------------------------------------------------------------

  let timer = 0;
  let refused = ""; // what was refused last, until something else is asked for
  const gone = (text) => {
    clearInterval(timer);
    curtain.textContent = text;
    root.dataset.gone = true;
  };
  const say = (type, content = {}) => {
    if (!UNASKED.includes(type)) refused = "";
    try {
      model.send({ type, ...content });
    } catch {
      gone("The kernel is gone: run the cell again."); // shut down: it does not know this player
    }
  };
  const meter = makeMeter({ world, say });
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

  const screen = makeScreen(player);
  const { curtain } = screen;
  const keys = listenToKeys(player);
  const pads = makePads(player);
  const idField = makeIdField(player);
  const keep = makeKeep(player);
  const futures = makeFutures(player);
  const gauge = makeGauge(player);
  const timeline = makeTimeline(player);
  const branches = makeBranches(player);
  const settings = makeSettings(player, screen.zoom);
  const keyTable = makeKeyTable(player, keys.captureChord);
  const tool = (name, text, title) =>
    element("button", { type: "button", "data-do": name, title, onclick: () => act(name) }, text);
  const play = tool("play", "▶ Play", "play on, or pause");

  root.append(
    element("div", { class: "tw-head" },
      element("strong", {}, world.title), element("span", { class: "tw-device" }, world.device), meter.readout,
      tool("full", "Full screen", "the whole screen; Escape leaves it")),
    element("div", { class: "tw-body" },
      screen.bezel,
      element("div", { class: "tw-side" },
        element("div", { class: "tw-tools" },
          play, tool("step", "Step", "a step of the idle action"),
          element("label", { class: "tw-check" }, "×", repeat)),
        pads.pads,
        element("div", { class: "tw-tools" },
          tool("whatif", "What if?", "every action, four frames ahead"),
          tool("clips", "Clips", "start from another place"), tool("reset", "Reset", "back to the clip"),
          tool("film", "Film", "save this branch as GIF and MP4, with its keys")),
        element("div", { class: "tw-line" }, idField.line, gauge.line),
        element("div", { class: "tw-said" }, gauge.lost, keep.line, keep.work, meter.slow, note, saved))),
    clips, futures.grid,
    timeline.line, timeline.strip, branches.tree,
    settings.settings,
    element("details", { class: "tw-fold", "data-fold": "save" },
      element("summary", {}, "Save"),
      element("div", { class: "tw-tools" },
        tool("png", "PNG", "save this frame"), tool("mp4", "MP4", "save the video"),
        tool("gif", "GIF", "save as GIF"), tool("session", "Session", "save to replay it"),
        element("label", { class: "tw-check" }, overlay, "ids"))),
    keyTable.table);
  el.replaceChildren(root);

  function act(name) {
    if (name === "play") say("play", { on: !player.state().playing });
    else if (name === "full") screen.fullScreen();
    else if (name === "clips") {
      futures.hide();
      clips.hidden ? say("starts") : (clips.hidden = true);
    } else if (name === "whatif") {
      clips.hidden = true;
      futures.grid.hidden ? say("what_if", { frames: 4 }) : futures.hide();
    } else if (["film", "png", "mp4", "gif", "session"].includes(name)) {
      saved.textContent = "saving …";
      say("save", { kind: name, overlay: overlay.checked });
    } else if (name === "reset") say("restart", { start: null });
    else if (name === "step") player.tap(player.state().idle);
  }

  const onHidden = () => { if (document.hidden) { keys.release(); say("hidden"); } };
  document.addEventListener("visibilitychange", onHidden);

  // --- what comes from the kernel --------------------------------------------------------------------

  let newest = null; // the step to draw next: the latest wins
  let pending = 0;
  let sequence = 0;
  let reported = 0;
  const name = (action) => (action == null ? null : player.state().labels[action].name || `action ${action}`);
  const paint = () => {
    pending = 0;
    if (!newest) return;
    const { content, buffers } = newest;
    newest = null;
    const began = performance.now();
    screen.show(buffers.at(-1), content.generated, name(content.action));
    timeline.add(buffers, content.action, content.generated);
    const { branch, tip } = player.state();
    if (content.generated > tip) branches.grow(screen.canvas, branch, content.generated);
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
      screen.show(buffers.at(-1), generated, name(actions.at(-1)));
      timeline.show(buffers, actions, generated);
      futures.hide();
    },
    starts({ rows }, buffers) {
      clips.replaceChildren(...rows.map((row, i) => {
        const pick = () => { clips.hidden = true; say("restart", { start: row }); root.focus(); };
        return element("button", { type: "button", "data-start": row, title: `row ${row}`,
          "aria-label": `row ${row}`, onclick: pick }, pictureOf(buffers[i], size));
      }));
      clips.hidden = false;
    },
    what_if: futures.begin,
    future: futures.add,
    progress: keep.progress,
    look: keep.look,
    tips: branches.tips,
    saved({ path }) { saved.textContent = path; },
    refused({ text }) {
      refused = text;
      if (saved.textContent === "saving …") saved.textContent = "";
      update();
    },
  };
  const receive = (content, buffers) => receivers[content.type]?.(content, buffers ?? []);

  const update = () => {
    const now = player.state();
    if (!now.labels) return;
    play.textContent = now.playing ? "❚❚ Pause" : "▶ Play";
    play.classList.toggle("tw-on", now.playing);
    tell(curtain, now.phase === "ready" ? "" : `${now.phase} …`);
    for (const part of [settings, timeline, branches, pads, keep, gauge, keyTable]) part.update(now);
    const beside = [...root.querySelectorAll("details[open] .tw-refused")].some((node) => node.textContent);
    tell(note, beside ? "" : now.note || refused);
    if (now.note && saved.textContent === "saving …") saved.textContent = "";
    Object.assign(root.dataset, { tip: now.tip, branch: now.branch, branches: now.branches.length,
      playing: now.playing, phase: now.phase, start: now.start });
  };

  timer = setInterval(() => {
    if (sequence !== reported) { reported = sequence; say("seen", { sequence }); }
    meter.show(player.state());
  }, REPORT_MS);
  // JupyterLab says so when the kernel restarts, dies or is shut down.
  const onLive = () => gone("The kernel was restarted: run the cell again to play on.");
  model.on("comm_live_update", onLive);
  model.on("msg:custom", receive);
  model.on("change:state", update);
  update();
  say("hello");

  return () => {
    clearInterval(timer);
    for (const part of [keys, timeline, screen, futures]) part.stop();
    model.off("comm_live_update", onLive);
    model.off("msg:custom", receive);
    model.off("change:state", update);
    document.removeEventListener("visibilitychange", onHidden);
    say("bye");
  };
}

export default { render };
