// The last moves, newest first.
import { byId, create } from "../app/dom.ts";
import type { Move } from "./fleet-data.ts";
import { KIND_WORDS, timeOfDay } from "./fleet-words.ts";
import { Keyed, type View } from "./keyed.ts";
import { kindOf } from "./moves.ts";

function item(move: Move): View<Move> {
  const kind = kindOf(move);
  const way = create(
    "span",
    { class: "way" },
    create("span", {}, move.source ?? "waiting"),
    create("span", { class: "arrow", role: "img", "aria-label": "to" }, "→"),
    create("span", {}, move.target),
  );
  const root = create(
    "li",
    { class: kind },
    create("time", { datetime: new Date(move.at_s * 1000).toISOString() }, timeOfDay(move.at_s)),
    create("strong", {}, move.voice),
    create("span", { class: "tag" }, KIND_WORDS[kind]),
    way,
    create("span", { class: "reason" }, move.why),
  );
  return { root, update: () => undefined };
}

export class MovesPanel {
  private readonly empty = byId("moves-empty");
  private readonly list = new Keyed<Move>(
    byId("moves"),
    // A server that has started anew gives the same numbers again.
    ({ seq, at_s }) => `${seq} ${at_s}`,
    item,
  );

  update(moves: readonly Move[]): void {
    this.empty.hidden = moves.length > 0;
    this.list.update(moves.toReversed());
  }
}
