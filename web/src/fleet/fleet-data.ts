// What `GET /v1/fleet` answers: types, and a parser that says where an answer is wrong. Pure.
// The names are the wire's own. Fields that this page does not know are ignored.
import { arrayOf, boolean, number, object, oneOf, orNull, type Parse, string } from "./parse.ts";

const STAGES = ["loading", "ready", "draining"] as const;
const ROLES = ["lead", "understudy"] as const;
const STATES = ["waiting", "opening", "live", "moving", "flushing", "detached", "leaving"] as const;

export type Stage = (typeof STAGES)[number];
export type Role = (typeof ROLES)[number];
export type State = (typeof STATES)[number];

const seat = object({ slot: number, session: string, role: oneOf(ROLES) });

const worker = object({
  id: string,
  model: string,
  revision: string,
  region: string,
  stage: oneOf(STAGES),
  progress: number,
  eta_s: orNull(number),
  boot_s: orNull(number),
  slots: number,
  price_per_h: number,
  always_on: boolean,
  since_s: number,
  started_s: number,
  seats: arrayOf(seat),
});

const session = object({
  session: string,
  user: orNull(string),
  voice: string,
  region: string,
  state: oneOf(STATES),
  role: orNull(oneOf(ROLES)),
  worker: orNull(string),
  coming: orNull(string),
  why: string,
  eta_s: orNull(number),
  started_s: number,
  lead_s: number,
  understudy_s: number,
  silent_s: number,
});

const move = object({
  seq: number,
  at_s: number,
  session: string,
  voice: string,
  source: orNull(string),
  target: string,
  why: string,
});

const bill = object({
  per_h: number,
  today: number,
  bound_today: number,
  cpu_per_h: number,
  cpu_today: number,
  currency: string,
});

const minutes = object({ lead_today_s: number, understudy_today_s: number });

const limits = object({
  max_nodes: orNull(number),
  budget_per_h: orNull(number),
  patience: orNull(number),
});

const failure = object({ model: string, revision: string, reason: string });

export const parseFleet = object({
  now_s: number,
  regions: arrayOf(string),
  workers: arrayOf(worker),
  sessions: arrayOf(session),
  moves: arrayOf(move),
  waiting: number,
  bill,
  minutes,
  limits,
  failures: arrayOf(failure),
  private: boolean,
});

type Parsed<P> = P extends Parse<infer T> ? T : never;
export type Fleet = Parsed<typeof parseFleet>;
export type Worker = Parsed<typeof worker>;
export type Seat = Parsed<typeof seat>;
export type Session = Parsed<typeof session>;
export type Move = Parsed<typeof move>;
export type Bill = Parsed<typeof bill>;
export type Limits = Parsed<typeof limits>;
export type Failure = Parsed<typeof failure>;
