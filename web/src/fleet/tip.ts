// One tooltip for all seats: shown on hover and on focus, away on Escape.
import { byId, setText } from "../app/dom.ts";

const MARGIN_PX = 8;

export class Tip {
  private readonly root = byId("tip");

  constructor() {
    addEventListener("keydown", ({ key }) => {
      if (key === "Escape") this.hide();
    });
    addEventListener("scroll", () => this.hide(), { passive: true });
  }

  show(element: HTMLElement, sentence: string): void {
    setText(this.root, sentence);
    this.root.hidden = false;
    const at = element.getBoundingClientRect();
    const { width, height } = this.root.getBoundingClientRect();
    const left = at.left + at.width / 2 - width / 2;
    const most = document.documentElement.clientWidth - width - MARGIN_PX;
    const above = at.top - height - MARGIN_PX;
    this.root.style.left = `${Math.max(MARGIN_PX, Math.min(left, most))}px`;
    this.root.style.top = `${above > 0 ? above : at.bottom + MARGIN_PX}px`;
  }

  hide(): void {
    this.root.hidden = true;
  }
}
