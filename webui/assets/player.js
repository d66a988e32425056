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
  let page = ""; // by which name the page says that it is there
  let seat = ""; // of whom in the studio it hears
  let heardAt = Date.now();
  let answering = null; // a timer, while it waits to be heard of again
  let away = false;
  let chosen = null; // row that was pressed in History, until its details are there
  const preference = "bark-studio-autoplay";
  const draft = "bark-studio-draft"; // what was typed in this tab, over a reload
  let restored = false;
  const BEAT_MS = window.barkBeatMs || 20_000; // tests have less patience
  const listeners = []; // called whenever something was painted

  // written into the page's head in the reader's language
  const texts = window.barkTexts || {};
  const say = (key, values = {}) =>
    Object.entries(values).reduce(
      (text, [name, value]) => text.replace(`{${name}}`, value),
      texts[key] || key,
    );

  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const clock = (s) => `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`;
  const wantsAutoplay = () => localStorage.getItem(preference) !== "off";

  const volumes = new Map(); // id of a take: how loud, for a fair comparison
  const loudness = (id) => volumes.get(id) ?? 1;

  function player(take) {
    return take.querySelector(".player");
  }

  function play(take, from = 0) {
    const box = player(take);
    if (!box) return;
    current = take.dataset.take;
    next = null;
    hungry = false;
    audio.volume = loudness(current);
    audio.src = box.dataset.src;
    audio.currentTime = from;
    audio.play().catch(() => paint());
  }

  // a voice of the list: heard with the same <audio>, so that never two speak at once
  function hear(url) {
    const absolute = new URL(url, document.baseURI).href;
    if (current === `voice ${absolute}`) {
      if (audio.paused) audio.play().catch(() => paint());
      else audio.pause();
      return;
    }
    current = `voice ${absolute}`;
    next = null;
    hungry = false;
    audio.volume = 1;
    audio.src = absolute;
    audio.play().catch(() => paint());
  }

  // the server says in JSON what it can't be heard for
  async function excuse() {
    if (!current || !current.startsWith("voice ")) return;
    const url = current.slice(6);
    current = null;
    paint();
    try {
      const answer = await fetch(url);
      const told = await answer.json();
      tell(`${told.what}. ${told.why} ${told.do}`);
    } catch {
      tell(say("unheard"));
    }
  }

  // a line at the bottom of the window, for a while
  function tell(text) {
    let line = document.querySelector("#studio-says");
    if (!line) {
      line = document.createElement("p");
      line.id = "studio-says";
      line.setAttribute("role", "status");
      document.body.append(line);
    }
    line.textContent = text;
    line.hidden = false;
    clearTimeout(tell.timer);
    tell.timer = setTimeout(() => {
      line.hidden = true;
    }, 8000);
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
          // at its end it is paused already, a moment before it says so
          const resume = hungry || audio.ended;
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
    for (const list of all("#language select")) list.value = document.documentElement.lang;
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
      const label = button.getAttribute("aria-label").replace(/^[^:]*: /, "");
      const wanted = `${say(playing ? "pause" : "play")}: ${label}`;
      if (button.getAttribute("aria-label") !== wanted) button.setAttribute("aria-label", wanted);
      const range = box.querySelector("input[type=range]");
      if (document.activeElement !== range || mine) range.value = String(at);
      range.setAttribute("aria-valuetext", say("place", { at: at.toFixed(1), total: total.toFixed(1) }));
      box.querySelector(".clock").textContent = mine && at > 0 ? clock(at) : clock(total);
    }
    paintVoices();
    for (const listener of listeners) listener();
  }

  function paintVoices() {
    for (const button of all("[data-hear]")) {
      const url = new URL(button.dataset.hear, document.baseURI).href;
      const playing = current === `voice ${url}` && !audio.paused;
      button.classList.toggle("playing", playing);
      if (button.getAttribute("aria-pressed") !== String(playing)) {
        button.setAttribute("aria-pressed", String(playing));
      }
    }
  }

  function pulse(text) {
    let state = {};
    try {
      state = JSON.parse(text || "{}");
    } catch {
      return;
    }
    listened(state);
    const jobs = state.jobs || {};
    for (const card of all("[data-live]")) {
      const now = jobs[card.dataset.take];
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
    const heard = event.target.closest("[data-hear]");
    if (heard) {
      event.preventDefault(); // in a list's head it would fold the list
      hear(heard.dataset.hear);
    }
    const armed = event.target.closest("[data-action=delete]");
    if (armed && !armed.classList.contains("armed")) {
      // the first press asks, the second does it
      event.stopPropagation();
      const said = armed.textContent;
      armed.classList.add("armed");
      armed.textContent = say("sure");
      setTimeout(() => {
        armed.classList.remove("armed");
        armed.textContent = said;
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

  // the server reads it and sends the page in that language
  function speak(code) {
    document.cookie = `bark-studio-language=${code}; path=/; max-age=31536000; samesite=lax`;
    location.reload();
  }

  function input(event) {
    if (event.target.matches("#language select")) speak(event.target.value);
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

  // ---------------------------------------------------------------- being there

  // The studio forgets a page that doesn't say now and then that it is there. A page that was
  // forgotten, whose studio was started again, or that hears nothing, attaches again; where that
  // is of no use, for Gradio doesn't open a connection anew that was cut, it loads itself again.
  function tellStudio(what) {
    return fetch(`studio/${what}/${page}`, { method: "POST" });
  }

  async function here() {
    if (!page || away) return;
    if (!document.hidden && Date.now() - heardAt > 5 * BEAT_MS) reattach();
    try {
      const answer = await tellStudio("here");
      if (answer.status === 404) reattach();
    } catch {
      // no connection: the next time
    }
  }

  function reattach() {
    away = false;
    for (const button of all("#attach")) button.click();
    if (answering === null) answering = setTimeout(anew, 1.5 * BEAT_MS);
  }

  async function anew() {
    answering = null;
    try {
      await tellStudio("here");
      if (audio.paused) window.location.reload();
    } catch {
      // no studio: the next time
    }
  }

  function listened(state) {
    heardAt = Date.now();
    page = state.page || page;
    if (state.seat !== seat) {
      seat = state.seat;
      clearTimeout(answering);
      answering = null;
    }
  }

  // A page that nobody sees lets go of its connection, for a browser has six to one studio; not
  // while something is made or heard
  let hiddenSince = null;
  function visibility() {
    if (document.hidden) {
      hiddenSince = Date.now();
      setTimeout(leave, BEAT_MS);
    } else {
      if (hiddenSince !== null && Date.now() - hiddenSince > BEAT_MS) reattach();
      hiddenSince = null;
    }
  }

  function leave() {
    if (hiddenSince === null || Date.now() - hiddenSince < BEAT_MS || away || !page) return;
    if (all("[data-live]").length || !audio.paused) {
      setTimeout(leave, BEAT_MS);
      return;
    }
    away = true;
    tellStudio("away").catch(() => {});
  }

  function begin() {
    document.body.append(audio);
    for (const name of ["play", "pause", "timeupdate", "seeked", "loadedmetadata"]) {
      audio.addEventListener(name, paint);
    }
    audio.addEventListener("error", excuse);
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
    setInterval(here, BEAT_MS);
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

  window.barkStudio = {
    pulse,
    say,
    tell,
    hear,
    volumes,
    // plays a take from a place, as the comparison does
    playAt: (id, at) => {
      const take = document.querySelector(`[data-take="${id}"]`);
      if (take) play(take, at);
    },
    now: () => ({ id: current, at: audio.currentTime, playing: !audio.paused }),
    whenPainted: (listener) => listeners.push(listener),
  };
  if (document.body) begin();
  else document.addEventListener("DOMContentLoaded", begin);
})();
