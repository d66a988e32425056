// The Generate tab: cues at the cursor, the list of voices, menus, drafts, comparing takes.
// As in player.js nothing here keeps elements of the page: Gradio replaces them.
(() => {
  "use strict";
  const studio = window.barkStudio;
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const drafts = "bark-studio-settings";
  const prompt = () => one("#prompt textarea");

  // ---------------------------------------------------------------- drafts

  function recall() {
    return sessionStorage.getItem(drafts) || "";
  }

  function keep(values) {
    sessionStorage.setItem(drafts, JSON.stringify(values));
  }

  // ---------------------------------------------------------------- cues

  // as if it was typed: the browser's undo knows it
  function write(field, text, from, to) {
    field.focus();
    field.setSelectionRange(from, to);
    if (document.execCommand("insertText", false, text)) return;
    field.setRangeText(text, from, to, "end");
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function insertCue(button) {
    const field = prompt();
    if (!field) return;
    const { cue, cueKind } = button.dataset;
    const { selectionStart: from, selectionEnd: to, value } = field;
    const chosen = value.slice(from, to);
    if (cueKind === "capitals") {
      const [start, end] = chosen ? [from, to] : wordAt(value, from);
      const upper = value.slice(start, end).toLocaleUpperCase();
      if (upper) write(field, upper, start, end);
      else field.focus();
      return;
    }
    if (cueKind === "wrap" && chosen) {
      write(field, `${cue} ${chosen.trim()} ${cue}`, from, to);
      return;
    }
    const before = value.slice(0, from);
    const after = value.slice(to);
    const text = cueKind === "wrap" ? `${cue}  ${cue}` : cue;
    const left = before && !/\s$/.test(before) && !/^[.…,]/.test(cue) ? " " : "";
    const right = after && /^[\s.,;:!?…]/.test(after) ? "" : " ";
    write(field, `${left}${text}${right}`, from, to);
    if (cueKind === "wrap") {
      const inside = from + left.length + cue.length + 1;
      field.setSelectionRange(inside, inside);
    }
  }

  function wordAt(value, at) {
    const start = value.slice(0, at).search(/[^\s]*$/);
    const rest = value.slice(at).search(/\s|$/);
    return [start, at + rest];
  }

  function explainCue(event) {
    const button = event.target.closest && event.target.closest("[data-cue]");
    const line = one("[data-cue-about]");
    if (button && line) line.textContent = button.title;
  }

  // ---------------------------------------------------------------- voices

  const wanted = { words: "", language: "", kind: "" };

  function filterVoices() {
    const words = wanted.words.toLowerCase().split(/\s+/).filter(Boolean);
    for (const list of all("[data-voices]")) {
      let shown = 0;
      for (const row of all(".voice-row", list)) {
        const fits =
          words.every((word) => row.dataset.words.includes(word)) &&
          (!wanted.language || row.dataset.language === wanted.language) &&
          (!wanted.kind || row.dataset.kind.split(" ").includes(wanted.kind));
        row.hidden = !fits;
        if (fits) shown += 1;
      }
      const none = one("[data-no-voice]", list.parentElement);
      if (none) none.hidden = shown > 0;
    }
  }

  function chooseVoice(radio) {
    const field = one("#voice textarea, #voice input");
    if (!field) return;
    field.value = radio.value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    const row = radio.closest(".voice-row");
    const picker = radio.closest(".picker");
    const head = one("summary", picker);
    one("b", head).textContent = one("b", row).textContent;
    one("span", head).textContent = one("label span span", row).textContent;
    const about = one("#voice-about");
    if (about) about.textContent = one("small", row).textContent;
    const hear = one(":scope > .hear", picker.parentElement);
    const own = one(".hear", row);
    if (hear) hear.remove();
    if (own) picker.after(own.cloneNode(true));
  }

  function foldVoices(picker) {
    picker.open = false;
    one("summary", picker).focus();
  }

  // ---------------------------------------------------------------- what is folded

  const open = {}; // by data-keep: it stays as it was when its HTML is replaced

  function closeMenus(but = null) {
    for (const menu of all("details.menu[open]")) if (menu !== but) menu.open = false;
  }

  function toggled(event) {
    const fold = event.target;
    if (!fold.matches || !fold.matches("details")) return;
    if (fold.matches(".menu") && fold.open) {
      closeMenus(fold);
      // within sight, also at the bottom of the window
      const list = one("ul", fold);
      fold.classList.toggle("up", list.getBoundingClientRect().bottom > innerHeight - 80);
    }
    // its HTML was replaced, nobody pressed it
    const wanted = fold.dataset.keep && open[fold.dataset.keep];
    if (typeof wanted === "boolean" && fold.open !== wanted) fold.open = wanted;
    if (fold.matches(".picker") && fold.open) {
      const search = one("[data-voice-words]", fold);
      if (search) search.focus();
    }
  }

  function look() {
    for (const fold of all("details[data-keep]")) {
      const name = fold.dataset.keep;
      if (name === "voices") {
        for (const key of ["words", "language", "kind"]) {
          const field = one(`[data-voice-${key}]`, fold);
          if (field && !fold.dataset.seen) field.value = wanted[key];
        }
        if (!fold.dataset.seen) filterVoices();
        fold.dataset.seen = "yes";
      } else if (open[name] !== undefined && fold.open !== open[name]) fold.open = open[name];
    }
    paintCompare();
  }

  // ---------------------------------------------------------------- comparing

  let compared = []; // ids of takes
  const letters = "ABCDEFGH";

  function toggleCompare(id) {
    compared = compared.includes(id)
      ? compared.filter((each) => each !== id)
      : [...compared, id].slice(-letters.length);
    level();
    paintCompare();
    const bar = one("#studio-compare button[data-letter]");
    if (bar && compared.length > 1) bar.focus();
  }

  // all as loud as the quietest, so that the louder one doesn't win by being louder
  async function level() {
    const power = new Map();
    const context = new OfflineAudioContext(1, 1, 24000);
    for (const id of compared) {
      const box = one(`[data-take="${id}"] .player`);
      if (!box) continue;
      try {
        const answer = await fetch(box.dataset.src);
        const sound = await context.decodeAudioData(await answer.arrayBuffer());
        const samples = sound.getChannelData(0);
        let sum = 0;
        for (const sample of samples) sum += sample * sample;
        power.set(id, Math.sqrt(sum / Math.max(samples.length, 1)));
      } catch {
        return; // heard as loud as they are
      }
    }
    const least = Math.min(...power.values());
    studio.volumes.clear();
    if (compared.length < 2 || !(least > 0)) return;
    for (const [id, value] of power) studio.volumes.set(id, Math.max(least / value, 0.1));
  }

  function switchTo(id) {
    const { at } = studio.now();
    const box = one(`[data-take="${id}"] .player`);
    const total = box ? Number(box.dataset.seconds) : 0;
    studio.playAt(id, compared.includes(studio.now().id) && at < total ? at : 0);
  }

  function paintCompare() {
    compared = compared.filter((id) => one(`.take[data-take="${id}"]`));
    for (const button of all("[data-compare]")) {
      button.setAttribute("aria-pressed", String(compared.includes(button.dataset.compare)));
    }
    for (const take of all(".take[data-take]")) {
      const place = compared.indexOf(take.dataset.take);
      const clock = one(".clock", take);
      if (place < 0) delete take.dataset.letter;
      else take.dataset.letter = letters[place];
      if (clock) clock.dataset.letter = place < 0 ? "" : letters[place];
    }
    let bar = one("#studio-compare");
    if (!compared.length) {
      if (bar) bar.remove();
      return;
    }
    if (!bar) {
      bar = document.createElement("div");
      bar.id = "studio-compare";
      bar.setAttribute("role", "region");
      bar.setAttribute("aria-label", studio.say("comparing"));
      document.body.append(bar);
    }
    const state = compared.join(" ");
    if (bar.dataset.state !== state) {
      bar.dataset.state = state;
      bar.replaceChildren(...compareParts());
    }
    for (const button of all("[data-letter]", bar)) {
      const mine = studio.now().id === button.dataset.id;
      button.setAttribute("aria-pressed", String(mine));
    }
  }

  function compareParts() {
    const make = (name, text, values = {}) => {
      const element = Object.assign(document.createElement(name), values);
      element.textContent = text;
      return element;
    };
    const name = make("b", studio.say("comparing"));
    const buttons = compared.map((id, place) => {
      const take = one(`.take[data-take="${id}"]`);
      const button = make("button", letters[place], { type: "button", className: "plain" });
      button.dataset.letter = letters[place];
      button.dataset.id = id;
      button.title = take.dataset.title || "";
      button.setAttribute("aria-label", `${letters[place]}: ${button.title}`);
      return button;
    });
    const hint = compared.length > 1 ? "compareHint" : "compareMore";
    const clear = make("button", studio.say("clear"), { type: "button", className: "quiet" });
    clear.dataset.compareClear = "";
    return [name, ...buttons, make("span", studio.say(hint)), clear];
  }

  // ---------------------------------------------------------------- events

  function click(event) {
    const target = event.target;
    const head = target.closest("details.fold > summary");
    if (head && head.parentElement.dataset.keep) {
      open[head.parentElement.dataset.keep] = !head.parentElement.open;
    }
    const cue = target.closest("[data-cue]");
    if (cue) insertCue(cue);
    const compare = target.closest("[data-compare]");
    if (compare) toggleCompare(compare.dataset.compare);
    const together = target.closest("[data-compare-all]");
    if (together) {
      compared = [];
      const group = together.closest(".group");
      for (const take of all(".take[data-take]", group).slice(0, letters.length)) {
        compared.push(take.dataset.take);
      }
      level();
      paintCompare();
      const first = one("#studio-compare [data-letter]");
      if (first) first.focus();
    }
    const letter = target.closest("#studio-compare [data-letter]");
    if (letter) switchTo(letter.dataset.id);
    if (target.closest("[data-compare-clear]")) {
      compared = [];
      level();
      paintCompare();
    }
    // a click on a voice itself (an arrow key isn't one) is a decision
    const label = target.closest(".voice-row label");
    if (label && target.matches("input") && event.detail > 0) {
      foldVoices(label.closest(".picker"));
    }
    const menu = target.closest("details.menu");
    if (!menu) closeMenus();
    else if (target.closest("li button, li a")) {
      menu.open = false;
      one("summary", menu).focus();
    }
    const picker = one("details.picker[open]");
    if (picker && !target.closest(".voice-line")) picker.open = false;
  }

  function input(event) {
    const target = event.target;
    for (const key of ["words", "language", "kind"]) {
      if (target.matches(`[data-voice-${key}]`)) {
        wanted[key] = target.value;
        filterVoices();
      }
    }
    if (target.matches(".voice-row input[type=radio]")) chooseVoice(target);
  }

  function keydown(event) {
    const { key, target } = event;
    if (key === "Escape") {
      const menu = target.closest && target.closest("details.menu[open]");
      if (menu) one("summary", menu).focus();
      closeMenus();
      const picker = one("details.picker[open]");
      if (picker) foldVoices(picker);
    }
    if (!target.closest) return;
    if (key === "Enter" && target.matches(".voice-row input[type=radio]")) {
      event.preventDefault();
      foldVoices(target.closest(".picker"));
    }
    const menu = target.closest("details.menu[open]");
    if (menu && (key === "ArrowDown" || key === "ArrowUp")) {
      event.preventDefault();
      move([one("summary", menu), ...all("li button, li a", menu)], key === "ArrowDown" ? 1 : -1);
    }
    if (target.closest("#studio-compare")) {
      const buttons = all("#studio-compare [data-letter]");
      const named = buttons.find((button) => button.dataset.letter === key.toUpperCase());
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[key];
      const chosen = named || (step && move(buttons, step));
      if (chosen) {
        event.preventDefault();
        chosen.focus();
        switchTo(chosen.dataset.id);
      }
    }
  }

  function move(elements, step) {
    const at = elements.indexOf(document.activeElement);
    const to = elements[(at + step + elements.length) % elements.length];
    to.focus();
    return to;
  }

  function begin() {
    document.addEventListener("click", click);
    document.addEventListener("input", input);
    document.addEventListener("keydown", keydown);
    document.addEventListener("toggle", toggled, true);
    document.addEventListener("focusin", explainCue);
    document.addEventListener("pointerover", explainCue);
    // pressing a cue leaves the cursor where it is
    document.addEventListener("pointerdown", (event) => {
      if (event.target.closest("[data-cue]")) event.preventDefault();
    });
    document.addEventListener("mousedown", (event) => {
      if (event.target.closest("[data-cue]")) event.preventDefault();
    });
    studio.whenPainted(look);
    look();
  }

  Object.assign(studio, { recall, keep });
  if (document.body) begin();
  else document.addEventListener("DOMContentLoaded", begin);
})();
