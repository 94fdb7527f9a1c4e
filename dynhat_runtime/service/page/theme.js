/* The colours somebody chose, before anything is drawn. Changes nothing else. */
"use strict";
(() => {
  const KEY = "dynhat-theme";
  const root = document.documentElement;

  function apply(theme) {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
  }

  function remembered() {
    try {
      return localStorage.getItem(KEY) ?? "";
    } catch {
      return ""; // storage may be forbidden: then the choice lasts as long as the page
    }
  }

  function remember(theme) {
    try {
      if (theme) localStorage.setItem(KEY, theme);
      else localStorage.removeItem(KEY);
    } catch {
      /* as above */
    }
  }

  apply(remembered());
  addEventListener("DOMContentLoaded", () => {
    const choice = document.getElementById("theme");
    choice.value = root.dataset.theme ?? "";
    choice.addEventListener("change", () => {
      apply(choice.value);
      remember(choice.value);
    });
  });
})();
