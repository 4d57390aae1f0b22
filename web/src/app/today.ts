// What the user has heard today, out of the server's ledger.
import { endpoint } from "../sdk/index.ts";
import { byId, setText } from "./dom.ts";
import { clock } from "./words.ts";

/** Seconds, lead and understudy, over all voices. Null where the answer is no usage. */
export function totalSeconds(body: unknown): number | null {
  const rows = (body as { usage?: unknown } | null)?.usage;
  if (!Array.isArray(rows)) return null;
  const total = rows.reduce((sum: number, row: Record<string, unknown>) => {
    return sum + Number(row.lead_s) + Number(row.understudy_s);
  }, 0);
  return Number.isFinite(total) ? total : null;
}

export class Today {
  private readonly root = byId("today");
  private asked = 0;

  async load(user: string): Promise<void> {
    this.asked += 1;
    const { asked } = this;
    const total = await fetchTotal(user).catch(() => null);
    // The name may have been changed meanwhile.
    if (asked !== this.asked) return;
    this.root.hidden = total === null;
    if (total !== null) setText(this.root, `today ${clock(total)}`);
  }
}

async function fetchTotal(user: string): Promise<number | null> {
  // The server's days are UTC.
  const from = new Date().toISOString().slice(0, 10);
  const query = new URLSearchParams({ user, from });
  const response = await fetch(`${endpoint().http}/v1/usage?${query}`, { cache: "no-store" });
  return response.ok ? totalSeconds(await response.json()) : null;
}
