// The fleet in words and figures. Pure.
import { about, clock, seconds } from "../app/words.ts";
import type { Bill, Fleet, Limits, Session, Stage, Worker } from "./fleet-data.ts";
import type { MoveKind } from "./moves.ts";

export function money(amount: number, currency: string): string {
  // Parts of a cent count where there are few cents.
  const cents = Math.abs(amount) * 100;
  const digits = cents < 9.5 && Math.abs(cents - Math.round(cents)) > 0.05 ? 3 : 2;
  return `${amount < 0 ? "−" : ""}${currency}${Math.abs(amount).toFixed(digits)}`;
}

/** How long something has been so: "8 s", "12 min", "3 h 05", "3 days". */
export function since(s: number): string {
  if (s < 3600) return seconds(Math.max(s, 1));
  return s < 48 * 3600 ? hours(s) : `${Math.floor(s / 86_400)} days`;
}

function hours(s: number): string {
  const minutes = Math.floor(s / 60);
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")}`;
}

/** Time heard: "10:32", or "17 h 12" where it is hours. */
export function heard(s: number): string {
  return s < 3600 ? clock(s) : hours(s);
}

export function percent(share: number): string {
  const value = share * 100;
  return `${value >= 10 || value === 0 ? Math.round(value) : value.toFixed(1)} %`;
}

export function shortRevision(revision: string): string {
  return revision.slice(0, 8);
}

export function timeOfDay(atS: number): string {
  return new Date(atS * 1000).toLocaleTimeString([], { hour12: false });
}

export function stageWords(worker: Worker): string {
  const eta = worker.eta_s === null ? "" : `, ${about(worker.eta_s)}`;
  const words: Readonly<Record<Stage, string>> = {
    loading: `loading ${Math.floor(worker.progress * 100)} %${eta}`,
    ready: "ready",
    draining: "draining",
  };
  return words[worker.stage];
}

/** Why it is as it is: "the lead is loading, about 6 s (local-77)". */
export function whyWords({ why, eta_s, coming }: Session): string {
  if (why === "") return "";
  const eta = eta_s === null ? "" : `, ${about(eta_s)}`;
  return `${why}${eta}${coming === null ? "" : ` (${coming})`}`;
}

export const KIND_WORDS: Readonly<Record<MoveKind, string>> = {
  first: "start",
  planned: "planned",
  unplanned: "unplanned",
};

/** A figure of the headline and the line below it. */
export interface Figure {
  readonly value: string;
  readonly detail: string;
}

export function liveFigure({ sessions, waiting }: Fleet): Figure {
  const covered = sessions.filter((s) => s.role === "understudy").length;
  const live = sessions.filter((s) => s.role !== null).length;
  const parts = [waiting === 0 ? "nobody waits" : `${waiting} waiting for a lead`];
  if (covered > 0) parts.push(`${covered} with the understudy`);
  return { value: String(live), detail: parts.join(" · ") };
}

export function seatsFigure({ workers }: Fleet): Figure {
  const rented = workers.filter((w) => !w.always_on);
  const up = rented.filter((w) => w.stage !== "loading");
  const slots = up.reduce((sum, w) => sum + w.slots, 0);
  const taken = up.reduce((sum, w) => sum + w.seats.length, 0);
  const loading = rented.length - up.length;
  const more = loading > 0 ? `, ${loading} loading` : "";
  return { value: `${taken} of ${slots}`, detail: `on ${count(up.length, "GPU")}${more}` };
}

export function understudyFigure({ minutes }: Fleet): Figure {
  const { lead_today_s: lead, understudy_today_s: understudy } = minutes;
  const all = lead + understudy;
  const share = all === 0 ? 0 : understudy / all;
  return {
    value: heard(understudy),
    detail: `${percent(share)} of ${heard(all)} heard today`,
  };
}

export function nowFigure({ per_h, cpu_per_h, currency }: Bill): Figure {
  return {
    value: `${money(per_h, currency)} / h`,
    detail: `and ${money(cpu_per_h, currency)} / h for CPUs`,
  };
}

export function todayFigure({ today, bound_today, cpu_today, currency }: Bill): Figure {
  const ratio = bound_today > 0 ? `×${(today / bound_today).toFixed(2)} of the ` : "";
  return {
    value: money(today, currency),
    detail: `${ratio}lower bound ${money(bound_today, currency)} · CPUs ${money(cpu_today, currency)}`,
  };
}

export function limitsFigure({ max_nodes, budget_per_h, patience }: Limits, bill: Bill): Figure {
  const value = max_nodes === null ? "None" : `${count(max_nodes, "GPU")}`;
  const budget =
    budget_per_h === null ? "no budget" : `at most ${money(budget_per_h, bill.currency)} / h`;
  const patient = patience === null ? "" : ` · patience ${seconds(patience)}`;
  return { value, detail: `${budget}${patient}` };
}

export function count(n: number, noun: string): string {
  return `${n} ${noun}${n === 1 ? "" : "s"}`;
}

/** For a screen reader, seldom. */
export function spokenSummary(fleet: Fleet): string {
  const live = liveFigure(fleet);
  const rented = fleet.workers.filter((w) => !w.always_on);
  return `${live.value} live, ${live.detail}; ${count(rented.length, "GPU")} rented.`;
}
