// Questions whose options have fields of their own: typing into a field chooses its option, the fields of others rest
// once somebody has chosen, and the form's button says what it will do. The server refuses what contradicts itself, with
// or without this.
"use strict";
{
  const MOMENT = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short", timeZone: "UTC" });
  const moment = (date) => (Number.isNaN(date.getTime()) ? "" : `${MOMENT.format(date)} UTC`);
  const counted = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;

  function soon(amount, unit) {
    const count = Number(amount);
    if (!amount || !Number.isInteger(count) || count < 0) return "after a period";
    const one = unit === "hours" ? "hour" : "day";
    const at = moment(new Date(Date.now() + count * (one === "hour" ? 3_600_000 : 86_400_000)));
    return `in ${counted(count, one)}${at && `, on ${at}`}`;
  }

  // What a button says of a field that `data-says` names in braces; of others, what was typed.
  const WORDS = {
    projects: ([text]) => {
      const names = new Set(text.split(/[\s,]+/).filter(Boolean));
      return names.size ? counted(names.size, "project") : "certain projects";
    },
    amount: ([text], form) => soon(text, form.get("unit")),
    at: ([text]) => moment(new Date(`${text}Z`)) || "a date",
    scopes: (values) => values.join(", ") || "nothing yet",
    endpoint: ([text]) => text.trim() || "one endpoint",
  };

  function sayEffect(form, chosen) {
    const button = form?.querySelector("[data-effect]");
    if (!button) return;
    button.dataset.effect ||= button.textContent;
    const data = new FormData(form);
    const words = (_, name) => (WORDS[name] ?? ((values) => values.join(", ")))(data.getAll(name), data);
    button.textContent = chosen?.dataset.says?.replace(/\{(\w+)\}/g, words) ?? button.dataset.effect;
  }

  const radio = (option) => option.querySelector("input[type=radio]");

  function settle(choice) {
    const options = [...choice.querySelectorAll("[data-option]")];
    const chosen = options.find((option) => radio(option).checked);
    for (const option of options) {
      const own = option.querySelector(".own");
      if (own) own.disabled = "decided" in choice.dataset && option !== chosen;
    }
    sayEffect(choice.closest("form"), chosen && radio(chosen));
  }

  const settleAll = (part) => part.querySelectorAll("[data-choice]").forEach(settle);

  // Somebody chose: an option itself, or a field of it.
  function choose(option) {
    const choice = option.closest("[data-choice]");
    choice.dataset.decided = "";
    radio(option).checked = true;
    settle(choice);
  }

  function changed(field) {
    const option = field.closest?.("[data-option]");
    if (option) choose(option);
  }

  document.addEventListener("input", (event) => changed(event.target));
  document.addEventListener("change", (event) => changed(event.target));
  // A field that rests takes no click: its option does, and the field is there for the keyboard.
  document.addEventListener("click", (event) => {
    const option = event.target.closest("[data-option]");
    if (event.target !== option || !option.querySelector(".own:disabled")) return;
    choose(option);
    const field = document.elementFromPoint(event.clientX, event.clientY);
    field?.focus?.();
    if (field?.closest("label.check, [type=checkbox]")) field.click();
  });
  document.addEventListener("htmx:load", (event) => settleAll(event.target));
  addEventListener("pageshow", () => settleAll(document)); // also where the browser filled in what was there before
}
