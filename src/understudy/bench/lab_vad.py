"""Voice activity on speakers and noise that were never trained with, beside silero-vad."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SNRS_DB: Final = (10.0, 0.0)
CHUNK: Final = 512  # samples: what silero-vad takes at once; both are compared on this grid
PAUSE_S: Final = 1.0
CLIP_S: Final = 8.0
RATE_HZ: Final = 16000
MAJORITY: Final = 0.5

Audio = NDArray[np.float32]
Scores = NDArray[np.float64]
Detector = Callable[[Audio], Scores]


def compare(audio: Path, *, quick: bool, progress: Callable[[str], None]) -> dict[str, Any] | None:
    """ROC-AUC over 32 ms chunks, of speech against what is not; None without the recordings.

    "clean": held-out speech against held-out noise; "N dB": both mixed, with the pauses of the
    speech as negatives, too. Speech is where the clean recording has it (`vad_data`).
    """
    from understudy.lab import vad_data

    if not (audio / "librispeech").is_dir() or not (audio / "noise").is_dir():
        return None
    speakers = vad_data.speakers_of(audio / "librispeech")
    noises = vad_data.noises_of(audio / "noise")
    speech = [p for name in sorted(vad_data.halves(list(speakers))[1]) for p in speakers[name]]
    sounds = [p for name in sorted(vad_data.halves(list(noises))[1]) for p in noises[name]]
    if quick:
        speech, sounds = speech[::4], sounds[::2]
    progress(f"voice activity: {len(speech)} utterances, {len(sounds)} noises")
    detectors, size = _detectors()
    areas: dict[str, dict[str, float]] = {}
    conditions: list[float | None] = [None, *SNRS_DB]
    for snr_db in conditions:
        name = "clean" if snr_db is None else f"{snr_db:g} dB"
        clips = _clips(speech, sounds, snr_db)
        areas[name] = {who: _area(detector, clips) for who, detector in detectors.items()}
        progress(f"  {name}: {areas[name]}")
    return {
        "roc_auc": areas,
        "model_bytes": size,
        "speakers": sorted(vad_data.halves(list(speakers))[1]),
        "noises": len(sounds),
        "utterances": len(speech),
    }


def _clips(
    speech: list[Path], sounds: list[Path], snr_db: float | None
) -> list[tuple[Audio, NDArray[np.bool_], NDArray[np.bool_]]]:
    """(audio, speech, counted) of each clip, the latter two by chunk."""
    from understudy.lab import audio as files
    from understudy.lab import vad_data

    noises = [files.read(path, RATE_HZ) for path in sounds]
    out = []
    pause = np.zeros(int(PAUSE_S * RATE_HZ), np.float32)
    for at, path in enumerate(speech):
        clean = files.read(path, RATE_HZ)[: int(CLIP_S * RATE_HZ)]
        clean = np.concatenate([pause, clean, pause])
        active = vad_data.speech_frames(clean)
        truth = _by_chunk(np.repeat(active, vad_data.HOP).astype(np.float64)) > MAJORITY
        if snr_db is None:
            out.append((clean, truth, truth))
            continue
        sound = noises[at % len(noises)]
        whole = np.tile(sound, -(-len(clean) // len(sound)))[: len(clean)]
        mixed = vad_data.mix(clean, whole, snr_db, active)
        out.append((mixed, truth, np.ones(len(truth), bool)))
    for sound in noises:
        chunks = len(sound) // CHUNK
        out.append((sound, np.zeros(chunks, bool), np.ones(chunks, bool)))
    return out


def _area(
    detector: Detector, clips: list[tuple[Audio, NDArray[np.bool_], NDArray[np.bool_]]]
) -> float:
    from understudy.lab.metrics import roc_auc

    scores, truths = [], []
    for samples, truth, counted in clips:
        found = detector(samples)
        chunks = min(len(found), len(truth))
        kept = counted[:chunks]
        scores.append(found[:chunks][kept])
        truths.append(truth[:chunks][kept])
    return round(roc_auc(np.concatenate(scores), np.concatenate(truths)), 4)


def _detectors() -> tuple[dict[str, Detector], int]:
    import torch

    from understudy.lab import checkpoint
    from understudy.lab.vad import shipped

    made = checkpoint.load(shipped())

    def ours(samples: Audio) -> Scores:
        with torch.inference_mode():
            scores = made.net(torch.from_numpy(made.frontend.features(samples)[None]))[0].numpy()
        return _by_chunk(np.repeat(scores[1] - scores[0], made.frontend.hop))

    detectors: dict[str, Detector] = {"understudy": ours}
    if find_spec("silero_vad") is not None:
        from silero_vad import load_silero_vad

        model = load_silero_vad(onnx=True)

        def silero(samples: Audio) -> Scores:
            model.reset_states()
            whole = torch.from_numpy(samples[: len(samples) // CHUNK * CHUNK]).reshape(-1, CHUNK)
            return np.array([float(model(chunk, RATE_HZ)) for chunk in whole])

        detectors["silero-vad"] = silero
    return detectors, (shipped() / checkpoint.BEST).stat().st_size


def _by_chunk(samples: NDArray[Any]) -> Scores:
    chunks = len(samples) // CHUNK
    return np.asarray(samples[: chunks * CHUNK].reshape(chunks, CHUNK).mean(axis=1), np.float64)
