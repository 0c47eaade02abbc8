// What may be changed while it plays. Whatever is refused is said beside what it is about.

function makeSettings({ world, state, say }, zoom) {
  const row = (name, label, input) => {
    const refusal = element("span", { class: "tw-refused", "data-about": name, role: "alert" });
    return element("div", {}, element("label", {}, label, input), refusal);
  };
  const setting = (name, label, attributes) => {
    const input = element("input", { "data-set": name, ...attributes });
    // What is being typed stays while play goes on, and no longer: what is refused gives way to what holds.
    input.addEventListener("input", () => { input.dataset.typing = true; });
    const take = () => {
      delete input.dataset.typing;
      say("set", { name, value: input.value });
    };
    input.addEventListener("change", take);
    input.addEventListener("blur", () => { if (input.dataset.typing) take(); }); // the value that holds, again
    input.addEventListener("keydown", (event) => {
      if (event.code !== "Escape") return;
      delete input.dataset.typing;
      input.value = state()[name];
    });
    return row(name, label, input);
  };
  const choice = (name, label, options) => {
    const select = element("select", { "data-set": name });
    for (const [value, text] of options) select.append(element("option", { value }, text));
    select.addEventListener("change", () => {
      if (name === "idle") say("keys", { keys: { idle: Number(select.value), keys: state().keys } });
      else say("set", { name, value: select.value });
    });
    return row(name, label, select);
  };
  const ids = [...Array(world.actions).keys()];
  const rows = element("div", { class: "tw-settings" },
    setting("fps", "fps", { type: "number", min: 1, max: world.fastest, step: 1 }),
    choice("idle", "no key", ids.map((id) => [id, id])),
    setting("temperature", "temperature", { type: "number", min: 0, step: 0.1 }),
    setting("steps", "steps", { type: "number", min: 1, step: 1 }),
    setting("seed", "seed", { type: "text", inputmode: "numeric", size: 6 }),
    choice("feedback", "feedback", [["tokens", "tokens"], ["pixels", "pixels"]]),
    choice("preset", "preset", [["", "as set"]]),
    element("div", {}, element("label", {}, "size", zoom)));

  const presets = rows.querySelector('[data-set="preset"]');
  let presetsShown = "";
  const updatePresets = (now) => {
    const content = JSON.stringify([now.presets, now.preset_help]);
    presets.parentElement.title = now.preset_meaning;
    if (content === presetsShown) return;
    presetsShown = content;
    presets.replaceChildren(element("option", { value: "" }, "as set"),
      ...now.presets.map(([name, title]) =>
        element("option", { value: name, title }, name.replace("fps", " fps"))),
      ...(now.presets.length ? [] : [element("option", { disabled: true }, `to measure: ${now.preset_help}`)]));
  };
  const update = (now) => {
    updatePresets(now);
    for (const input of rows.querySelectorAll("[data-set]")) {
      if (!input.dataset.typing && input.value !== String(now[input.dataset.set])) input.value = now[input.dataset.set];
    }
    for (const refusal of rows.querySelectorAll("[data-about]")) {
      tell(refusal, now.about === refusal.dataset.about ? now.note : "");
    }
  };
  const settings = element("details", { class: "tw-fold", "data-fold": "settings" },
    element("summary", {}, "Settings"), rows);
  return { settings, update };
}
