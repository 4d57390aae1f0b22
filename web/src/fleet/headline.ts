// The figures above everything, and the models that do not load.
import { byId, create, setText } from "../app/dom.ts";
import type { Failure, Fleet } from "./fleet-data.ts";
import {
  type Figure,
  limitsFigure,
  liveFigure,
  nowFigure,
  seatsFigure,
  shortRevision,
  todayFigure,
  understudyFigure,
} from "./fleet-words.ts";
import { Keyed, type View } from "./keyed.ts";

const FIGURES: Readonly<Record<string, (fleet: Fleet) => Figure>> = {
  "Live sessions": liveFigure,
  "Seats taken": seatsFigure,
  "Understudy, today": understudyFigure,
  "GPUs, now": ({ bill }) => nowFigure(bill),
  "GPUs, today": ({ bill }) => todayFigure(bill),
  Limits: ({ limits, bill }) => limitsFigure(limits, bill),
};

function notice({ model, revision, reason }: Failure): View<Failure> {
  const name = create("strong", {}, `${model} ${shortRevision(revision)} does not load`);
  const root = create("li", { class: "failure" }, name, create("code", {}, reason));
  return { root, update: () => undefined };
}

export class Headline {
  private readonly cells = new Map<string, { value: HTMLElement; detail: HTMLElement }>();
  private readonly failures = new Keyed<Failure>(
    byId("failures"),
    ({ model, revision, reason }) => `${model} ${revision} ${reason}`,
    notice,
  );

  constructor() {
    const list = byId("figures");
    for (const name of Object.keys(FIGURES)) {
      const value = create("dd", { class: "value" }, "–");
      const detail = create("dd", { class: "detail" });
      this.cells.set(name, { value, detail });
      list.append(create("div", {}, create("dt", {}, name), value, detail));
    }
  }

  update(fleet: Fleet): void {
    for (const [name, figure] of Object.entries(FIGURES)) {
      const { value, detail } = figure(fleet);
      const cell = this.cells.get(name)!;
      setText(cell.value, value);
      setText(cell.detail, detail);
    }
    this.failures.update(fleet.failures);
    byId("failures").hidden = fleet.failures.length === 0;
  }
}
