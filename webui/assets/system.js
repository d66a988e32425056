// The System tab: lines and bars that change every second, what is chosen before it is loaded.
// As in player.js nothing here keeps elements of the page: Gradio replaces them.
(() => {
  "use strict";
  const studio = (window.barkStudio = window.barkStudio || {});
  const cards = () => [...document.querySelectorAll("#system-models [data-model]")];
  const chosen = new Map(); // of a model: {precision, offload} that isn't loaded yet
  const opened = new Set();
  let told = {};
  let marked = "";

  function write(element, text) {
    if (element && element.textContent !== text) element.textContent = text;
  }

  function showProgress(card, told) {
    write(card.querySelector("[data-line]"), told.line);
    const bar = card.querySelector(".getting .bar");
    if (bar && told.share !== null) {
      bar.classList.remove("endless");
      bar.setAttribute("aria-valuenow", String(Math.round(100 * told.share)));
      bar.firstElementChild.style.width = `${(100 * told.share).toFixed(1)}%`;
    }
    const fit = card.querySelector("[data-fit]");
    if (fit) {
      write(fit, told.fit);
      fit.className = told.good ? "good" : "short";
    }
  }

  // the buttons that load say what is chosen beside them
  function handOver(card) {
    const name = card.dataset.model;
    const wanted = chosen.get(name);
    if (!wanted) return;
    for (const select of card.querySelectorAll("select[data-choice]")) {
      const value = wanted[select.dataset.choice];
      if (value && select.value !== value) select.value = value;
    }
    for (const button of card.querySelectorAll('[data-action^="model-load"]')) {
      const [, precision, offload] = JSON.parse(button.dataset.target);
      const target = [name, wanted.precision || precision, wanted.offload || offload];
      button.dataset.target = JSON.stringify(target);
    }
  }

  // what was opened in a card stays open when the card is drawn anew
  const nameOf = (details) => {
    const card = details.closest("[data-model]");
    return card && `${card.dataset.model} ${details.querySelector("summary").textContent}`;
  };

  function show() {
    for (const card of cards()) {
      const model = (told.models || {})[card.dataset.model];
      if (model) showProgress(card, model);
      handOver(card);
      for (const details of card.querySelectorAll("details")) {
        if (opened.has(nameOf(details)) && !details.open) details.open = true;
      }
      const wanted = told.marked && told.marked !== marked && card.dataset.model === told.marked;
      // once the tab is there to be seen
      if (wanted && card.offsetParent) {
        marked = told.marked;
        card.scrollIntoView({ block: "center" });
        card.focus({ preventScroll: true });
      }
    }
    if (!told.marked) marked = "";
  }

  studio.system = (value) => {
    told = JSON.parse(value || "{}");
    show();
  };
  // the cards may be drawn after their figures came
  if (studio.whenPainted) studio.whenPainted(show);

  document.addEventListener(
    "toggle",
    (event) => {
      const details = event.target;
      if (!details.isConnected || !details.closest("#system-models")) return;
      if (details.open) opened.add(nameOf(details));
      else opened.delete(nameOf(details));
    },
    true,
  );

  document.addEventListener("change", (event) => {
    const select = event.target.closest("#system-models select[data-choice]");
    if (!select) return;
    const card = select.closest("[data-model]");
    const before = chosen.get(card.dataset.model) || {};
    chosen.set(card.dataset.model, { ...before, [select.dataset.choice]: select.value });
    handOver(card);
  });
})();
