// The head of the stage: state in words, who performs, time used, and notices.
import type { SessionState, Usage } from "../sdk/index.ts";
import { byId, setText } from "./dom.ts";
import { LeadBar, type Loading } from "./lead-bar.ts";
import { clock, IDLE, minutes, takenOver, type Words, words } from "./words.ts";

const OFF: readonly SessionState["name"][] = ["ended"];
/** For how long the stage says that the lead has taken over. */
const CUE_MS = 6000;

export class Stage {
  private readonly root = byId("stage");
  private readonly notice = byId("notice");
  private readonly leadBar = new LeadBar();
  private last: SessionState | null = null;
  private cueTimer: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    byId("notice-close").addEventListener("click", () => {
      this.notice.hidden = true;
    });
    this.write(IDLE);
  }

  show(state: SessionState, voiceTitle: string): void {
    const on = !OFF.includes(state.name);
    const before = this.last;
    this.last = state;
    this.leadBar.show(loadingOf(state));
    this.root.dataset.state = state.name;
    document.documentElement.classList.toggle("on", on);
    setText(byId("toggle-text"), on ? "Stop" : "Start");
    byId<HTMLButtonElement>("record").disabled = !on || state.name === "stopping";
    setText(byId("scope-voice"), voiceTitle);
    if (state.name === "live") {
      this.root.toggleAttribute("data-listens", state.listens);
      setText(byId("performer"), state.role === "lead" ? "the lead" : "the understudy");
    } else if (!on) {
      this.root.removeAttribute("data-listens");
      setText(byId("performer"), "nobody");
    }
    clearTimeout(this.cueTimer);
    const cue = isLive(state, "lead") && isLive(before, "understudy");
    this.root.toggleAttribute("data-cue", cue);
    this.write(cue ? takenOver(voiceTitle) : words(state, voiceTitle));
    if (cue) this.cueTimer = setTimeout(() => this.show(state, voiceTitle), CUE_MS);
  }

  private write({ title, detail, tone }: Words): void {
    this.root.dataset.tone = tone;
    setText(byId("state"), title);
    setText(byId("state-detail"), detail);
    document.title = tone === "idle" ? "Understudy" : `${title} · Understudy`;
  }

  use(usage: Usage): void {
    setText(byId("used"), clock(usage.leadS + usage.understudyS));
    setText(byId("minutes"), minutes(usage));
  }

  notify(sentence: string): void {
    setText(byId("notice-text"), sentence);
    this.notice.hidden = false;
  }

  quiet(): void {
    this.notice.hidden = true;
  }
}

function isLive(state: SessionState | null, role: "lead" | "understudy"): boolean {
  return state?.name === "live" && state.role === role;
}

function loadingOf(state: SessionState): Loading | null {
  if (state.name === "loading") return state;
  return state.name === "live" && state.lead?.kind === "loading" ? state.lead : null;
}
