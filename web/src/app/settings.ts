// What the page remembers between visits, in localStorage.
import type { Params, Processing } from "../sdk/index.ts";

export interface Settings {
  user: string;
  voice: string;
  theme: "system" | "light" | "dark";
  microphone: string;
  speaker: string;
  hear: boolean;
  latencyOpen: boolean;
  processing: Processing;
  /** The sliders of each voice. */
  params: Record<string, Params>;
}

const KEY = "understudy.settings";

const DEFAULTS: Settings = {
  user: "",
  voice: "",
  theme: "system",
  microphone: "",
  speaker: "",
  hear: true,
  // Room for it is on a laptop, not on a phone.
  latencyOpen: matchMedia("(min-width: 901px)").matches,
  processing: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  params: {},
};

/** A name of one's own, since one name has one stream. */
function guestName(): string {
  const letters = crypto.getRandomValues(new Uint8Array(4));
  return `guest-${[...letters].map((n) => (n % 36).toString(36)).join("")}`;
}

function load(): Settings {
  let stored: Partial<Settings> = {};
  try {
    stored = JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Settings>;
  } catch {
    // Blocked or damaged storage: start afresh.
  }
  const settings = { ...DEFAULTS, params: {}, ...stored };
  if (settings.user === "") settings.user = guestName();
  return settings;
}

export const settings: Settings = load();

export function save(change: Partial<Settings>): void {
  Object.assign(settings, change);
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // Blocked storage: the settings last as long as the page.
  }
}
