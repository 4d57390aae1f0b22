// The head of the stage: state in words, who performs, time used, and notices.
import type { SessionState, Usage } from "../sdk/index.ts";
import { byId, setText } from "./dom.ts";
import { clock, IDLE, type Words, words } from "./words.ts";

const OFF: readonly SessionState["name"][] = ["ended"];

export class Stage {
  private readonly root = byId("stage");
  private readonly notice = byId("notice");

  constructor() {
    byId("notice-close").addEventListener("click", () => {
      this.notice.hidden = true;
    });
    this.write(IDLE);
  }

  show(state: SessionState, voiceTitle: string): void {
    const on = !OFF.includes(state.name);
    this.root.dataset.state = state.name;
    document.documentElement.classList.toggle("on", on);
    setText(byId("toggle-text"), on ? "Stop" : "Start");
    byId<HTMLButtonElement>("record").disabled = !on || state.name === "stopping";
    setText(byId("scope-voice"), voiceTitle);
    if (state.name === "live") {
      setText(byId("performer"), state.role === "lead" ? "the lead" : "the understudy");
    } else if (!on) {
      setText(byId("performer"), "nobody");
    }
    this.write(words(state, voiceTitle));
  }

  private write({ title, detail, tone }: Words): void {
    this.root.dataset.tone = tone;
    setText(byId("state"), title);
    setText(byId("state-detail"), detail);
    document.title = tone === "idle" ? "Understudy" : `${title} · Understudy`;
  }

  use({ leadS, understudyS }: Usage): void {
    const covered = understudyS >= 1 ? ` (${clock(understudyS)} understudy)` : "";
    setText(byId("used"), `${clock(leadS + understudyS)}${covered}`);
  }

  notify(sentence: string): void {
    setText(byId("notice-text"), sentence);
    this.notice.hidden = false;
  }

  quiet(): void {
    this.notice.hidden = true;
  }
}
