// The state of a session in words. Pure.
import type { Coming, Regions, SessionState, Usage } from "../sdk/index.ts";

/** What the lamp and the stage look like. */
export type Tone = "idle" | "busy" | "live" | "cover" | "trouble";

export interface Words {
  readonly title: string;
  readonly detail: string;
  readonly tone: Tone;
}

export function ordinal(n: number): string {
  const tens = n % 100;
  if (tens >= 11 && tens <= 13) return `${n}th`;
  return `${n}${["th", "st", "nd", "rd"][n % 10] ?? "th"}`;
}

export function seconds(s: number): string {
  if (s < 1) return "less than a second";
  return s < 90 ? `${Math.round(s)} s` : `${Math.round(s / 60)} min`;
}

/** An estimate: "about 8 s"; one that has run out is no more than "any moment now". */
export function about(s: number): string {
  return s < 1 ? "any moment now" : `about ${seconds(s)}`;
}

function sentence(words: string): string {
  return `${words.slice(0, 1).toUpperCase()}${words.slice(1)}.`;
}

/** 75 → "1:15". */
export function clock(s: number): string {
  const whole = Math.floor(s);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

const ERROR_TITLES: Readonly<Record<string, string>> = {
  mic_denied: "The microphone is blocked",
  no_mic: "No microphone",
  mic_busy: "The microphone does not open",
  unsupported_browser: "This browser cannot do it",
  insecure_context: "This page is not secure",
  server_unreachable: "The server does not answer",
  connection_lost: "The connection is gone",
  unknown_voice: "No such voice",
  already_live: "Live somewhere else",
  model_failed: "The voice failed",
  overloaded: "The house is full",
};

export const IDLE: Words = {
  title: "Ready when you are",
  detail: "Pick a voice and press Start.",
  tone: "idle",
};

export function words(state: SessionState, voiceTitle: string): Words {
  switch (state.name) {
    case "connecting":
      return state.step === "microphone"
        ? {
            title: "Waiting for the microphone",
            detail: "Your browser asks whether this page may listen: press Allow.",
            tone: "busy",
          }
        : { title: "Connecting", detail: `Calling ${voiceTitle} to the stage.`, tone: "busy" };
    case "queued": {
      const eta = state.etaS === null ? "It starts by itself." : sentence(about(state.etaS));
      return { title: `Queued: ${ordinal(state.position)}`, detail: eta, tone: "busy" };
    }
    case "loading": {
      const eta = state.etaS === null ? "" : ` ${sentence(about(state.etaS))}`;
      return {
        title: `Loading ${Math.round(state.progress * 100)} %`,
        detail: `${voiceTitle} is getting ready.${eta}`,
        tone: "busy",
      };
    }
    case "live":
      if (state.listens) {
        return { title: "Listening", detail: `${voiceTitle} hears you.`, tone: "live" };
      }
      return state.role === "lead"
        ? { title: "Live", detail: `${voiceTitle} performs.`, tone: "live" }
        : {
            title: "Live: the understudy performs",
            detail: whyUnderstudy(state.lead, voiceTitle),
            tone: "cover",
          };
    case "reconnecting":
      return {
        title: state.to === null ? "Reconnecting" : `Reconnecting… to ${state.to}`,
        detail: `The line dropped. Try ${state.attempt}; it comes back by itself.`,
        tone: "trouble",
      };
    case "stopping":
      return { title: "Stopping", detail: "Playing the last words.", tone: "busy" };
    case "ended":
      return ended(state);
  }
}

function whyUnderstudy(lead: Coming | null, voiceTitle: string): string {
  if (lead === null) return `${voiceTitle} is on its way and takes over by itself.`;
  const eta = lead.etaS === null ? "" : about(lead.etaS);
  if (lead.kind === "loading") {
    return `${voiceTitle} is loading on a GPU${eta && `: ${eta}`}.`;
  }
  return `${voiceTitle}’s GPUs are full: you are ${ordinal(lead.position)} in line${eta && `, ${eta}`}.`;
}

/** For a few seconds after the lead has taken over, so that one sees it happen. */
export function takenOver(voiceTitle: string): Words {
  return {
    title: `Live: ${voiceTitle} performs`,
    detail: "The lead has taken over from the understudy.",
    tone: "live",
  };
}

/** "sf · 12 ms"; empty where the server names no region. */
export function place({ region, rttMs }: Regions): string {
  if (region === "") return "";
  return rttMs === null ? region : `${region} · ${Math.max(1, Math.round(rttMs))} ms`;
}

/** Every region, nearest first, by its nearest edge. */
export function places({ edges }: Regions): string {
  const nearest = new Map<string, Regions>();
  for (const edge of edges) {
    if (!nearest.has(edge.region)) nearest.set(edge.region, { ...edge, edges });
  }
  const far = ({ region, rttMs }: Regions) =>
    rttMs === null ? `${region} · no answer` : place({ region, rttMs, edges });
  return [...nearest.values()]
    .filter(({ region }) => region !== "")
    .map(far)
    .join("\n");
}

export function minutes({ leadS, understudyS, silentS, skippedS }: Usage): string {
  const skipped = skippedS > 0 ? ` · skipped ${clock(skippedS)}` : "";
  return `lead ${clock(leadS)} · understudy ${clock(understudyS)} · silent ${silentS.toFixed(1)} s${skipped}`;
}

function ended({ reason, error }: SessionState & { name: "ended" }): Words {
  if (error !== null) {
    return {
      title: ERROR_TITLES[error.code] ?? "Something went wrong",
      detail: error.message,
      tone: "trouble",
    };
  }
  if (reason === "taken_over") {
    return {
      title: "Ended: taken over",
      detail: "Your stream moved to another window or device. Press Start to take it back.",
      tone: "idle",
    };
  }
  if (reason === "stopped") {
    return { title: "Stopped", detail: "Press Start to go on.", tone: "idle" };
  }
  return {
    title: "Ended",
    detail: "The server ended the session. Press Start again.",
    tone: "idle",
  };
}
