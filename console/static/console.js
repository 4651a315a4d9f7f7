// Keeps an open page true: asks whether there is something new, and replaces the parts that changed.
// Without it every page still works; it shows what was true when it was opened.
"use strict";

(() => {
  const EVERY = 2000;
  const PATIENCE = 8000;
  let version = document.body.dataset.version;
  let failed = 0;

  const span = (seconds) => {
    const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
    const parts = [];
    let left = Math.max(0, Math.round(seconds));
    for (const [unit, size] of units) {
      const count = Math.floor(left / size);
      left -= count * size;
      if (count || parts.length) parts.push([count, unit]);
    }
    return parts.slice(0, 2).filter(([count]) => count).map(([count, unit]) => `${count} ${unit}`).join(" ") || "0 s";
  };

  const tick = () => {
    for (const time of document.querySelectorAll("time[data-ago]")) {
      time.textContent = `${span((Date.now() - Date.parse(time.dateTime)) / 1000)} ago`;
    }
  };

  const say = (text) => {
    const place = document.getElementById("live");
    if (place) {
      place.hidden = !text;
      place.textContent = text;
    }
  };

  // Somebody types or reads there: it waits.
  const busy = (part) =>
    part.contains(document.activeElement) && document.activeElement.matches("input, select, textarea, button") ||
    [...part.querySelectorAll("input:not([type=hidden])")].some((input) => input.value !== input.defaultValue);

  const opened = (part) => [...part.querySelectorAll("details")].map((one) => one.open);

  const replace = (page) => {
    let waits = false;
    for (const fresh of page.querySelectorAll("[data-live]")) {
      const old = document.querySelector(`[data-live="${CSS.escape(fresh.dataset.live)}"]`);
      if (!old) continue;
      if (busy(old) && fresh.querySelector("form")) {
        waits = true;
        continue;
      }
      const open = opened(old);
      const scrolled = [...old.querySelectorAll(".wide")].map((one) => one.scrollLeft);
      old.replaceWith(fresh);
      [...fresh.querySelectorAll("details")].forEach((one, at) => { one.open = open[at] || one.open; });
      [...fresh.querySelectorAll(".wide")].forEach((one, at) => { one.scrollLeft = scrolled[at] || 0; });
    }
    document.title = page.title;
    return !waits;
  };

  const ask = async (address) => {
    const answer = await fetch(address, { credentials: "same-origin", signal: AbortSignal.timeout(PATIENCE) });
    if (answer.status === 401 || answer.redirected && new URL(answer.url).pathname === "/login") location.assign("/login");
    if (!answer.ok) throw new Error(String(answer.status));
    return answer;
  };

  const look = async () => {
    if (document.hidden) return;
    try {
      const seen = (await (await ask("/live")).json()).version;
      if (seen !== version) {
        const text = await (await ask(location.pathname + location.search)).text();
        if (replace(new DOMParser().parseFromString(text, "text/html"))) version = seen;
        tick();
      }
      failed = 0;
      say("");
    } catch {
      failed += 1;
      if (failed > 1) say("The console does not answer: this page may be old.");
    }
  };

  const go = async () => {
    await look();
    setTimeout(go, EVERY);
  };

  // The newest windows are on the right.
  const showNewest = (root) => root.querySelectorAll(".wide").forEach((one) => {
    if (one.querySelector(".heat")) one.scrollLeft = one.scrollWidth;
  });

  showNewest(document);
  if (version) {
    setTimeout(go, EVERY);
    document.addEventListener("visibilitychange", look);
    setInterval(tick, 10000);
  }
})();
