// The admin key: asked for once where the server hides its users, kept until the tab is closed.
import { byId, setText } from "../app/dom.ts";

const KEPT_AS = "understudy.admin-key";

export class AdminKey {
  private readonly dialog = byId<HTMLDialogElement>("admin");
  private readonly input = byId<HTMLInputElement>("admin-key");
  private readonly wrong = byId("admin-wrong");
  private readonly button = byId("admin-open");
  private asked = false;

  constructor(private readonly onKey: () => void) {
    this.button.addEventListener("click", () => this.ask());
    // No submit button: Enter presses the first of those.
    byId("admin-without").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => {
      const key = this.input.value.trim();
      this.input.value = "";
      if (this.dialog.returnValue !== "use" || key === "") return;
      sessionStorage.setItem(KEPT_AS, key);
      this.onKey();
    });
  }

  /** Goes with every request. */
  headers(): Record<string, string> {
    const key = sessionStorage.getItem(KEPT_AS);
    return key === null ? {} : { authorization: `Bearer ${key}` };
  }

  /** `hidden`: the server has answered, without what only an admin may see. */
  answered(hidden: boolean): void {
    this.button.hidden = !hidden;
    if (hidden && !this.asked) this.ask();
  }

  /** The server does not take the key: it is forgotten, and another one asked for. */
  refused(sentence: string): void {
    sessionStorage.removeItem(KEPT_AS);
    this.ask(sentence);
  }

  private ask(sentence = ""): void {
    this.asked = true;
    setText(this.wrong, sentence);
    this.wrong.hidden = sentence === "";
    if (this.dialog.open) return;
    this.dialog.returnValue = "";
    this.dialog.showModal();
  }
}
