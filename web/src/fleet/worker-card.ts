// One worker: its model, what it is doing, what it costs, and its seats.
import { create, setText } from "../app/dom.ts";
import type { Session, Worker } from "./fleet-data.ts";
import { money, shortRevision, since, stageWords } from "./fleet-words.ts";
import type { View } from "./keyed.ts";
import { type SeatHost, Seats, seatItems } from "./seats.ts";

export interface WorkerItem {
  readonly worker: Worker;
  readonly sessions: ReadonlyMap<string, Session>;
  readonly nowS: number;
  readonly currency: string;
}

function facts({ boot_s, started_s, stage }: Worker, nowS: number): string {
  if (stage === "loading") return boot_s === null ? "first boot" : `boots in ${since(boot_s)}`;
  return `up ${since(nowS - started_s)}`;
}

export class WorkerCard implements View<WorkerItem> {
  readonly root: HTMLElement;
  private readonly stage = create("span", {});
  private readonly taken = create("span", { class: "taken" });
  private readonly price = create("span", { class: "price" });
  private readonly facts = create("span", {});
  private readonly bar = create("progress", { class: "bar", max: "1", "aria-label": "Loading" });
  private readonly seats: Seats;

  constructor(item: WorkerItem, host: SeatHost) {
    const { id, model, revision, always_on } = item.worker;
    this.seats = new Seats(item.worker, host);
    const title = create("h4", {}, model);
    const code = create("code", { title: `revision ${revision}` }, shortRevision(revision));
    this.root = create(
      "article",
      { class: always_on ? "worker cpu" : "worker", "aria-label": `${model} on ${id}` },
      create("header", {}, title, code, this.price),
      create("p", { class: "doing" }, create("i", { class: "dot" }), this.stage, this.taken),
      this.bar,
      this.seats.root,
      create("footer", {}, create("span", { class: "worker-id", title: id }, id), this.facts),
    );
    this.update(item);
  }

  update({ worker, sessions, nowS, currency }: WorkerItem): void {
    const loading = worker.stage === "loading";
    this.root.dataset.stage = worker.stage;
    this.root.dataset.worker = worker.id;
    setText(this.stage, stageWords(worker));
    setText(this.taken, loading ? "" : `${worker.seats.length} of ${worker.slots}`);
    setText(this.price, `${money(worker.price_per_h, currency)} / h`);
    setText(this.facts, facts(worker, nowS));
    this.bar.hidden = !loading;
    this.bar.value = Math.min(Math.max(worker.progress, 0), 1);
    this.seats.update(seatItems(worker, sessions));
  }
}
