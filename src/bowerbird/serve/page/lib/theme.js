// Light, dark, or as the system has it.
import { createKeptStore } from "./store.js";

export const theme = createKeptStore("bowerbird.theme", { choice: "system" });

export function applyTheme() {
  const apply = () => document.documentElement.setAttribute("data-theme", theme.get().choice);
  theme.subscribe(apply);
  apply();
}

export function isDark() {
  const { choice } = theme.get();
  return choice === "dark" || (choice === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
}

export const switchTheme = () => theme.set({ choice: isDark() ? "light" : "dark" });
