// The table of keys: each action's keycaps, to take away or to add to by pressing them, and the way back.

function makeKeyTable(player, captureChord) {
  const { world, state, say } = player;
  const rows = element("div", { class: "tw-keyrows" });
  let shown = "";
  let edited = -1; // the row that a refusal is about

  const change = (id, chords) => {
    edited = id;
    say("keys", { keys: { idle: state().idle, keys: { ...state().keys, [id]: chords } } });
  };
  const add = (id, button) => {
    button.textContent = "press a key, or several together …";
    captureChord((chord) => {
      button.textContent = "add";
      const chords = state().keys[id] ?? [];
      if (chord && !chords.includes(chord)) change(id, [...chords, chord]);
    });
  };
  const row = (id, now) => {
    const chords = now.keys[id] ?? [];
    const name = `${id} ${now.labels[id].name}`;
    const caps = chords.map((chord) => element("button", {
      type: "button", "data-chord": chord, title: "take this key away", "aria-label": `take ${chord} away from ${name}`,
      onclick: () => change(id, chords.filter((other) => other !== chord)),
    }, keycaps(chord), " ×"));
    const more = element("button", { type: "button", "data-add": id, "aria-label": `add a key to ${name}` }, "add");
    more.addEventListener("click", () => add(id, more));
    return element("div", { "data-keys": id }, element("b", {}, name), ...caps, more,
      element("span", { class: "tw-refused", role: "alert" }));
  };
  const update = (now) => {
    const content = JSON.stringify([now.keys, now.labels]);
    if (content !== shown) {
      shown = content;
      rows.replaceChildren(...[...Array(world.actions).keys()].map((id) => row(id, now)));
    }
    for (const node of rows.children) {
      const about = now.about === "keys" && Number(node.dataset.keys) === edited;
      tell(node.querySelector(".tw-refused"), about ? now.note : "");
    }
  };
  const defaults = element("button", { type: "button", "data-do": "default-keys",
    onclick: () => { edited = -1; say("keys", { keys: null }); } }, "Back to the default keys");
  const table = element("details", { class: "tw-fold tw-keys", "data-fold": "keys" },
    element("summary", {}, "Keys"), rows, defaults);
  return { table, update };
}
