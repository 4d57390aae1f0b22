// Typed events: a discriminated union on `type`, listened to by type.

type Of<E extends { type: string }, T extends E["type"]> = Extract<E, { type: T }>;

export class Emitter<E extends { type: string }> {
  private readonly listeners = new Map<string, Set<(event: E) => void>>();

  /** Returns the function that stops listening. */
  on<T extends E["type"]>(type: T, listener: (event: Of<E, T>) => void): () => void {
    const set = this.listeners.get(type) ?? new Set();
    this.listeners.set(type, set);
    const entry = listener as (event: E) => void;
    set.add(entry);
    return () => set.delete(entry);
  }

  protected emit(event: E): void {
    for (const listener of [...(this.listeners.get(event.type) ?? [])]) listener(event);
  }
}
