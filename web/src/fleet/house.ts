// Where everybody is: who waits, and per region the rented GPUs and the CPUs that are always on.
import { byId, create, setText } from "../app/dom.ts";
import type { Fleet, Session, Worker } from "./fleet-data.ts";
import { count, money } from "./fleet-words.ts";
import { Keyed, type View } from "./keyed.ts";
import type { SeatHost } from "./seats.ts";
import { WorkerCard, type WorkerItem } from "./worker-card.ts";

interface RegionItem {
  readonly name: string;
  readonly workers: readonly WorkerItem[];
  readonly currency: string;
}

class RegionView implements View<RegionItem> {
  readonly root: HTMLElement;
  private readonly facts = create("span", {});
  private readonly empty = create(
    "p",
    { class: "help" },
    "No GPU is rented here now. The next session for this region rents one.",
  );
  private readonly gpuList = create("div", { class: "workers" });
  private readonly cpuList = create("div", { class: "workers cpus" });
  private readonly cpuTitle = create("h4", { class: "kind" }, "Always on, on CPUs");
  private readonly gpus: Keyed<WorkerItem>;
  private readonly cpus: Keyed<WorkerItem>;

  constructor({ name }: RegionItem, host: SeatHost) {
    const list = (parent: HTMLElement) =>
      new Keyed<WorkerItem>(
        parent,
        ({ worker }) => worker.id,
        (item) => new WorkerCard(item, host),
      );
    this.gpus = list(this.gpuList);
    this.cpus = list(this.cpuList);
    this.root = create(
      "section",
      { class: "region", "aria-label": `Region ${name}` },
      create("header", {}, create("h3", {}, name), this.facts),
      this.gpuList,
      this.empty,
      this.cpuTitle,
      this.cpuList,
    );
  }

  update({ workers, currency }: RegionItem): void {
    const rented = workers.filter(({ worker }) => !worker.always_on);
    const always = workers.filter(({ worker }) => worker.always_on);
    this.gpus.update(rented);
    this.cpus.update(always);
    this.empty.hidden = rented.length > 0;
    this.gpuList.hidden = rented.length === 0;
    this.cpuTitle.hidden = always.length === 0;
    this.cpuList.hidden = always.length === 0;
    const perH = rented.reduce((sum, { worker }) => sum + worker.price_per_h, 0);
    const rent = rented.length === 0 ? "" : `, ${money(perH, currency)} / h`;
    setText(this.facts, `${count(rented.length, "GPU")}${rent}`);
  }
}

/** A session that nobody performs, in the line. */
class Waiter implements View<Session> {
  readonly root = create("li", { class: "waiter" });

  update({ session, user, voice }: Session): void {
    this.root.dataset.session = session;
    const who = user ?? voice;
    setText(this.root, who.slice(0, 1).toUpperCase());
    this.root.title = `${who} waits for ${voice}`;
  }
}

export class House {
  readonly root = byId("house");
  private readonly line = byId("line");
  private readonly regions: Keyed<RegionItem>;
  private readonly waiters = new Keyed<Session>(
    byId("waiters"),
    ({ session }) => session,
    () => new Waiter(),
  );

  constructor(host: SeatHost) {
    this.regions = new Keyed<RegionItem>(
      byId("regions"),
      ({ name }) => name,
      (item) => new RegionView(item, host),
    );
  }

  update(fleet: Fleet): void {
    const sessions = new Map(fleet.sessions.map((s) => [s.session, s]));
    const { currency } = fleet.bill;
    const names = new Set([...fleet.regions, ...fleet.workers.map((w) => w.region)]);
    this.regions.update(
      [...names].map((name) => ({
        name,
        currency,
        workers: inOrder(fleet.workers.filter((w) => w.region === name)).map((worker) => ({
          worker,
          sessions,
          nowS: fleet.now_s,
          currency,
        })),
      })),
    );
    const waiting = fleet.sessions.filter((s) => s.role === null && s.worker === null);
    this.waiters.update(waiting);
    // Not `fleet.waiting`: that also counts those whom the understudy covers meanwhile.
    const { length } = waiting;
    setText(byId("line-text"), length === 0 ? "Nobody waits" : `${length} waiting`);
    this.line.dataset.waiting = String(length > 0);
  }

  /** The middle of a session's seat on a worker, else of the worker's card, within the house. */
  spot(worker: string | null, session: string): Spot | null {
    const here = this.root.getBoundingClientRect();
    const id = CSS.escape(session);
    if (worker === null) {
      const waiter = this.line.querySelector(`[data-session="${id}"]`);
      return middle(waiter ?? byId("line-text"), here);
    }
    const card = this.root.querySelector(`[data-worker="${CSS.escape(worker)}"]`);
    const seat = card?.querySelector(`[data-session="${id}"]`);
    const found = seat ?? card?.querySelector(".seats") ?? null;
    return found && middle(found, here);
  }

  card(worker: string): Element | null {
    return this.root.querySelector(`[data-worker="${CSS.escape(worker)}"]`);
  }
}

export interface Spot {
  readonly x: number;
  readonly y: number;
}

function middle(element: Element, within: DOMRect): Spot {
  const { left, top, width, height } = element.getBoundingClientRect();
  return { x: left + width / 2 - within.left, y: top + height / 2 - within.top };
}

/** Oldest first, so that a card keeps its place while others come and go. */
function inOrder(workers: readonly Worker[]): readonly Worker[] {
  return workers.toSorted((a, b) => a.started_s - b.started_s || (a.id < b.id ? -1 : 1));
}
