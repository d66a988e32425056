// Who is signed in, and what happens when that has ended: to the page to sign in, with all else.
(() => {
  "use strict";
  const EVERY_MS = 60_000;
  let signedIn = false;

  async function look() {
    let answer;
    try {
      answer = await fetch("studio/me");
    } catch {
      return; // the studio can't be reached: others say so
    }
    if (answer.status === 401) {
      location.assign("login");
      return;
    }
    if (!answer.ok) return;
    const who = await answer.json();
    signedIn = who.signed_in;
    paint(who.name);
  }

  function paint(name) {
    const form = document.getElementById("account-form");
    if (!form) {
      if (signedIn) setTimeout(() => paint(name), 200); // the page is still being built
      return;
    }
    form.hidden = !signedIn;
    form.querySelector(".name").textContent = name;
  }

  look();
  setInterval(() => signedIn && look(), EVERY_MS);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && signedIn) look();
  });
})();
