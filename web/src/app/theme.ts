// Light, dark, or as the system has it.
import { byId } from "./dom.ts";
import { save, settings } from "./settings.ts";

const NEXT = { system: "light", light: "dark", dark: "system" } as const;

export function bindTheme(): void {
  const button = byId("theme");
  const apply = () => {
    const root = document.documentElement;
    if (settings.theme === "system") delete root.dataset.theme;
    else root.dataset.theme = settings.theme;
    button.setAttribute("aria-label", `Theme: ${settings.theme}`);
    button.title = `Theme: ${settings.theme}`;
  };
  button.addEventListener("click", () => {
    save({ theme: NEXT[settings.theme] });
    apply();
  });
  apply();
}
