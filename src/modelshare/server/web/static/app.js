// What pages do beyond links and forms: dialogs, copying, the theme. Everything here is an extra; pages work without it.
"use strict";

function theme() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  return document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
}

// A link with data-dialog opens its page's panel in a dialog instead of going there.
async function openDialog(link) {
  const dialog = document.getElementById("dialog");
  await htmx.ajax("GET", link.href, { target: "#dialog-body", select: "#panel", swap: "innerHTML" });
  if (!dialog.querySelector("#panel")) return window.location.assign(link.href);
  dialog.showModal();
  // Where there is nothing to fill in, the keyboard stands on what changes nothing.
  if (!dialog.querySelector("input:not([type=hidden]), select, textarea")) dialog.querySelector("[data-close]")?.focus();
  const back = () => (link.isConnected ? link : document.getElementById(link.id))?.focus(); // a live part may be new
  dialog.addEventListener("close", back, { once: true });
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.value ?? source.textContent.trim());
    const said = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = said; }, 1500);
  } catch {
    // No clipboard without https: leave the text selected for the keyboard.
    getSelection().selectAllChildren(source);
  }
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-dialog], [data-copy], [data-close], #theme");
  if (!target || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (target.matches("[data-dialog]")) {
    event.preventDefault();
    openDialog(target);
  } else if (target.matches("[data-copy]")) {
    copy(target);
  } else if (target.matches("[data-close]") && target.closest("dialog")) {
    event.preventDefault();
    target.closest("dialog").close();
  } else if (target.id === "theme") {
    const next = theme() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    localStorage.setItem("theme", next);
  }
});

// What is shown once takes the place of the form that was sent: the keyboard goes there too.
document.addEventListener("htmx:afterSwap", (event) => {
  const title = event.target.id === "once" && event.target.querySelector("h1, h2, h3, p");
  if (!title) return;
  title.tabIndex = -1;
  title.focus();
});

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submits]")) event.target.form.requestSubmit();
});

// Says aloud, once, what became different in a live part: every data-say in it tells how one thing stands.
const said = new Map();
function sayChanges(part) {
  const news = [];
  for (const each of part.querySelectorAll("[data-say]")) {
    const before = said.get(each.dataset.say);
    if (before !== undefined && before !== each.textContent) news.push(each.textContent);
    said.set(each.dataset.say, each.textContent);
  }
  if (news.length) document.getElementById("said").textContent = news.join(" ");
}

// What is pressed must stay until it is released: in a part that is replaced meanwhile, the click would be lost.
let pressed = false;
const press = (event) => { pressed ||= event.button === 0 || event.key === " "; };
const release = () => setTimeout(() => { // after the click
  pressed = false;
  document.dispatchEvent(new Event("released"));
});
for (const name of ["pointerdown", "keydown"]) document.addEventListener(name, press, true);
for (const name of ["pointerup", "pointercancel", "keyup"]) document.addEventListener(name, release, true);
window.addEventListener("blur", release); // a release elsewhere is not heard here

// The stream of a live part. It rests while nobody looks: a browser has six connections to a site, for all its tabs.
class LiveStream extends EventTarget {
  constructor(url) {
    super();
    this.url = url;
    this.look = () => (document.hidden ? this.rest() : this.open());
    this.show = () => {
      if (pressed || this.news === undefined) return;
      this.dispatchEvent(new MessageEvent("message", { data: this.news }));
      this.news = undefined;
    };
    document.addEventListener("visibilitychange", this.look);
    document.addEventListener("released", this.show);
    this.look();
  }

  get readyState() { return this.source?.readyState ?? EventSource.CONNECTING; }

  open() {
    if (this.source) return;
    this.source = new EventSource(this.url);
    this.source.onopen = (event) => this.onopen(event);
    this.source.onerror = (event) => {
      if (this.readyState === EventSource.CLOSED) document.removeEventListener("visibilitychange", this.look);
      this.onerror(event); // which makes another one where this one is closed
    };
    this.source.onmessage = ({ data }) => {
      this.news = data;
      this.show();
    };
    this.source.addEventListener("over", () => window.location.reload()); // the page says why
  }

  rest() {
    this.source?.close();
    this.source = undefined;
  }

  close() {
    this.rest();
    document.removeEventListener("visibilitychange", this.look);
    document.removeEventListener("released", this.show);
  }
}

htmx.createEventSource = (url) => new LiveStream(url);
// A stream begins with the part as it is, which the page mostly shows already.
document.addEventListener("htmx:sseBeforeMessage", (event) => {
  const next = document.createElement("template");
  next.innerHTML = event.detail.data;
  for (const elsewhere of next.content.querySelectorAll("[hx-swap-oob]")) elsewhere.remove();
  if (next.innerHTML.trim() === event.target.innerHTML.trim()) event.preventDefault();
});
document.addEventListener("htmx:sseMessage", (event) => sayChanges(event.target));
document.addEventListener("DOMContentLoaded", () => sayChanges(document));
