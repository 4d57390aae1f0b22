// The sessions, one a row: who is heard, who performs, and why.
import { byId, create, setText } from "../app/dom.ts";
import { clock } from "../app/words.ts";
import type { Session } from "./fleet-data.ts";
import { whyWords } from "./fleet-words.ts";
import { Keyed, type View } from "./keyed.ts";

function performs({ role, worker }: Session): string {
  if (role === null) return "nobody yet";
  return worker === null ? role : `${role} on ${worker}`;
}

function cell(name: string, ...children: Node[]): HTMLTableCellElement {
  return create("td", { class: name, role: "cell" }, ...children);
}

class Row implements View<Session> {
  readonly root = create("tr", { role: "row", tabindex: "-1" });
  private readonly voice = create("strong", {});
  private readonly user = cell("user");
  private readonly userBelow = create("span", { class: "user-below" });
  private readonly badge = create("span", { class: "tag" });
  private readonly who = create("span", { class: "who" });
  private readonly why = create("span", { class: "reason" });
  private readonly lead = cell("lead");
  private readonly understudy = cell("understudy");
  private readonly silent = cell("silent");

  constructor() {
    this.root.append(
      create("th", { scope: "row", role: "rowheader" }, this.voice, this.userBelow),
      this.user,
      cell("status", this.badge),
      cell("performs", create("i", { class: "dot" }), this.who, this.why),
      this.lead,
      this.understudy,
      this.silent,
    );
  }

  update(session: Session): void {
    this.root.dataset.role = session.role ?? "nobody";
    this.root.title = `session ${session.session}`;
    setText(this.voice, session.voice);
    setText(this.user, session.user ?? "—");
    setText(this.userBelow, session.user ?? "—");
    setText(this.badge, session.state);
    setText(this.who, performs(session));
    setText(this.why, whyWords(session));
    setText(this.lead, clock(session.lead_s));
    setText(this.understudy, clock(session.understudy_s));
    setText(this.silent, session.silent_s.toFixed(1));
  }
}

export class SessionsTable {
  private readonly empty = byId("sessions-empty");
  private readonly table = byId("sessions-table");
  private readonly rows = new Keyed<Session>(
    byId("sessions"),
    ({ session }) => session,
    () => new Row(),
  );

  update(sessions: readonly Session[]): void {
    this.empty.hidden = sessions.length > 0;
    this.table.hidden = sessions.length === 0;
    this.rows.update(sessions.toSorted((a, b) => a.started_s - b.started_s));
  }

  /** From a seat to its row. */
  show(session: string): void {
    const row = this.rows.get(session)?.root;
    row?.scrollIntoView({ block: "nearest" });
    row?.focus({ preventScroll: true });
  }
}
