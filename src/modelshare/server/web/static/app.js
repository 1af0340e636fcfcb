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
  if (document.querySelector("#dialog-body #panel")) dialog.showModal();
  else window.location.assign(link.href);
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

document.addEventListener("htmx:sseMessage", (event) => sayChanges(event.target));
document.addEventListener("DOMContentLoaded", () => sayChanges(document));
