// Light or dark: what the system says, until the reader presses the button; remembered where the browser allows it.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const memory = {
    get() { try { return localStorage.getItem("theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("theme", value); } catch { /* a private window: not remembered */ } },
  };
  let chosen = memory.get();

  const current = () => chosen ?? (system.matches ? "dark" : "light");
  const show = () => {
    root.style.colorScheme = chosen ?? "";
    root.dataset.theme = current();
    const button = document.getElementById("theme");
    if (button) button.textContent = current() === "dark" ? "Light colours" : "Dark colours";
  };
  show();
  system.addEventListener("change", show);
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    button.hidden = false;
    button.addEventListener("click", () => {
      chosen = current() === "dark" ? "light" : "dark";
      memory.set(chosen);
      show();
    });
    show();
  });
})();
