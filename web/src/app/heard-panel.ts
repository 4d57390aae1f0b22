// What a listener heard last, in words; and to a screen reader, but not more often than one can say.
import type { Label } from "../sdk/index.ts";
import { byId, setText } from "./dom.ts";

const SAID_EVERY_MS = 1500;

export class HeardPanel {
  private readonly root = byId("heard");
  private readonly word = byId("heard-label");
  private readonly score = byId("heard-score");
  private readonly aloud = byId("heard-aloud");
  private timer: ReturnType<typeof setTimeout> | undefined;

  show({ label, score, lasts }: Label): void {
    this.root.hidden = false;
    setText(this.word, label);
    // Of what lasts it is the score where it began: at the threshold, whatever came after.
    setText(this.score, lasts ? "" : `${Math.round(score * 100)} %`);
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      setText(this.aloud, this.word.textContent ?? "");
    }, SAID_EVERY_MS);
  }

  reset(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.root.hidden = true;
    setText(this.aloud, "");
  }
}
