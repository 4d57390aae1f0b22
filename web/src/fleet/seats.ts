// The slots of a worker as seats that fill and empty.
import { create } from "../app/dom.ts";
import type { Seat, Session, Worker } from "./fleet-data.ts";
import { Keyed, type View } from "./keyed.ts";

/** From here on, seats are small and have no letter. */
const MANY = 9;

export interface SeatItem {
  readonly slot: number;
  readonly seat: Seat | null;
  /** Null: the seat is free, or its session is not in the list. */
  readonly session: Session | null;
}

/** Where it is said who sits there: one tooltip for all seats. */
export interface SeatHost {
  tell(seat: HTMLElement, sentence: string): void;
  hush(): void;
  pick(session: string): void;
}

export function seatItems(
  worker: Worker,
  sessions: ReadonlyMap<string, Session>,
): readonly SeatItem[] {
  const taken = new Map(worker.seats.map((seat) => [seat.slot, seat]));
  return Array.from({ length: worker.slots }, (_, slot) => {
    const seat = taken.get(slot) ?? null;
    return { slot, seat, session: seat && (sessions.get(seat.session) ?? null) };
  });
}

/** "alice · miku · lead · session 4f2a98c1". */
export function seatSentence({ seat, session }: SeatItem): string {
  if (seat === null) return "Free";
  const who = session === null ? [] : [session.user ?? "no name", session.voice];
  return [...who, seat.role, `session ${seat.session.slice(0, 8)}`].join(" · ");
}

class SeatView implements View<SeatItem> {
  readonly root: HTMLElement;
  private readonly button = create("button", { class: "seat", type: "button" });
  private sentence = "";

  constructor(
    item: SeatItem,
    private readonly small: boolean,
    private readonly host: SeatHost,
  ) {
    this.root = create("li", {}, this.button);
    const tell = () => host.tell(this.button, this.sentence);
    for (const type of ["pointerenter", "focus"]) this.button.addEventListener(type, tell);
    for (const type of ["pointerleave", "blur"]) {
      this.button.addEventListener(type, () => host.hush());
    }
    this.button.addEventListener("click", () => {
      tell();
      const { session } = this.button.dataset;
      if (session !== undefined) this.host.pick(session);
    });
    this.update(item);
  }

  update(item: SeatItem): void {
    const { seat, session, slot } = item;
    const sentence = seatSentence(item);
    if (sentence === this.sentence) return;
    this.sentence = sentence;
    const { button } = this;
    button.disabled = seat === null;
    button.dataset.role = seat?.role ?? "free";
    if (seat === null) delete button.dataset.session;
    else button.dataset.session = seat.session;
    button.setAttribute("aria-label", `Slot ${slot + 1}: ${sentence}`);
    const name = session === null ? "" : (session.user ?? session.voice);
    // A tooltip must not go on about somebody who has left.
    if (button.matches(":hover, :focus")) {
      if (seat === null) this.host.hush();
      else this.host.tell(button, sentence);
    }
    button.textContent = this.small ? "" : name.slice(0, 1).toUpperCase();
  }
}

export class Seats {
  readonly root = create("ul", { class: "seats" });
  private readonly list: Keyed<SeatItem>;

  constructor(worker: Worker, host: SeatHost) {
    const small = worker.slots >= MANY;
    this.root.classList.toggle("small", small);
    this.root.setAttribute("aria-label", "Slots");
    this.list = new Keyed(
      this.root,
      (item) => String(item.slot),
      (item) => new SeatView(item, small, host),
    );
  }

  update(items: readonly SeatItem[]): void {
    this.list.update(items);
  }
}
