// What may be changed while it plays, and the table of keys.

function makeSettings({ world, state, say }, zoom) {
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
  const settings = element("div", { class: "tw-settings" },
    setting("fps", "fps", { type: "number", min: 1, max: world.fastest, step: 1 }),
    choice("idle", "no key", ids.map((id) => [id, id])),
    setting("temperature", "temperature", { type: "number", min: 0, step: 0.1 }),
    setting("steps", "steps", { type: "number", min: 1, step: 1 }),
    setting("seed", "seed", { type: "text", inputmode: "numeric", size: 6 }),
    choice("feedback", "feedback", [["tokens", "tokens"], ["pixels", "pixels"]]),
    choice("preset", "preset", [["", "as set"]]),
    element("label", {}, "size", zoom));

  const presets = settings.querySelector('[data-set="preset"]');
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
    for (const input of settings.querySelectorAll("[data-set]")) {
      if (document.activeElement !== input) input.value = now[input.dataset.set];
    }
  };
  return { settings, update };
}

function makeKeyTable({ world, state, say }, allow) {
  const rows = element("div", { class: "tw-keyrows" });
  let shown = "";
  const update = (now) => {
    const content = JSON.stringify(now.keys);
    if (content === shown || rows.contains(document.activeElement)) return;
    shown = content;
    rows.replaceChildren(...[...Array(world.actions).keys()].map((id) => {
      const input = element("input", { "data-keys": id, value: (now.keys[id] ?? []).join(" "), size: 34 });
      input.addEventListener("change", () => {
        const keys = { ...state().keys, [id]: input.value.split(/[\s,]+/).filter(Boolean) };
        allow();
        input.blur();
        say("keys", { keys: { idle: state().idle, keys } });
      });
      return element("label", {}, element("b", {}, String(id)), input);
    }));
  };
  return { table: element("details", { class: "tw-keys" }, element("summary", {}, "Keys"), rows), update };
}
