// Microphone, loudspeaker, and what the browser does to the sound.
import type { Processing, Session } from "../sdk/index.ts";
import { byId, create } from "./dom.ts";
import { save, settings } from "./settings.ts";

const PROCESSING = ["echoCancellation", "noiseSuppression", "autoGainControl"] as const;

export class DevicesPanel {
  private readonly microphone = byId<HTMLSelectElement>("microphone");
  private readonly speaker = byId<HTMLSelectElement>("speaker");

  constructor(
    private readonly session: () => Session | null,
    private readonly onError: (error: unknown) => void,
  ) {
    this.microphone.addEventListener("change", () => {
      save({ microphone: this.microphone.value });
      this.reopen();
    });
    this.speaker.addEventListener("change", () => {
      save({ speaker: this.speaker.value });
      void this.session()?.setOutputDevice(this.speaker.value);
    });
    for (const name of PROCESSING) {
      const box = byId<HTMLInputElement>(name);
      box.checked = settings.processing[name];
      box.addEventListener("change", () => {
        const processing: Processing = { ...settings.processing, [name]: box.checked };
        save({ processing });
        this.reopen();
      });
    }
    // Only some browsers can choose the loudspeaker.
    byId("speaker-field").hidden = !(
      "AudioContext" in globalThis && "setSinkId" in AudioContext.prototype
    );
    navigator.mediaDevices?.addEventListener("devicechange", () => void this.refresh());
  }

  private reopen(): void {
    this.session()?.setMicrophone(settings.microphone, settings.processing).catch(this.onError);
  }

  /** Names are known only once the microphone has been allowed. */
  async refresh(): Promise<void> {
    const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    const fill = (select: HTMLSelectElement, kind: MediaDeviceKind, chosen: string) => {
      const known = devices.filter((d) => d.kind === kind && d.deviceId !== "" && d.label !== "");
      const named = known.filter((d) => d.deviceId !== "default");
      select.replaceChildren(
        create("option", { value: "" }, "System default"),
        ...named.map((d) => create("option", { value: d.deviceId }, d.label)),
      );
      select.value = named.some((d) => d.deviceId === chosen) ? chosen : "";
    };
    fill(this.microphone, "audioinput", settings.microphone);
    fill(this.speaker, "audiooutput", settings.speaker);
  }
}
