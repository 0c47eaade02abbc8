// The actions: a pad for each, and a field for ids.

// What is known of an action, for who points at its pad.
function explanation(label) {
  if (label.dead) return "hardly ever seen in the data: nobody knows what it does";
  const share = label.count ? `${Math.round(100 * label.share)}% of the data's actions` : "";
  if (label.certainty != null) {
    return `${share}; stands for “${label.name}” ${Math.round(100 * label.certainty)}% of the time`;
  }
  const motion = label.motion.map((part) => part.toFixed(1)).join(", ");
  return label.count ? `${share}; effect ${label.arrow}: the player moves ${motion} pixels a frame (right, down)` : "";
}

function makePads(player) {
  const { world, root } = player;
  const pads = element("div", { class: "tw-pads", role: "group", "aria-label": "actions" });
  const buttons = [...Array(world.actions).keys()].map((id) => {
    const button = element("button", { type: "button", "data-action": id });
    button.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      root.focus({ preventScroll: true });
      player.hold(id);
    });
    for (const name of ["pointerup", "pointerleave", "pointercancel"]) {
      button.addEventListener(name, (event) => {
        if (event.type === "pointerup" || event.buttons) player.hold(null);
      });
    }
    button.addEventListener("click", (event) => {
      if (event.detail === 0) player.tap(id); // not by a pointer: Space, Enter, a screen reader
    });
    pads.append(button);
    return button;
  });

  let shown = "";
  const update = (now) => {
    const content = JSON.stringify([now.labels, now.keys]);
    if (content === shown) return;
    shown = content;
    now.labels.forEach((label, id) => {
      const [key] = (now.keys[id] ?? []).filter((chord) => !/^(Digit|Numpad)/.test(chord));
      buttons[id].replaceChildren(
        element("small", {}, String(id)), element("b", {}, label.name || "–"), ...(key ? [keycaps(key)] : []));
      buttons[id].classList.toggle("tw-dead", label.dead);
      buttons[id].title = explanation(label);
    });
  };
  return { pads, update };
}

function makeIdField(player) {
  const last = player.world.actions - 1;
  const refusal = element("span", { class: "tw-refusal", role: "alert" });
  const field = element("input", {
    class: "tw-field", placeholder: `id 0–${last}`, "aria-label": `action id, 0 to ${last}`, inputmode: "numeric",
    size: 7, title: "type an action id and press Enter",
  });
  field.addEventListener("input", () => tell(refusal, ""));
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const text = field.value.trim();
    const fits = /^\d{1,8}$/.test(text) && Number(text) <= last;
    tell(refusal, fits ? "" : `${text || "nothing"} is no action id: 0 to ${last}`);
    if (fits) player.tap(Number(text));
    field.select();
  });
  return { line: element("div", { class: "tw-line" }, field, refusal), refusal };
}
