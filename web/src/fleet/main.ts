// The fleet page: asks, then hands the answer to its panels.
import { byId, setText } from "../app/dom.ts";
import { bindTheme } from "../app/theme.ts";
import { endpoint } from "../sdk/endpoint.ts";
import { AdminKey } from "./admin-key.ts";
import { Chart } from "./chart.ts";
import type { Fleet, Move } from "./fleet-data.ts";
import { spokenSummary, timeOfDay } from "./fleet-words.ts";
import { Flights } from "./flights.ts";
import { Headline } from "./headline.ts";
import { History, sampleOf } from "./history.ts";
import { House, type Spot } from "./house.ts";
import { kindOf, MoveNews } from "./moves.ts";
import { MovesPanel } from "./moves-panel.ts";
import { Poller } from "./poller.ts";
import { SessionsTable } from "./sessions-table.ts";
import { Tip } from "./tip.ts";

/** A screen reader hears of changes at most this often. */
const SPEAK_EVERY_S = 20;

const tip = new Tip();
const table = new SessionsTable();
const house = new House({
  tell: (seat, sentence) => tip.show(seat, sentence),
  hush: () => tip.hide(),
  pick: (session) => table.show(session),
});
const flights = new Flights(document.querySelector<SVGSVGElement>("#flights")!, house);
const headline = new Headline();
const moves = new MovesPanel();
const chart = new Chart();
const history = new History();
const news = new MoveNews();
const key = new AdminKey(() => void poller.poll());
let spokenAtS = 0;

function show(fleet: Fleet): void {
  byId("banner").hidden = true;
  key.answered(fleet.private);
  document.documentElement.classList.remove("stale");
  const fresh = news.take(fleet.moves, fleet.now_s);
  // Seats are looked up before the update, since a moved session leaves its old one.
  const starts = fresh.map((move) => house.spot(move.source, move.session));
  headline.update(fleet);
  house.update(fleet);
  table.update(fleet.sessions);
  moves.update(fleet.moves);
  history.push(sampleOf(fleet));
  chart.update(history.samples, fleet.bill.currency);
  if (document.visibilityState === "visible") draw(fresh, starts);
  setText(byId("as-of"), `as of ${timeOfDay(fleet.now_s)}`);
  if (Math.abs(fleet.now_s - spokenAtS) < SPEAK_EVERY_S) return;
  spokenAtS = fleet.now_s;
  setText(byId("spoken"), spokenSummary(fleet));
}

function draw(fresh: readonly Move[], starts: readonly (Spot | null)[]): void {
  flights.fly(
    fresh.flatMap((move, index) => {
      const from = starts[index] ?? house.spot(null, move.session);
      const to = house.spot(move.target, move.session);
      if (from === null || to === null) return [];
      return [{ from, to, kind: kindOf(move), target: move.target }];
    }),
  );
}

function trouble(sentence: string): void {
  setText(byId("banner-text"), sentence);
  byId("banner").hidden = false;
  document.documentElement.classList.add("stale");
}

const poller = new Poller({
  url: `${endpoint().http}/v1/fleet`,
  fetch: (url, init) => fetch(url, init),
  headers: () => key.headers(),
  hidden: () => document.visibilityState === "hidden",
  onFleet: show,
  onTrouble: trouble,
  onWrongKey: (sentence) => key.refused(sentence),
});

bindTheme();
document.addEventListener("visibilitychange", () => void poller.poll());
void poller.poll();
