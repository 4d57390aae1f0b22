// Keeps a phone awake while live; the browser lets go whenever the page is hidden.

export class WakeLock {
  private wanted = false;
  private lock: WakeLockSentinel | null = null;

  constructor() {
    document.addEventListener("visibilitychange", () => void this.sync());
  }

  set(wanted: boolean): void {
    this.wanted = wanted;
    void this.sync();
  }

  private async sync(): Promise<void> {
    if (this.wanted && this.lock === null && document.visibilityState === "visible") {
      try {
        this.lock = await navigator.wakeLock.request("screen");
        this.lock.addEventListener("release", () => {
          this.lock = null;
        });
      } catch {
        // Not supported, or refused on low battery: the screen may sleep.
      }
    }
    if (!this.wanted) {
      await this.lock?.release();
      this.lock = null;
    }
  }
}
