// A list of elements that follows a list of items: each item keeps its element, so that focus,
// hover and transitions outlive an update.

export interface View<T> {
  readonly root: HTMLElement;
  update(item: T): void;
}

export class Keyed<T> {
  private readonly views = new Map<string, View<T>>();

  constructor(
    private readonly parent: HTMLElement,
    private readonly keyOf: (item: T) => string,
    private readonly make: (item: T) => View<T>,
  ) {}

  get(key: string): View<T> | undefined {
    return this.views.get(key);
  }

  update(items: readonly T[]): void {
    const gone = new Set(this.views.keys());
    for (const [index, item] of items.entries()) {
      const key = this.keyOf(item);
      gone.delete(key);
      let view = this.views.get(key);
      if (view === undefined) {
        view = this.make(item);
        this.views.set(key, view);
      }
      view.update(item);
      const there = this.parent.children[index] ?? null;
      if (there !== view.root) this.parent.insertBefore(view.root, there);
    }
    for (const key of gone) {
      this.views.get(key)?.root.remove();
      this.views.delete(key);
    }
  }
}
