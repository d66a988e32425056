// The Voices tab: forms within our own HTML, parts of a voice, what was typed over an update.
// A button in a [data-form] hands the form's fields over as JSON in place of its target.
(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const studio = () => window.barkStudio;
  const typed = new Map(); // field of a form: what was typed there, over an update
  let focused = null; // what had the focus, as a selector, to find its successor
  let wanted = null; // voice that was pressed, until its details are there
  let part = null; // {id, to}: plays until there
  const armed = new WeakSet();

  const subject = (element) =>
    element.closest("[data-voice]")?.dataset.voice || element.closest("[data-take]")?.dataset.take;
  const key = (field) => `${subject(field)}|${field.name}`;

  function fields(form, target) {
    const values = { target };
    for (const field of all("[name]", form)) {
      if (field.type !== "radio" || field.checked) values[field.name] = field.value;
    }
    return JSON.stringify(values);
  }

  function press(event) {
    const button = event.target.closest("[data-action]");
    const form = button?.closest("[data-form]");
    if (form) {
      const missing = all("[required]", form).find((field) => !field.value.trim());
      if (missing) {
        event.stopPropagation();
        missing.reportValidity();
        return;
      }
      if (button.matches("[data-sure]") && !armed.has(button)) {
        // the first press asks, the second does it
        event.stopPropagation();
        arm(button);
        return;
      }
      button.dataset.of ??= button.dataset.target;
      button.dataset.target = fields(form, button.dataset.of);
      for (const field of all("[name]", form)) typed.delete(key(field));
    }
    const row = event.target.closest("#voice-rows .row, #rolls [data-action=voice]");
    if (row) wanted = row.dataset.target;
    if (event.target.closest("[data-hear-part]")) hearPart(event.target.closest("article"));
  }

  function arm(button) {
    const said = button.textContent;
    armed.add(button);
    button.classList.add("armed");
    button.textContent = studio().say("surely");
    setTimeout(() => {
      armed.delete(button);
      button.classList.remove("armed");
      button.textContent = said;
    }, 4000);
  }

  // --- a part of a voice

  function moments(article) {
    const [from, to] = ["from", "to"].map((name) =>
      Number(article.querySelector(`.part [name=${name}]`).value),
    );
    return { from, to };
  }

  function hearPart(article) {
    const { from, to } = moments(article);
    part = { id: article.dataset.take, to };
    studio().playAt(article.dataset.take, from);
  }

  function endPart() {
    if (!part) return;
    const now = studio().now();
    if (now.id !== part.id) part = null;
    else if (now.playing && now.at >= part.to) {
      part = null;
      document.querySelector("#studio-audio").pause();
    }
  }

  function paintPart(article) {
    const box = article.querySelector(".part");
    const wave = article.querySelector(".wave");
    if (!box || !wave) return;
    const { from, to } = moments(article);
    const total = Number(box.dataset.seconds);
    const cut = article.querySelector("details[data-keep=keep-part]").open;
    wave.classList.toggle("cut", cut);
    wave.style.setProperty("--from", `${(100 * from) / total}%`);
    wave.style.setProperty("--to", `${(100 * to) / total}%`);
    const length = box.querySelector("[data-part-length]");
    const said = `${Math.max(0, to - from).toFixed(1)} s`;
    if (length.textContent !== said) length.textContent = said;
  }

  function input(event) {
    const field = event.target;
    const box = field.closest(".part");
    if (box) {
      // a number and a slider for each moment: one follows the other
      const name = field.name || field.dataset.of;
      for (const twin of all(`[name=${name}], [data-of=${name}]`, box)) {
        if (twin !== field) twin.value = field.value;
      }
      paintPart(box.closest("article"));
    }
    if (field.name && field.closest("[data-form]") && field.type !== "radio") {
      typed.set(key(field), field.value);
    }
  }

  // Enter in a form's line is its button
  function keydown(event) {
    const form = event.target.closest("[data-form]");
    if (event.key === "Enter" && form && event.target.matches("input:not([type=radio])")) {
      event.preventDefault();
      form.querySelector("[data-action]")?.click();
    }
  }

  // --- updates

  function address(element) {
    if (!element.closest("#voices-tab")) return null;
    const escape = CSS.escape;
    if (element.dataset.action) {
      const target = element.dataset.of ?? element.dataset.target;
      return `#${element.closest("[id]").id} [data-action="${escape(element.dataset.action)}"][data-target="${escape(target)}"]`;
    }
    if (element.dataset.hear) return `#voices-tab [data-hear="${escape(element.dataset.hear)}"]`;
    return null;
  }

  function focusin(event) {
    focused = address(event.target);
  }

  function paint() {
    endPart();
    for (const field of all("#voices-tab [data-form] [name]")) {
      const kept = typed.get(key(field));
      if (kept !== undefined && field.value !== kept) field.value = kept;
    }
    for (const article of all("#voice-details article")) paintPart(article);
    if (focused && document.activeElement === document.body) {
      document.querySelector(focused)?.focus({ preventScroll: true });
    }
    const details = document.querySelector("#voice-details article");
    if (wanted !== null && details?.dataset.voice === wanted) {
      wanted = null;
      // below the list on a narrow screen
      if (details.getBoundingClientRect().top > innerHeight * 0.7) {
        details.scrollIntoView({ block: "start" });
        details.focus({ preventScroll: true });
      }
    }
  }

  function begin() {
    document.addEventListener("click", press, true);
    document.addEventListener("input", input);
    document.addEventListener("keydown", keydown);
    document.addEventListener("focusin", focusin);
    document.addEventListener("toggle", paint, true);
    studio().whenPainted(paint);
  }

  if (document.body) begin();
  else document.addEventListener("DOMContentLoaded", begin);
})();
