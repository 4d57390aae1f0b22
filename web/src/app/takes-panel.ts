// Recordings: listed under the stage, downloaded as WAV.
import { encodeWav, type Recording } from "../sdk/index.ts";
import { byId, create } from "./dom.ts";
import { clock } from "./words.ts";

const KEPT = 5;

export class TakesPanel {
  private readonly section = byId("takes");
  private readonly list = byId("take-list");
  private count = 0;

  add({ sampleRate, input, output }: Recording, voiceName: string): void {
    if (input.length === 0) return;
    this.count += 1;
    const name = `Take ${this.count}`;
    const file = `understudy-${voiceName}-${this.count}`;
    const item = create(
      "li",
      {},
      create("strong", {}, name),
      create("span", {}, `${voiceName}, ${clock(output.length / sampleRate)}`),
      link(`Voice`, `${name}: download the voice as WAV`, `${file}.wav`, [output], sampleRate),
      link(
        `You + voice`,
        `${name}: download both as stereo WAV`,
        `${file}-both.wav`,
        [input, output],
        sampleRate,
      ),
    );
    this.list.prepend(item);
    this.section.hidden = false;
    while (this.list.childElementCount > KEPT) {
      const oldest = this.list.lastElementChild;
      for (const a of oldest?.querySelectorAll("a") ?? []) URL.revokeObjectURL(a.href);
      oldest?.remove();
    }
  }
}

function link(
  text: string,
  label: string,
  file: string,
  channels: readonly Int16Array[],
  sampleRate: number,
): HTMLElement {
  const wav = new Blob([encodeWav(channels, sampleRate)], { type: "audio/wav" });
  const href = URL.createObjectURL(wav);
  return create("a", { class: "secondary small", href, download: file, "aria-label": label }, text);
}
