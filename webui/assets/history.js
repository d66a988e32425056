// The History tab: rows by keyboard, several at once, and files that are dropped on the page.
// As in player.js nothing here keeps elements of the page: Gradio replaces them.
(() => {
  "use strict";
  const studio = window.barkStudio;
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const KEPT = "#rows, #details, #disk, #undo";

  // ---------------------------------------------------------------- several at once

  const picked = new Set(); // ids, also of rows that aren't shown
  let anchor = null; // the row that a range begins at

  const boxes = () => all("#rows [data-pick]");

  function pick(id, wanted, range = false) {
    const ids = boxes().map((box) => box.dataset.pick);
    const from = range ? ids.indexOf(anchor) : -1;
    const to = ids.indexOf(id);
    const chosen = from < 0 ? [id] : ids.slice(Math.min(from, to), Math.max(from, to) + 1);
    for (const each of chosen) {
      if (wanted) picked.add(each);
      else picked.delete(each);
    }
    anchor = id;
    paint();
  }

  function pickNone() {
    picked.clear();
    paint();
  }

  // the server found them: more than are shown
  function pickAll(text) {
    let found = {};
    try {
      found = JSON.parse(text || "{}");
    } catch {
      return;
    }
    for (const id of found.ids || []) picked.add(id);
    paint();
  }

  function paint() {
    for (const box of boxes()) {
      box.checked = picked.has(box.dataset.pick);
      box.closest("li").classList.toggle("is-picked", box.checked);
    }
    const bar = one("#rows .picked");
    if (bar) {
      bar.hidden = picked.size === 0;
      const line = one("[data-many]", bar);
      const text = picked.size === 1 ? line.dataset.one : line.dataset.many;
      const said = picked.size ? text.replace("{n}", picked.size.toLocaleString()) : "";
      if (line.textContent !== said) line.textContent = said;
    }
    rove();
  }

  // ---------------------------------------------------------------- rows by keyboard

  let active = null; // id of the row that Tab leads to
  let waiting = null; // of the row that is chosen as soon as the arrows rest
  let wanted = null; // of the take that plays as soon as its details are there

  const rows = () => all("#rows .row");
  const idOf = (row) => row.dataset.target;

  // one row is a stop for Tab, the arrows lead to the others
  function rove() {
    const list = rows();
    if (!list.length) return;
    const held = list.find((row) => idOf(row) === active);
    const stop = held || list.find((row) => row.hasAttribute("aria-current")) || list[0];
    for (const row of list) {
      const index = row === stop ? 0 : -1;
      for (const part of all("button, input", row.closest("li"))) part.tabIndex = index;
    }
  }

  function mark(id) {
    for (const row of rows()) {
      if (idOf(row) === id) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
    active = id;
    rove();
  }

  function goTo(row) {
    if (!row) return;
    active = idOf(row);
    rove();
    row.focus();
    clearTimeout(waiting);
    waiting = setTimeout(() => row.isConnected && row.click(), 150);
  }

  function play(id) {
    const button = one(`#details [data-take="${id}"] .play`);
    if (button) {
      wanted = null;
      button.click();
      return;
    }
    wanted = id;
    clearTimeout(waiting);
    const row = rows().find((each) => idOf(each) === id);
    if (row) row.click();
  }

  function keydown(event) {
    const { key, target } = event;
    if (!target.closest || event.ctrlKey || event.metaKey || event.altKey) return;
    if (key === "Enter" && target.matches("[data-tag-for]")) {
      event.preventDefault();
      one("[data-action=tag]", target.parentElement).click();
      return;
    }
    const item = target.closest("#rows li");
    if (!item || !target.matches(".row, [data-pick]")) return;
    const list = rows();
    const row = one(".row", item);
    const at = list.indexOf(row);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: list.length - 1 }[key];
    if (to !== undefined) {
      event.preventDefault();
      const next = list[Math.max(0, Math.min(to, list.length - 1))];
      if (event.shiftKey) {
        anchor = anchor || idOf(row);
        pick(anchor, true);
        const start = anchor;
        pick(idOf(next), true, true);
        anchor = start;
      }
      goTo(next);
    } else if (key === "Enter" && target === row) {
      event.preventDefault();
      play(idOf(row));
    } else if (key === " " && target === row) {
      event.preventDefault();
      pick(idOf(row), !picked.has(idOf(row)), event.shiftKey);
    } else if (key === "f") {
      one("[data-action=favourite]", item).click();
    } else if (key === "Delete") {
      press("#details", "trash", idOf(row)) || press("#rows", "trash", idOf(row));
    } else if (key === "Escape") pickNone();
  }

  // a button of the page's own HTML, for what no button stands for
  function press(where, action, target) {
    const place = one(`${where} [data-action="${action}"]`);
    if (!place) return false;
    const button = document.createElement("button");
    Object.assign(button.dataset, { action, target, made: "" });
    button.hidden = true;
    place.parentElement.append(button);
    button.click();
    button.remove();
    return true;
  }

  // ---------------------------------------------------------------- focus

  let held = null; // what had the focus: its HTML may be replaced

  function hold(event) {
    const place = event.target.closest && event.target.closest(KEPT);
    if (!place) {
      held = null;
      return;
    }
    const { action, target, pick: box, tagFor } = event.target.dataset;
    const item = event.target.closest("#rows li");
    const index = item ? rows().indexOf(one(".row", item)) : -1;
    if (item) active = idOf(one(".row", item));
    held = { where: `#${place.id}`, action, target, box, tagFor, index };
  }

  function isSame(element) {
    const { action, target, pick: box, tagFor } = element.dataset;
    return (
      action === held.action && target === held.target && box === held.box && tagFor === held.tagFor
    );
  }

  function restoreFocus() {
    if (!held || (document.activeElement && document.activeElement !== document.body)) return;
    const root = one(held.where);
    if (!root || root.offsetParent === null) return;
    const known = held.action || held.box || held.tagFor;
    const same = known && all("button, input", root).find(isSame);
    // what was deleted is followed by the next one
    const list = rows();
    const next = list[Math.min(Math.max(held.index, 0), list.length - 1)];
    const to = same || next;
    if (to) to.focus({ preventScroll: true });
  }

  // ---------------------------------------------------------------- zips

  async function zip() {
    const format = one("#rows [data-zip-format]");
    const asked = { ids: [...picked], format: format ? format.value : "flac" };
    const told = await posted("studio/export", JSON.stringify(asked), "application/json");
    if (!told) return;
    const link = Object.assign(document.createElement("a"), { href: told.url, download: "" });
    link.click();
  }

  // what the server answers; null where it said what is wrong, and that was shown
  async function posted(url, body, type) {
    try {
      const answer = await fetch(url, { method: "POST", body, headers: { "content-type": type } });
      const told = await answer.json();
      if (answer.ok) return told;
      const origin = told.origin || [];
      studio.tell([`${told.what}.`, told.why, told.do, ...origin].filter(Boolean).join(" "));
    } catch {
      studio.tell(studio.say("unreachable"));
    }
    return null;
  }

  // ---------------------------------------------------------------- files that are opened

  async function openFile(file) {
    const told = await posted("studio/open", file, "application/octet-stream");
    const place = one("#opening [data-hint]");
    if (!told) return;
    if (!place) {
      studio.tell(studio.say("unreachable")); // the page is still being made
      return;
    }
    const action = told.kept && told.kind === "script" ? "details" : "again";
    const button = one(`[data-action="${action}"]`, place);
    button.dataset.target = told.id;
    button.click();
    studio.tell([place.dataset.done, ...(told.origin || [])].join(" "));
  }

  function askForFile() {
    const field = Object.assign(document.createElement("input"), {
      type: "file",
      accept: ".wav,.flac,.mp3,.opus,.ogg",
    });
    field.addEventListener("change", () => field.files[0] && openFile(field.files[0]));
    field.click();
  }

  const carriesFiles = (event) =>
    event.dataTransfer && [...event.dataTransfer.types].includes("Files");

  // places of the page that take files themselves
  function takesFiles(target) {
    const place = target.closest && target.closest("button, label, .block");
    return place && one("input[type=file]", place) !== null;
  }

  function hint(shown) {
    let layer = one("#studio-drop");
    const place = one("#opening [data-hint]");
    if (!layer && shown && place) {
      layer = document.createElement("div");
      layer.id = "studio-drop";
      layer.append(document.createElement("p"));
      layer.firstChild.textContent = place.dataset.hint;
      document.body.append(layer);
    }
    if (layer) layer.hidden = !shown;
  }

  function dragged(event) {
    if (!carriesFiles(event)) return;
    const own = !takesFiles(event.target);
    if (own) {
      event.preventDefault();
      event.dataTransfer.dropEffect = "copy";
    }
    hint(own);
  }

  function dropped(event) {
    hint(false);
    if (!carriesFiles(event) || takesFiles(event.target)) return;
    event.preventDefault();
    const file = event.dataTransfer.files[0];
    if (file) openFile(file);
  }

  // ---------------------------------------------------------------- events

  // before Gradio hears of it: what a button is for may be known here only
  function click(event) {
    const target = event.target;
    const button = target.closest(`:is(${KEPT}) [data-action]`);
    if (button) prepare(button, event);
    const box = target.closest("#rows [data-pick]");
    if (box) pick(box.dataset.pick, box.checked, event.shiftKey);
    if (target.closest("[data-pick-none]")) pickNone();
    if (target.closest("[data-zip]")) zip();
    if (target.closest("[data-open-file]")) askForFile();
  }

  function prepare(button, event) {
    const { action } = button.dataset;
    const several = button.closest(".picked") && button.dataset.made === undefined;
    if (action === "tag") {
      const field = one("[data-tag-for]", button.parentElement);
      const text = field.value.trim();
      if (!text) {
        event.stopPropagation();
        field.focus();
        return;
      }
      const ids = several ? [...picked].join(" ") : field.dataset.tagFor;
      button.dataset.target = `${ids}\n${text}`;
      field.value = "";
      field.focus();
    } else if (several) button.dataset.target = [...picked].join(" ");
    if (action === "trash") for (const id of button.dataset.target.split(" ")) picked.delete(id);
    if (action === "choose") {
      mark(button.dataset.target);
      clearTimeout(waiting);
    }
    if (action === "favourite") {
      const pressed = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!pressed));
    }
    paint();
  }

  function look() {
    paint();
    restoreFocus();
    if (wanted && one(`#details [data-take="${wanted}"] .play`)) play(wanted);
  }

  function begin() {
    document.addEventListener("click", click, true);
    document.addEventListener("keydown", keydown);
    document.addEventListener("focusin", hold);
    document.addEventListener("pointerdown", (event) => {
      if (!event.target.closest(KEPT)) held = null;
    });
    document.addEventListener("dragenter", dragged);
    document.addEventListener("dragover", dragged);
    document.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) hint(false);
    });
    document.addEventListener("drop", dropped);
    document.addEventListener("dragend", () => hint(false));
    studio.whenPainted(look);
  }

  Object.assign(studio, { picked: pickAll });
  if (document.body) begin();
  else document.addEventListener("DOMContentLoaded", begin);
})();
