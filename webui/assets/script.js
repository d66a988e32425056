// The Script tab: files that are read here, focus that survives updates, bars that grow.
// As in player.js nothing here keeps elements of the page: Gradio replaces them.
(() => {
  "use strict";
  const MAX_TEXT_BYTES = 20 * 2 ** 20;
  const MAX_SOUND_BYTES = 100 * 2 ** 20;
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const tell = (text) => window.barkStudio && window.barkStudio.tell(text);

  // ---------------------------------------------------------------- files

  // subtitles are often older than UTF-8
  function decoded(bytes) {
    const marks = { "255,254": "utf-16le", "254,255": "utf-16be" };
    const mark = marks[`${bytes[0]},${bytes[1]}`];
    if (mark) return new TextDecoder(mark).decode(bytes);
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } catch {
      return new TextDecoder("windows-1252").decode(bytes);
    }
  }

  async function read(input) {
    const file = input.files[0];
    input.value = "";
    if (!file) return null;
    if (file.size > MAX_TEXT_BYTES) {
      tell(`${file.name}: ${Math.round(file.size / 2 ** 20)} MB > 20 MB`);
      return null;
    }
    return { name: file.name, text: decoded(new Uint8Array(await file.arrayBuffer())) };
  }

  async function sendBackground(input) {
    const file = input.files[0];
    const script = input.dataset.bed;
    input.value = "";
    if (!file) return;
    if (file.size > MAX_SOUND_BYTES) {
      tell(`${file.name}: ${Math.round(file.size / 2 ** 20)} MB > 100 MB`);
      return;
    }
    try {
      const answer = await fetch(`studio/script/${script}/background`, {
        method: "PUT",
        headers: { "x-bark-studio": "1", "x-name": encodeURIComponent(file.name) },
        body: file,
      });
      if (answer.ok) return;
      const told = await answer.json();
      tell(`${told.what}. ${told.why} ${told.do}`);
    } catch {
      tell(file.name);
    }
  }

  // ---------------------------------------------------------------- progress

  let state = {};

  function fill(bar, share) {
    if (!bar) return;
    const percent = Math.round(100 * share);
    bar.setAttribute("aria-valuenow", String(percent));
    bar.firstElementChild.style.width = `${percent}%`;
  }

  function pulse(text) {
    try {
      state = JSON.parse(text || "{}");
    } catch {
      state = {};
    }
    paint();
  }

  function paint() {
    if (state.line === undefined) return;
    const line = one("[data-script-line]");
    if (line && line.textContent !== state.line) line.textContent = state.line;
    fill(one("[data-script-bar]"), state.share);
    const row = state.segment && one(`tr[data-segment="${CSS.escape(state.segment)}"]`);
    if (row) fill(one(".row-bar", row), state.part);
  }

  // ---------------------------------------------------------------- focus

  let last = null; // how to find what had the focus
  let wanted = null; // what gets it as soon as it is there
  let playWhole = false;
  let menu = null; // that was opened, and stays so when its HTML is replaced

  function key(element) {
    const inside = element.closest("#script-tab");
    if (!inside || element.closest("#script-text")) return null;
    for (const name of ["action", "change"]) {
      if (element.dataset[name] === undefined) continue;
      const target = CSS.escape(element.dataset.target || "");
      return `#${element.closest("[id]").id} [data-${name}="${element.dataset[name]}"]` +
        `[data-target="${target}"]`;
    }
    const take = element.closest("[data-take]");
    if (!take) return null;
    const part = element.matches(".play") ? ".play" : "input[type=range]";
    return `#${element.closest("[id]").id} [data-take="${CSS.escape(take.dataset.take)}"] ${part}`;
  }

  // Gradio changes fields in place: one that was typed into would keep what was typed when it
  // becomes the field of another segment, or is set from elsewhere
  function refresh() {
    for (const field of all("#script-tab [data-change]")) {
      const options = field.options && [...field.options];
      const told = options
        ? (options.find((option) => option.defaultSelected) || options[0]).value
        : field.defaultValue;
      const target = field.dataset.target;
      if (field.shownTarget === target && field.shownValue === told) continue;
      const other = field.shownTarget !== undefined && field.shownTarget !== target;
      field.shownTarget = target;
      field.shownValue = told;
      if (field === document.activeElement && !other) continue;
      if (field.value === told) continue;
      field.value = told;
      if (field === document.activeElement && field.select) field.select();
    }
  }

  function look() {
    refresh();
    if (wanted) {
      const element = one(wanted);
      if (element && element.offsetParent !== null) {
        wanted = null;
        element.focus();
        if (element.select) element.select();
      }
    } else if (last && document.activeElement === document.body) {
      const element = one(last);
      if (element && element.offsetParent !== null) element.focus({ preventScroll: true });
    }
    const list = menu && one(menu);
    if (list && !list.open) list.open = true;
    const whole = playWhole && one(".whole-script .play");
    if (whole) {
      playWhole = false;
      whole.click();
    }
    const panel = one("#script-panel");
    if (panel) panel.classList.toggle("open", one("#script-editor .panel-head") !== null);
    paint();
  }

  // ---------------------------------------------------------------- events

  function click(event) {
    const head = event.target.closest("#script-tab details.menu > summary");
    const opens = head && !head.parentElement.open;
    menu = opens ? `#${head.closest("[id]").id} details.menu` : null;
    const armed = event.target.closest("[data-arm]");
    if (armed && !armed.classList.contains("armed")) {
      // the first press asks, the second does it
      event.stopPropagation();
      armed.classList.add("armed");
      const said = armed.textContent;
      armed.textContent = armed.dataset.arm;
      setTimeout(() => {
        armed.classList.remove("armed");
        armed.textContent = said;
      }, 4000);
      return;
    }
    const button = event.target.closest("#script-tab [data-action]");
    if (button) {
      const { action } = button.dataset;
      if (action === "s-choose" || action === "s-insert") wanted = "#script-editor textarea";
      if (action === "s-mix") playWhole = true;
      if (action === "s-close" || action === "s-delete") {
        last = `#script-table [data-action="s-choose"][data-target="${button.dataset.target}"]`;
      }
      const list = button.closest("details.menu");
      if (list) list.open = false;
    }
    const voice = event.target.closest("#script-tab [data-hear]");
    if (voice && window.barkStudio) window.barkStudio.hear(voice.dataset.hear);
  }

  function change(event) {
    if (event.target.matches("[data-bed]")) sendBackground(event.target);
  }

  function keydown(event) {
    if (event.key === "Escape") menu = null;
    const inside = event.target.closest("#script-tab");
    if (!inside) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      const button = event.target.closest("#script-text") ? one("#script-update")
        : one("#script-actions [data-action=s-make]");
      if (!button) return;
      event.preventDefault();
      event.target.dispatchEvent(new Event("change", { bubbles: true }));
      setTimeout(() => button.click(), 50);
    }
    if (event.key === "Escape" && event.target.closest("#script-panel")) {
      const close = one("#script-editor [data-action=s-close]");
      if (close) close.click();
    }
  }

  // files are chosen with a label that looks like a button: it answers to the keyboard as one
  function label(event) {
    const file = event.target.closest("label.file");
    if (file && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      one("input", file).click();
    }
  }

  function begin() {
    document.addEventListener("click", click, true);
    document.addEventListener("change", change);
    document.addEventListener("keydown", keydown);
    document.addEventListener("keydown", label);
    document.addEventListener("focusin", (event) => {
      last = key(event.target);
    });
    let planned = false;
    new MutationObserver((changes) => {
      const ours = (each) => each.addedNodes.length || each.type !== "childList";
      if (planned || !changes.some(ours)) return;
      planned = true;
      requestAnimationFrame(() => {
        planned = false;
        look();
      });
    }).observe(document.body, {
      childList: true,
      subtree: true,
      characterData: true,
      attributeFilter: ["data-target", "value", "selected"],
    });
    look();
  }

  window.barkScript = { pulse, read };
  if (document.body) begin();
  else document.addEventListener("DOMContentLoaded", begin);
})();
