// Moves as they happen: a dot flies in an arc from the old seat to the new one.
import type { House, Spot } from "./house.ts";
import type { MoveKind } from "./moves.ts";

const SVG = "http://www.w3.org/2000/svg";
const FLIGHT_MS = 1100;
const FADE_MS = 700;
/** So many at once, one after the other: more would be noise. */
const MOST = 12;
const APART_MS = 90;

export interface Flight {
  readonly from: Spot;
  readonly to: Spot;
  readonly kind: MoveKind;
  readonly target: string;
}

/** The middle control point of the arc: above the straight line, higher for longer ways. */
export function arc(from: Spot, to: Spot): Spot {
  const lift = Math.min(90, 24 + Math.hypot(to.x - from.x, to.y - from.y) * 0.22);
  return { x: (from.x + to.x) / 2, y: Math.min(from.y, to.y) - lift };
}

/** On the quadratic curve, 0 to 1. */
export function along(from: Spot, control: Spot, to: Spot, t: number): Spot {
  const u = 1 - t;
  const mix = (a: number, b: number, c: number) => u * u * a + 2 * u * t * b + t * t * c;
  return { x: mix(from.x, control.x, to.x), y: mix(from.y, control.y, to.y) };
}

function shape<K extends "path" | "circle">(name: K, attributes: Record<string, string>) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

const easeInOut = (t: number) => (t < 0.5 ? 2 * t * t : 1 - (2 - 2 * t) ** 2 / 2);

export class Flights {
  private readonly calm = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(
    private readonly layer: SVGSVGElement,
    private readonly house: House,
  ) {}

  fly(flights: readonly Flight[]): void {
    for (const [index, flight] of flights.slice(-MOST).entries()) {
      setTimeout(() => this.one(flight), index * APART_MS);
    }
  }

  private one({ from, to, kind, target }: Flight): void {
    const control = arc(from, to);
    const d = `M${from.x} ${from.y}Q${control.x} ${control.y} ${to.x} ${to.y}`;
    const path = shape("path", { d, class: `flight ${kind}`, pathLength: "1" });
    this.layer.append(path);
    const arrive = () => this.land(path, target);
    if (this.calm.matches) {
      // No motion: the way stands still for a moment.
      path.classList.add("still");
      setTimeout(arrive, FLIGHT_MS);
      return;
    }
    const dot = shape("circle", { r: "6", class: `flight-dot ${kind}` });
    this.layer.append(dot);
    const startedAt = performance.now();
    const step = (now: number) => {
      const t = Math.min(1, Math.max(0, now - startedAt) / FLIGHT_MS);
      const eased = easeInOut(t);
      const { x, y } = along(from, control, to, eased);
      dot.setAttribute("transform", `translate(${x} ${y})`);
      path.style.strokeDashoffset = String(1 - eased);
      if (t < 1) {
        requestAnimationFrame(step);
        return;
      }
      dot.remove();
      arrive();
    };
    requestAnimationFrame(step);
  }

  private land(path: SVGElement, target: string): void {
    path.classList.add("gone");
    const card = this.house.card(target);
    card?.classList.add("arrived");
    setTimeout(() => {
      path.remove();
      card?.classList.remove("arrived");
    }, FADE_MS);
  }
}
