// WAV files: 16-bit PCM, one channel or several of equal length.

export function encodeWav(channels: readonly Int16Array[], sampleRate: number): ArrayBuffer {
  const count = channels.length;
  const samples = channels[0]?.length ?? 0;
  if (count === 0 || channels.some((c) => c.length !== samples)) {
    throw new RangeError("a WAV file needs channels of equal length");
  }
  const dataBytes = samples * count * 2;
  const file = new ArrayBuffer(44 + dataBytes);
  const view = new DataView(file);
  const text = (at: number, s: string) => {
    for (let i = 0; i < s.length; i++) view.setUint8(at + i, s.charCodeAt(i));
  };
  text(0, "RIFF");
  view.setUint32(4, 36 + dataBytes, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, count, true);
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, sampleRate * count * 2, true);
  view.setUint16(32, count * 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, dataBytes, true);
  let at = 44;
  for (let i = 0; i < samples; i++) {
    for (const channel of channels) {
      view.setInt16(at, channel[i]!, true);
      at += 2;
    }
  }
  return file;
}
