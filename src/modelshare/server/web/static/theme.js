// Runs before the page is painted, so that a chosen theme never flashes. Without a choice the system decides.
"use strict";
{
  const chosen = localStorage.getItem("theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
}
