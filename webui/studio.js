// Brings the page's HTML to life: one player for all takes, shortcuts, progress.
// Gradio replaces the HTML of a component whenever it changes, so nothing here keeps elements:
// the one <audio> lives outside, and every change is painted from its state.
(() => {
  "use strict";
  const audio = document.createElement("audio");
  audio.id = "studio-audio";
  audio.preload = "auto";

  let current = null; // id of the take in the player
  let next = null; // a longer version of it, taken over when the present one ends
  let hungry = false; // it played all there is so far and waits for more
  let known = new Set(); // takes that were there when Generate was pressed
  let expecting = false;
  let chosen = null; // row that was pressed in History, until its details are there
  const preference = "bark-studio-autoplay";
  const draft = "bark-studio-draft"; // what was typed in this tab, over a reload
  let restored = false;

  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const clock = (s) => `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`;
  const wantsAutoplay = () => localStorage.getItem(preference) !== "off";

  function player(take) {
    return take.querySelector(".player");
  }

  function play(take, from = 0) {
    const box = player(take);
    if (!box) return;
    current = take.dataset.take;
    next = null;
    hungry = false;
    audio.src = box.dataset.src;
    audio.currentTime = from;
    audio.play().catch(() => paint());
  }

  function toggle(take) {
    if (current !== take.dataset.take) play(take);
    else if (audio.paused) {
      if (audio.ended && next === null) audio.currentTime = 0;
      audio.play().catch(() => paint());
    } else audio.pause();
  }

  function takeOver(resume) {
    const at = audio.currentTime;
    audio.src = next;
    next = null;
    audio.currentTime = at;
    if (resume) audio.play().catch(() => paint());
  }

  // the page changed: note longer versions, begin what was waited for, paint
  function look() {
    for (const take of all("[data-take]")) {
      const box = player(take);
      if (!box) continue;
      const id = take.dataset.take;
      if (id === current) {
        const url = new URL(box.dataset.src, document.baseURI).href;
        next = url === audio.src ? null : url;
        if (next !== null && (hungry || audio.paused)) {
          const resume = hungry;
          hungry = false;
          takeOver(resume);
        }
      } else if (expecting && !known.has(id)) {
        expecting = false;
        if (wantsAutoplay() && audio.paused) play(take);
      }
    }
    for (const time of all("time[datetime]:not([data-local])")) {
      time.dataset.local = "";
      time.textContent = new Date(time.dateTime).toLocaleString(undefined, {
        dateStyle: "medium",
        timeStyle: "short",
      });
    }
    const prompt = document.querySelector("#prompt textarea");
    if (prompt && !restored) {
      restored = true;
      const typed = sessionStorage.getItem(draft);
      if (typed && !prompt.value) {
        prompt.value = typed;
        prompt.dispatchEvent(new Event("input", { bubbles: true }));
      }
    }
    const details = chosen && document.querySelector(`.chosen[data-take="${chosen}"]`);
    if (details) {
      chosen = null;
      // below the list on a narrow screen
      if (details.getBoundingClientRect().top > innerHeight * 0.7) {
        details.scrollIntoView({ block: "start" });
      }
    }
    for (const box of all("#studio-autoplay")) box.checked = wantsAutoplay();
    paint();
  }

  function paint() {
    for (const take of all("[data-take]")) {
      const box = player(take);
      if (!box) continue;
      const mine = take.dataset.take === current;
      const total = Math.max(Number(box.dataset.seconds), 0.01);
      const at = mine ? Math.min(audio.currentTime, total) : 0;
      const playing = mine && (!audio.paused || hungry);
      box.classList.toggle("playing", playing);
      box.style.setProperty("--at", `${(100 * at) / total}%`);
      const button = box.querySelector(".play");
      const label = button.getAttribute("aria-label").replace(/^(Play|Pause): /, "");
      const wanted = `${playing ? "Pause" : "Play"}: ${label}`;
      if (button.getAttribute("aria-label") !== wanted) button.setAttribute("aria-label", wanted);
      const range = box.querySelector("input[type=range]");
      if (document.activeElement !== range || mine) range.value = String(at);
      range.setAttribute("aria-valuetext", `${at.toFixed(1)} of ${total.toFixed(1)} seconds`);
      box.querySelector(".clock").textContent = mine && at > 0 ? clock(at) : clock(total);
    }
  }

  function pulse(text) {
    let state = {};
    try {
      state = JSON.parse(text || "{}");
    } catch {
      return;
    }
    for (const card of all("[data-live]")) {
      const now = state[card.dataset.take];
      if (!now) continue;
      all("[role=progressbar]", card).forEach((bar, i) => {
        const percent = Math.round(100 * now.bars[i]);
        bar.setAttribute("aria-valuenow", String(percent));
        bar.firstElementChild.style.width = `${percent}%`;
      });
      const line = card.querySelector(".line");
      if (line && line.textContent !== now.line) line.textContent = now.line;
    }
  }

  function click(event) {
    const take = event.target.closest("[data-take]");
    if (take && event.target.closest(".play")) toggle(take);
    const armed = event.target.closest("[data-action=delete]");
    if (armed && !armed.classList.contains("armed")) {
      // the first press asks, the second does it
      event.stopPropagation();
      armed.classList.add("armed");
      armed.textContent = "Press again to delete for good";
      setTimeout(() => {
        armed.classList.remove("armed");
        armed.textContent = "Delete";
      }, 4000);
    }
    if (event.target.closest("[data-action=again], [data-action=example]")) focusPrompt(20);
    const row = event.target.closest("[data-action=choose]");
    if (row) chosen = row.dataset.target;
    if (event.target.closest("#generate")) {
      known = new Set(all("[data-take]").map((each) => each.dataset.take));
      expecting = true;
    }
  }

  // as soon as its tab is there
  function focusPrompt(patience) {
    setTimeout(() => {
      const prompt = document.querySelector("#prompt textarea");
      if (prompt && prompt.offsetParent !== null && prompt.value) {
        scrollTo({ top: 0 });
        prompt.focus({ preventScroll: true });
      } else if (patience > 0) focusPrompt(patience - 1);
    }, 150);
  }

  function input(event) {
    if (event.target.closest("#prompt")) sessionStorage.setItem(draft, event.target.value);
    if (event.target.id === "studio-autoplay") {
      localStorage.setItem(preference, event.target.checked ? "on" : "off");
    }
    const take = event.target.closest("[data-take]");
    if (!take || event.target.type !== "range") return;
    const at = Number(event.target.value);
    if (current !== take.dataset.take) {
      play(take, at);
      audio.pause();
    } else audio.currentTime = at;
    paint();
  }

  function keydown(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      const button = document.querySelector("#generate");
      if (button && button.offsetParent !== null) {
        event.preventDefault();
        // Gradio takes over a text field's value when it is left
        document.activeElement.dispatchEvent(new Event("input", { bubbles: true }));
        setTimeout(() => button.click(), 50);
      }
    }
  }

  // a laptop that slept has lost its connection: attach again when it is looked at
  let hiddenSince = null;
  function visibility() {
    if (document.hidden) hiddenSince = Date.now();
    else if (hiddenSince !== null && Date.now() - hiddenSince > 20_000) reattach();
  }
  function reattach() {
    const button = document.querySelector("#attach");
    if (button) button.click();
  }

  function begin() {
    document.body.append(audio);
    for (const name of ["play", "pause", "timeupdate", "seeked", "loadedmetadata"]) {
      audio.addEventListener(name, paint);
    }
    audio.addEventListener("ended", () => {
      if (next !== null) takeOver(true);
      else hungry = document.querySelector(`[data-live][data-take="${current}"]`) !== null;
      paint();
    });
    document.addEventListener("click", click, true);
    document.addEventListener("input", input);
    document.addEventListener("keydown", keydown, true);
    document.addEventListener("visibilitychange", visibility);
    window.addEventListener("online", reattach);
    let planned = false;
    new MutationObserver((changes) => {
      if (planned || !changes.some((change) => change.addedNodes.length)) return;
      planned = true;
      requestAnimationFrame(() => {
        planned = false;
        look();
      });
    }).observe(document.body, { childList: true, subtree: true });
    look();
  }

  window.barkStudio = { pulse };
  if (document.body) begin();
  else document.addEventListener("DOMContentLoaded", begin);
})();
