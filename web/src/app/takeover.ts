// The question when the user is live somewhere else.
import { byId, setText } from "./dom.ts";

/** True: move the stream here. */
export function askTakeover(user: string): Promise<boolean> {
  const dialog = byId<HTMLDialogElement>("takeover");
  setText(byId("takeover-user"), user);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "move"), { once: true });
  });
}
